"""``early_terminate: hyperband`` as W&B's engine does it: at a band, a run outside the best 1/eta is stopped.

A run's history is the list of the values that it has logged, however many steps lie between them. Not Li et al. 2018
itself, but the rule of https://docs.wandb.ai/guides/sweeps/sweep-config-keys.
"""

from __future__ import annotations

from collections.abc import Sequence

from r1.errors import UserError, nearest, null
from r1.sweep.file import Spec

KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")


class Hyperband:
    """The rule of one sweep.

    Raises:
        UserError: what is wrong with its specification.
    """

    def __init__(self, spec: Spec, goal: str) -> None:
        check(spec)
        self.eta: float = spec.get("eta", 3)
        self.strict: bool = spec.get("strict", True)
        self.sign = -1 if goal == "maximize" else 1
        self.bands = _down(spec["max_iter"], self.eta, spec["s"]) if "max_iter" in spec else []
        self.first: int | None = None if "max_iter" in spec else spec["min_iter"]

    def stops(self, own: Sequence[float], histories: Sequence[Sequence[float]]) -> bool:
        """Whether a run is to be stopped.

        Args:
            own: its history.
            histories: of all runs of the sweep, its own included, whether they go on or not.
        """
        reached = [band for band in (self.bands or self._up(len(own))) if band <= len(own)]
        if not reached:
            return False
        band = max(reached)
        at_band = sorted(self.sign * history[band - 1] for history in histories if len(history) >= band)
        values = [self.sign * value for value in own]
        return (values[band - 1] if self.strict else min(values)) > at_band[int(1.0 / self.eta * len(at_band))]

    def _up(self, length: int) -> list[int]:
        """``min_iter`` times every power of eta, up to a history's length."""
        found, band = list[int](), float(self.first or 1)
        while int(band) <= length:
            found.append(int(band))
            band *= self.eta
        return found


def _down(last: int, eta: float, count: int) -> list[int]:
    """``max_iter`` over the first ``count`` powers of eta, down to 1."""
    found, band = list[int](), float(last)
    for _ in range(count):
        band /= eta
        found += [int(band)] if band >= 1 else []
    return found


def check(spec: Spec) -> None:
    def wrong(key: str, allowed: str) -> UserError:
        where = f"early_terminate.{key}"
        return UserError(
            "this does not say when to stop a run", where=where, given=null(spec.get(key)), allowed=allowed
        )

    for key in spec:
        if key not in KEYS:
            do = nearest(str(key), KEYS)
            raise UserError("unknown key", where=f"early_terminate.{key}", given=null(spec[key]), allowed=KEYS, do=do)
    if spec.get("type") != "hyperband":
        raise wrong("type", "hyperband")
    numbers = {key: spec[key] for key in ("min_iter", "max_iter", "s", "eta") if key in spec}
    for key, value in numbers.items():
        least = 1 if key != "eta" else 1.0000001
        if isinstance(value, bool) or not isinstance(value, int | float if key == "eta" else int) or value < least:
            raise wrong(key, "a number above 1" if key == "eta" else "a whole number from 1")
    if not isinstance(spec.get("strict", True), bool):
        raise wrong("strict", "true or false")
    if ("max_iter" in spec) != ("s" in spec) or not spec.keys() & {"min_iter", "max_iter"}:
        raise wrong("s" if "max_iter" in spec else "max_iter", "min_iter, or max_iter and s")
    if "max_iter" in spec and not _down(spec["max_iter"], spec.get("eta", 3), spec["s"]):
        raise wrong("max_iter", f"at least eta, {spec.get('eta', 3)}")
