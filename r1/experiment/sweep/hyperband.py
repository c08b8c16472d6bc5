"""``early_terminate: hyperband`` as W&B's engine does it: at a band, a run outside the best 1/eta is stopped.

A run's history is the list of the values that it has logged, however many steps lie between them. Not Li et al. 2018
itself, but the rule of https://docs.wandb.ai/guides/sweeps/sweep-config-keys.
"""

from __future__ import annotations

from collections.abc import Sequence

from r1.experiment.sweep.parameters import Spec


class Hyperband:
    """The rule of one sweep."""

    def __init__(self, spec: Spec, goal: str) -> None:
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
