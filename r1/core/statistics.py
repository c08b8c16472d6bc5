"""Estimates with 95 % intervals: over prompts, over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Z95 = 1.959964
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # two-sided, by seeds - 2


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval and the number of samples behind it."""

    value: float
    low: float
    high: float
    n: int


def proportion(scores: Sequence[float], num_samples: int) -> Estimate:
    """Mean of per-prompt scores in [0, 1] with a Wilson interval on the effective sample size.

    The effective size is p(1 - p) / se^2 with se the standard error over prompts (samples of one prompt are not
    independent), between P and P * n; at 0 or 1 it is P, so the interval never collapses to a point.
    """
    count = len(scores)
    p = sum(scores) / count
    se2 = sum((s - p) ** 2 for s in scores) / max(count - 1, 1) / count
    size = min(max(p * (1 - p) / se2, count), count * num_samples) if se2 > 0 else count
    centre = (p + Z95**2 / (2 * size)) / (1 + Z95**2 / size)
    half = Z95 / (1 + Z95**2 / size) * math.sqrt(p * (1 - p) / size + Z95**2 / (4 * size**2))
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half), count * num_samples)


def t95(seeds: int) -> float:
    """Student's t for a two-sided 95 % interval: tabled, then by Cornish-Fisher's expansion (off by < 0.002)."""
    if seeds - 2 < len(T95):
        return T95[seeds - 2]
    z, df = Z95, seeds - 1
    return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """The mean over n seeds, at least two, with its 95 % interval by Student's t; n is the number of seeds."""
    n = len(values)
    m = statistics.fmean(values)
    half = t95(n) * statistics.stdev(values) / math.sqrt(n)
    return Estimate(m, m - half, m + half, n)


def t_survival(t: float, df: int | None) -> float:
    """Chance that Student's t with ``df`` degrees of freedom lies above ``t``; None: that a standard normal does.

    Exact (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    if df is None:
        return math.erfc(t / math.sqrt(2)) / 2
    angle, odd = math.atan(t / math.sqrt(df)), df % 2
    term, total = math.sin(angle) * math.cos(angle) ** odd, 0.0
    for k in range(1, df // 2 + 1):
        total += term
        term *= (2 * k - 1 + odd) / (2 * k + odd) * math.cos(angle) ** 2
    inside = 2 / math.pi * (angle + total) if odd else total
    return max(0.0, (1 - inside) / 2)


def mean(scores: Sequence[float], num_samples: int) -> Estimate:
    """Mean of per-prompt averages with a normal interval over prompts."""
    count = len(scores)
    m = sum(scores) / count
    half = Z95 * math.sqrt(sum((s - m) ** 2 for s in scores) / max(count - 1, 1) / count)
    return Estimate(m, m - half, m + half, count * num_samples)
