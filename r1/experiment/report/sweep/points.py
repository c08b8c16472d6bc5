"""The points of a sweep, each over its seeds, and the difference of two of them with its interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from r1.core.statistics import Z95, Estimate, pool_seeds
from r1.experiment.report.sweep.trials import Compute, Trial, Value, Values, mean_compute
from r1.experiment.seed_groups import group_by_values

MIN_SHARE = 0.5  # of the most seeds that a point has: with fewer, a point is not ranked


@dataclass(frozen=True)
class Point:
    """Runs that differ in nothing but their seed.

    Attributes:
        counted: the finished runs, one for each seed.
        by_seed: their figures.
        figure: their mean with its interval over seeds; of one seed its own.
    """

    values: Values
    trials: list[Trial]
    counted: list[Trial]
    by_seed: dict[Any, Estimate]
    figure: Estimate | None
    compute: Compute


@dataclass(frozen=True)
class Difference:
    """One point less another.

    Attributes:
        se: standard error.
        df: degrees of freedom of Student's t; infinite: normal.
        basis: where the standard error comes from.
    """

    value: float
    se: float
    df: float
    basis: str

    @property
    def half(self) -> float:
        """Half the 95 % interval."""
        from scipy import stats

        return self.se * float(stats.t.ppf(0.975, self.df))

    def chance(self, sign: int) -> float:
        """One-sided p: how often noise alone would make the first point so much better (``sign`` 1: larger)."""
        from scipy import stats

        lead = sign * self.value
        if self.se == 0:
            return 0.0 if lead > 0 else 1.0
        return float(stats.t.sf(lead / self.se, self.df))


def shown(value: Value) -> str:
    """A value in a table or a sentence: as YAML has it, numbers with four digits."""
    if isinstance(value, bool | None):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def labels(names: Sequence[str]) -> dict[str, str]:
    """The last two parts of each dotted name, or as many as set it apart from the others."""
    return {name: _label(name, names) for name in names}


def _label(name: str, names: Sequence[str]) -> str:
    parts = name.split(".")
    tails = (".".join(parts[-n:]) for n in range(2, len(parts) + 1))
    alone = (tail for tail in tails if sum(f".{other}".endswith(f".{tail}") for other in names) == 1)
    return next(alone, name)


def points(trials: Sequence[Trial], maximize: bool) -> list[Point]:
    """The best mean first; last those that no run has finished for."""
    made = [_point(group) for group in group_by_values(trials, lambda trial: trial.values)]
    sign = -1 if maximize else 1
    return sorted(made, key=lambda point: (not point.figure, sign * point.figure.value if point.figure else 0))


def _point(group: list[Trial]) -> Point:
    done = {trial.seed: trial for trial in group if trial.counts}
    by_seed = {seed: trial.figure for seed, trial in done.items() if trial.figure}
    figure = pool_seeds(list(by_seed.values())) if by_seed else None
    return Point(
        group[0].values, group, counted := list(done.values()), by_seed, figure, mean_compute(counted or group)
    )


def ranked(made: Sequence[Point]) -> list[Point]:
    """The points that enough seeds have finished for to be compared."""
    most = max((len(point.by_seed) for point in made), default=0)
    return [point for point in made if point.by_seed and len(point.by_seed) >= MIN_SHARE * most]


def difference(a: Point, b: Point) -> Difference | None:
    """``a`` less ``b``: within each seed where both have two seeds or more in common, else between their means.

    With one seed there are only the validations' own intervals, which hold no noise between seeds; None without them.
    """
    shared = [seed for seed in a.by_seed if seed in b.by_seed]
    if len(shared) > 1:
        return _paired([a.by_seed[seed].value - b.by_seed[seed].value for seed in shared])
    if min(len(a.by_seed), len(b.by_seed)) > 1:
        return _welch(*([figure.value for figure in point.by_seed.values()] for point in (a, b)))
    return _validated(a.figure, b.figure)


def _paired(differences: Sequence[float]) -> Difference:
    n = len(differences)
    se = statistics.stdev(differences) / math.sqrt(n)
    rounding = 1e-12  # equal differences are a constant, not a measured spread
    return Difference(statistics.fmean(differences), se if se > rounding else 0.0, n - 1, f"paired over {n} seeds")


def _welch(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Welch's, the degrees of freedom rounded down."""
    parts = [statistics.variance(values) / len(values) for values in (a, b)]
    spread = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (a, b), strict=True))
    df = int(sum(parts) ** 2 / spread) if spread > 0 else 1
    basis = f"{len(a)} and {len(b)} seeds, not the same"
    return Difference(statistics.fmean(a) - statistics.fmean(b), math.sqrt(sum(parts)), max(1, df), basis)


def _validated(a: Estimate | None, b: Estimate | None) -> Difference | None:
    if not (a and b) or None in (a.low, a.high, b.low, b.high):
        return None
    errors = [((f.high or 0) - (f.low or 0)) / (2 * Z95) for f in (a, b)]
    return Difference(a.value - b.value, math.hypot(*errors), math.inf, "by the validations' own intervals")
