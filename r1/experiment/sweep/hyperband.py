"""``early_terminate: hyperband`` as W&B's engine does it: at a band, a run outside the best 1/eta is pruned.

A run's history is the list of the values that it has logged, however many steps lie between them. This is not the
algorithm of Li et al. 2018, but the rule of https://docs.wandb.ai/guides/sweeps/sweep-config-keys.
"""

from __future__ import annotations

from collections.abc import Sequence

from r1.experiment.sweep.distributions import Spec


class Hyperband:
    """The rule of one sweep. A band is a number of logged values at which runs are compared."""

    def __init__(self, spec: Spec, goal: str) -> None:
        self.eta: float = spec.get("eta", 3)
        self.strict: bool = spec.get("strict", True)
        self.sign = -1 if goal == "maximize" else 1
        self.min_iter: int = spec.get("min_iter", 1)
        self.bands = bands_from_max_iter(spec)

    def should_stop(self, history: Sequence[float], histories: Sequence[Sequence[float]]) -> bool:
        """Whether to stop a run.

        Args:
            history: the run's.
            histories: of all runs of the sweep, this one included, running or not.
        """
        reached = [band for band in (self.bands or self._bands_from_min_iter(len(history))) if band <= len(history)]
        if not reached:
            return False
        band = max(reached)
        at_band = sorted(self.sign * other[band - 1] for other in histories if len(other) >= band)
        values = [self.sign * value for value in history]
        # not strict: a run that was good enough at any time, also after the band, continues
        return (values[band - 1] if self.strict else min(values)) > at_band[int(1.0 / self.eta * len(at_band))]

    def _bands_from_min_iter(self, length: int) -> list[int]:
        """``min_iter`` times every power of eta, up to a history's length."""
        bands, band = list[int](), float(self.min_iter)
        while int(band) <= length:
            bands.append(int(band))
            band *= self.eta
        return bands


def bands_from_max_iter(spec: Spec) -> list[int]:
    """``max_iter`` over the first ``s`` powers of eta, down to 1; empty where bands start at ``min_iter``."""
    bands, band = list[int](), float(spec.get("max_iter", 0))
    for _ in range(spec.get("s", 0)):
        band /= spec.get("eta", 3)
        bands += [int(band)] if band >= 1 else []
    return bands
