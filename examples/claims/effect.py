"""Effects: readings of single runs, differences between readings, and the outcome by the interval over seeds.

An effect is computed within each seed, so that its interval is that of paired differences (or ratios).
"""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from r1.core.runs import RunRecord
from r1.core.statistics import Estimate, mean_over_seeds

REPRODUCED, NOT_REPRODUCED, UNDECIDED = "reproduced", "not reproduced", "undecided"
Runs = Mapping[str, Mapping[Any, RunRecord]]  # step -> seed -> the run that has finished


@dataclass(frozen=True)
class MetricAt:
    """A metric at a run's ``start``, at its end (``final``), or after a number of optimizer steps."""

    step: str
    metric: str
    when: Literal["start", "final"] | int = "final"

    def __call__(self, run: RunRecord) -> float:
        if isinstance(self.when, int):
            return dict(curve(run, self.metric))[self.when]
        return float(run.manifest["metrics"][self.when][self.metric]["value"])


@dataclass(frozen=True)
class StepsTo:
    """Optimizer steps until a metric reaches a level, linear between validations; the last one if it never does."""

    step: str
    metric: str
    level: float

    def __call__(self, run: RunRecord) -> float:
        points = curve(run, self.metric)
        if points[0][1] >= self.level:
            return float(points[0][0])
        for (before, low), (after, high) in pairwise(points):
            if high >= self.level:
                return before + (after - before) * (self.level - low) / (high - low)
        return float(points[-1][0])


@dataclass(frozen=True)
class Mean:
    """The mean of a metric over all steps that have it."""

    step: str
    metric: str

    def __call__(self, run: RunRecord) -> float:
        return statistics.fmean(value for _, value in curve(run, self.metric))


Reading = MetricAt | StepsTo | Mean


def curve(run: RunRecord, metric: str) -> list[tuple[int, float]]:
    """(step, value), in order; of a resumed run, the later of two values for a step."""
    return sorted({int(row["step"]): row[metric] for row in run.metrics if metric in row}.items())


@dataclass(frozen=True)
class Effect:
    """A measurement for a claim, and the bound that its interval must lie above or below.

    Attributes:
        what: its description.
        of: the reading.
        to: the reading that it is compared with; None: a single reading.
        by: the comparison: a difference or a ratio.
        above, below: the claimed bound; both None: the effect is only reported.
    """

    what: str
    of: Reading
    to: Reading | None = None
    by: Callable[[float, float], float] = operator.sub
    above: float | None = None
    below: float | None = None

    @property
    def readings(self) -> tuple[Reading, ...]:
        return (self.of,) if self.to is None else (self.of, self.to)

    @property
    def decides(self) -> bool:
        return self.above is not None or self.below is not None


@dataclass(frozen=True)
class Measured:
    """An effect with its estimates over seeds; None: no seed has them."""

    effect: Effect
    value: Estimate | None
    sides: tuple[Estimate | None, ...]  # of its readings

    @property
    def outcome(self) -> str:
        return UNDECIDED if self.value is None else outcome_of(self.value, self.effect)


def measure(effect: Effect, runs: Runs) -> Measured:
    """An effect over the seeds under which all runs that it reads have finished."""
    sides = [_by_seed(reading, runs) for reading in effect.readings]
    seeds = [seed for seed in sides[0] if all(seed in side for side in sides)]
    values = [sides[0][seed] if len(sides) == 1 else effect.by(*(side[seed] for side in sides)) for seed in seeds]
    return Measured(effect, over_seeds(values), tuple(over_seeds(list(side.values())) for side in sides))


def measure_reading(of: Reading, runs: Runs) -> Estimate | None:
    return over_seeds(list(_by_seed(of, runs).values()))


def _by_seed(of: Reading, runs: Runs) -> dict[Any, float]:
    return {seed: of(run) for seed, run in runs.get(of.step, {}).items()}


def over_seeds(values: Sequence[float]) -> Estimate | None:
    """The mean over seeds with its 95 % interval (Student's t); one seed has none, and decides nothing."""
    return mean_over_seeds(values) if values else None


def outcome_of(value: Estimate, effect: Effect) -> str:
    """Reproduced: the whole interval is on the claimed side of the bound; not reproduced: on the other side."""
    if value.low is None or value.high is None:
        return UNDECIDED
    if effect.above is not None:
        right, wrong = value.low > effect.above, value.high < effect.above
    elif effect.below is not None:
        right, wrong = value.high < effect.below, value.low > effect.below
    else:
        return UNDECIDED
    return REPRODUCED if right else NOT_REPRODUCED if wrong else UNDECIDED


def overall_outcome(measured: Sequence[Measured]) -> str:
    """The outcome of a claim: reproduced if all deciding effects are, not reproduced if one of them is not."""
    outcomes = {one.outcome for one in measured if one.effect.decides}
    return NOT_REPRODUCED if NOT_REPRODUCED in outcomes else REPRODUCED if outcomes == {REPRODUCED} else UNDECIDED
