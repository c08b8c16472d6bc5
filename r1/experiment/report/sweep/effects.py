"""The effect of each parameter: the metric over its values, the others averaged out, and its share of the variance."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from r1.core.statistics import Estimate, pool_seeds
from r1.experiment.report.sweep.points import TrialGroup, value_text
from r1.experiment.report.sweep.trials import Trial, Value

MAX_LEVELS, BINS = 12, 4  # numbers with more values than that are cut into bins of as many runs each
Scale = Literal["log", "linear", "ordinal"]


@dataclass(frozen=True)
class Level:
    """One value of a parameter, or a range of them.

    Attributes:
        x: where it is drawn: the number, or the label.
        estimate: the mean over the other parameters, with its interval over seeds.
    """

    label: str
    x: float | str
    estimate: Estimate
    num_runs: int
    num_seeds: int


@dataclass(frozen=True)
class Response:
    """The metric over one parameter's values."""

    name: str
    scale: Scale
    binned: bool
    levels: list[Level]


@dataclass(frozen=True)
class Share:
    """A part of the metric's variance over all runs, and the part expected from noise alone."""

    name: str
    share: float
    noise: float | None
    is_parameter: bool


@dataclass(frozen=True)
class Importance:
    """Shares of the variance.

    Attributes:
        balanced: every value met every other equally often, so the shares add up.
    """

    shares: list[Share]
    balanced: bool


def order(values: Sequence[Value]) -> list[Value]:
    """The distinct values: null and texts first, then numbers in ascending order."""
    kinds = {json_key(value): value for value in values}
    return sorted(kinds.values(), key=lambda value: (is_number(value), value if is_number(value) else 0, str(value)))


def json_key(value: Value) -> str:
    return f"{type(value).__name__}:{value}" if isinstance(value, bool) else str(value)


def is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def scale(values: Sequence[Value]) -> Scale:
    """Logarithmic where the median of the numbers is closer to the centre of the range of their logarithms."""
    numbers = [float(value) for value in order(values) if is_number(value)]  # type: ignore[arg-type]
    if len(numbers) < len(order(values)):
        return "ordinal"
    if len(numbers) < 3 or numbers[0] <= 0:
        return "linear"
    logs = [math.log(value) for value in numbers]
    return "log" if _off_centre(logs) < _off_centre(numbers) else "linear"


def _off_centre(ordered: Sequence[float]) -> float:
    return abs(statistics.median(ordered) - (ordered[0] + ordered[-1]) / 2) / (ordered[-1] - ordered[0])


def levels_of(trials: Sequence[Trial], name: str) -> tuple[list[list[Trial]], bool]:
    """The runs by the value of a parameter; with too many values, by ranges of as many runs each; and whether so."""
    values = order([trial.values[name] for trial in trials])
    if len(values) <= MAX_LEVELS or not all(map(is_number, values)):
        by_value: dict[str, list[Trial]] = {json_key(value): [] for value in values}
        for trial in trials:
            by_value[json_key(trial.values[name])].append(trial)
        return list(by_value.values()), False
    ranked = sorted(trials, key=lambda trial: float(trial.values[name] or 0))
    cuts = [round(i * len(ranked) / BINS) for i in range(BINS + 1)]
    return [ranked[a:b] for a, b in itertools.pairwise(cuts)], True


def response(trials: Sequence[Trial], name: str) -> Response:
    """Over the finished runs: the mean of each value's runs within each seed, then over seeds.

    Where values are binned, the interval is that over the runs of the bin.
    """
    groups, binned = levels_of(trials, name)
    kind = scale([trial.values[name] for trial in trials])
    make = _bin if binned else _level
    return Response(name, kind, binned, [make(group, name, kind) for group in groups])


def coordinate(value: Value, kind: Scale) -> float | str:
    """Where a value is drawn: at its number, or at its text on an ordinal axis."""
    return float(value) if kind != "ordinal" and is_number(value) else value_text(value)  # type: ignore[arg-type]


