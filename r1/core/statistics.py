"""Estimates with 95 % intervals: over prompts, over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Z95 = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval and the number of samples behind it.

    Attributes:
        low, high: the interval; None: unknown, as for a single seed.
    """

    value: float
    low: float | None
    high: float | None
    n: int

    @property
    def text(self) -> str:
        return f"{self.value:.{self._digits}f}"

    @property
    def interval(self) -> str:
        """``0.352 to 0.390``; empty where it is unknown."""
        if self.low is None or self.high is None:
            return ""
        return f"{self.low:.{self._digits}f} to {self.high:.{self._digits}f}"

    @property
    def _digits(self) -> int:
        return 3 if abs(self.value) < 10 else 1

    def __str__(self) -> str:
        """``0.371 (0.352 to 0.390)``."""
        return f"{self.text} ({self.interval})" if self.interval else self.text


def proportion(scores: Sequence[float], num_samples: int) -> Estimate:
    """Mean of per-prompt scores in [0, 1] with a Wilson interval on the effective sample size.

    The effective size is p(1 - p) / se^2 with se the standard error over prompts (samples of one prompt are not
    independent), between P and P * n; at 0 or 1 it is P, so the interval never collapses to a point. scipy's Wilson
    interval takes integer counts only, and the effective size is not one.
    """
    count = len(scores)
    p = sum(scores) / count
    se2 = sum((s - p) ** 2 for s in scores) / max(count - 1, 1) / count
    size = min(max(p * (1 - p) / se2, count), count * num_samples) if se2 > 0 else count
    centre = (p + Z95**2 / (2 * size)) / (1 + Z95**2 / size)
    half = Z95 / (1 + Z95**2 / size) * math.sqrt(p * (1 - p) / size + Z95**2 / (4 * size**2))
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half), count * num_samples)


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """The mean over n seeds with its 95 % interval by Student's t, unknown for one seed; n is the number of seeds."""
    from scipy import stats  # slow to import, and most commands never get here

    n = len(values)
    if n == 1:
        return Estimate(values[0], None, None, 1)
    m = statistics.fmean(values)
    half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return Estimate(m, m - half, m + half, n)


def pool_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of one estimate per seed; n is the number of samples over all seeds.

    A single estimate keeps its own interval. The interval stays in [0, 1] where the interval of every seed does.
    """
    if len(estimates) == 1:
        return estimates[0]
    pooled = mean_over_seeds([estimate.value for estimate in estimates])
    is_share = all((e.low or 0) >= 0 and (e.high or e.value) <= 1 for e in estimates)
    low, high = pooled.low, pooled.high
    if is_share and low is not None and high is not None:
        low, high = max(0.0, low), min(1.0, high)
    return Estimate(pooled.value, low, high, sum(estimate.n for estimate in estimates))


def mean(scores: Sequence[float], num_samples: int, lowest: float = -math.inf) -> Estimate:
    """Mean of per-prompt averages with a normal interval over prompts.

    Args:
        lowest: possible value, which the interval does not go below.
    """
    count = len(scores)
    m = sum(scores) / count
    half = Z95 * math.sqrt(sum((s - m) ** 2 for s in scores) / max(count - 1, 1) / count)
    return Estimate(m, max(lowest, m - half), m + half, count * num_samples)
