"""The points of a sweep, each with its seeds, and the difference of two points with its interval."""

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
class TrialGroup:
    """One point: the trials that differ only in their seed.

    Attributes:
        counted: the finished runs, one for each seed.
        by_seed: their estimates.
        estimate: their mean with its interval over seeds; of one seed its own.
    """

    values: Values
    trials: list[Trial]
    counted: list[Trial]
    by_seed: dict[Any, Estimate]
    estimate: Estimate | None
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
    def half_width(self) -> float:
        """Half the 95 % interval."""
        from scipy import stats

        return self.se * float(stats.t.ppf(0.975, self.df))

    def p_value(self, sign: int) -> float:
        """One-sided p of noise alone giving the first point such a lead (``sign`` 1: larger is better)."""
        from scipy import stats

        lead = sign * self.value
        if self.se == 0:
            return 0.0 if lead > 0 else 1.0
        return float(stats.t.sf(lead / self.se, self.df))


def value_text(value: Value) -> str:
    """A value in a table or a sentence: as YAML has it, numbers with four digits."""
    if isinstance(value, bool | None):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def labels(names: Sequence[str]) -> dict[str, str]:
    """The last two parts of each dotted name, or as many as make it unique."""
    return {name: _label(name, names) for name in names}


def _label(name: str, names: Sequence[str]) -> str:
    parts = name.split(".")
    tails = (".".join(parts[-n:]) for n in range(2, len(parts) + 1))
    unique = (tail for tail in tails if sum(f".{other}".endswith(f".{tail}") for other in names) == 1)
    return next(unique, name)


def group_trials(trials: Sequence[Trial], maximize: bool) -> list[TrialGroup]:
    """The points, the best mean first; points without a finished run last."""
    groups = [_trial_group(group) for group in group_by_values(trials, lambda trial: trial.values)]
    sign = -1 if maximize else 1
    return sorted(groups, key=lambda point: (not point.estimate, sign * point.estimate.value if point.estimate else 0))


def _trial_group(group: list[Trial]) -> TrialGroup:
    done = {trial.seed: trial for trial in group if trial.is_counted}
    by_seed = {seed: trial.estimate for seed, trial in done.items() if trial.estimate}
    estimate = pool_seeds(list(by_seed.values())) if by_seed else None
    counted = list(done.values())
    return TrialGroup(group[0].values, group, counted, by_seed, estimate, mean_compute(counted or group))


def comparable(groups: Sequence[TrialGroup]) -> list[TrialGroup]:
    """The points with enough finished seeds to be compared."""
    most = max((len(point.by_seed) for point in groups), default=0)
    return [point for point in groups if point.by_seed and len(point.by_seed) >= MIN_SHARE * most]


def difference(a: TrialGroup, b: TrialGroup) -> Difference | None:
    """``a`` less ``b``: within each seed where both have two seeds or more in common, else between their means.

    With one seed only the validations' own intervals are known, which leave out noise between seeds; None without them.
    """
    shared = [seed for seed in a.by_seed if seed in b.by_seed]
    if len(shared) > 1:
        return _paired([a.by_seed[seed].value - b.by_seed[seed].value for seed in shared])
    if min(len(a.by_seed), len(b.by_seed)) > 1:
        return _welch(*([estimate.value for estimate in point.by_seed.values()] for point in (a, b)))
    return _validated(a.estimate, b.estimate)


def _paired(differences: Sequence[float]) -> Difference:
    n = len(differences)
    se = statistics.stdev(differences) / math.sqrt(n)
    rounding = 1e-12  # equal differences are a constant, not a measured spread
    return Difference(statistics.fmean(differences), se if se > rounding else 0.0, n - 1, f"paired over {n} seeds")


def _welch(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Welch's t-test with the degrees of freedom rounded down, which is conservative.

    scipy's warns about constant samples and does not return the standard error.
    """
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