def _level(group: Sequence[Trial], name: str, kind: Scale) -> Level:
    by_seed: dict[Any, list[Estimate]] = {}
    for trial in group:
        by_seed.setdefault(trial.seed, []).append(_estimate(trial))
    value = group[0].values[name]
    estimate = pool_seeds([mean_of_one_seed(estimates) for estimates in by_seed.values()])
    return Level(value_text(value), coordinate(value, kind), estimate, len(group), len(by_seed))


def _bin(group: Sequence[Trial], name: str, kind: Scale) -> Level:
    values = [float(trial.values[name] or 0) for trial in group]
    x = statistics.geometric_mean(values) if kind == "log" else statistics.fmean(values)
    label = f"{min(values):.3g} to {max(values):.3g}"
    return Level(label, x, pool_seeds([_estimate(t) for t in group]), len(group), len({t.seed for t in group}))


def _estimate(trial: Trial) -> Estimate:
    assert trial.estimate
    return trial.estimate


def mean_of_one_seed(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of several points under one seed: they differ by design, so it has no interval."""
    if len(estimates) == 1:
        return estimates[0]
    return Estimate(statistics.fmean(e.value for e in estimates), None, None, sum(e.n for e in estimates))


def importance(trials: Sequence[Trial], points: Sequence[TrialGroup], names: Sequence[str]) -> Importance | None:
    """Each parameter's main effect: the variance between the means of its values as a share of that over all runs.

    ``noise`` is the expected share of a parameter without any effect: (k - 1) times the variance between seeds
    for k values; where no point has several seeds, (k - 1)/(n - 1), its mean over all orders of the n runs.
    None where there is no variance to share.
    """
    values = [_estimate(trial).value for trial in trials]
    total = _sum_of_squares(values)
    if len(values) < 3 or total <= 1e-18:
        return None
    within_seeds = sum(_sum_of_squares([estimate.value for estimate in point.by_seed.values()]) for point in points)
    counts = [len(point.by_seed) for point in points if point.by_seed]
    spare = sum(counts) - len(counts)
    unit = within_seeds / spare / total if spare else 1 / (len(values) - 1)  # of one degree of freedom
    mains = {name: levels_of(trials, name)[0] for name in names}
    shares = [
        Share(name, _between_groups(groups, _metric_value) / total, (len(groups) - 1) * unit, True)
        for name, groups in mains.items()
    ]
    full = math.prod(len(groups) for groups in mains.values()) == len(counts) and len(Counter(counts)) == 1
    shares.sort(key=lambda share: -share.share)
    return Importance([*shares, *_remaining_shares(shares, within_seeds / total, counts, unit, full)], full)


def _remaining_shares(
    shares: Sequence[Share], within_seeds: float, counts: Sequence[int], unit: float, full: bool
) -> list[Share]:
    """The interactions, where the shares add up, and the seeds."""
    freedom = len(counts) - 1 - sum(round((share.noise or 0) / unit) for share in shares) if unit else 0
    together = 1 - within_seeds - sum(share.share for share in shares)
    rest = [Share("parameters together", max(0.0, together), freedom * unit, False)] if full and len(shares) > 1 else []
    return [*rest, Share("seeds", within_seeds, None, False)] if sum(counts) > len(counts) else rest


def _metric_value(trial: Trial) -> float:
    return _estimate(trial).value


def _sum_of_squares(values: Sequence[float]) -> float:
    mean = statistics.fmean(values) if values else 0.0
    return sum((value - mean) ** 2 for value in values)


def _between_groups(groups: Sequence[Sequence[Trial]], of: Callable[[Trial], float]) -> float:
    """Sum of squares between groups."""
    means = [statistics.fmean(map(of, group)) for group in groups]
    grand_mean = statistics.fmean(of(trial) for group in groups for trial in group)
    return sum(len(group) * (mean - grand_mean) ** 2 for group, mean in zip(groups, means, strict=True))
