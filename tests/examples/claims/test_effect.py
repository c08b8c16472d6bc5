"""Readings, effects and verdicts on figures made by hand."""

from __future__ import annotations

import operator
from pathlib import Path

import pytest

from examples.claims.effect import (
    Effect,
    Mean,
    Measured,
    MetricAt,
    StepsTo,
    measure,
    outcome_of,
    over_seeds,
    overall_outcome,
)
from r1.core.runs import RunRecord
from r1.core.statistics import Estimate


def run(*values: float, start: float = 0.4, final: float = 0.9) -> RunRecord:
    """A run whose metric ``m`` has these values at steps 0, 10, 20 ..."""
    metrics = {"start": {"m": {"value": start}}, "final": {"m": {"value": final}}}
    rows = [{"step": 10.0 * i, "m": value} for i, value in enumerate(values)]
    return RunRecord(Path("x"), {"metrics": metrics}, {}, [*rows, {"step": 5.0, "other": 1.0}])


def test_metric_at_and_mean_read_a_run() -> None:
    held = run(0.4, 0.6, 1.0)
    assert (MetricAt("a", "m", "start")(held), MetricAt("a", "m")(held), MetricAt("a", "m", 10)(held)) == (
        0.4,
        0.9,
        0.6,
    )
    assert Mean("a", "m")(held) == pytest.approx(2 / 3)


@pytest.mark.parametrize(("level", "steps"), [(0.3, 0), (0.4, 0), (0.5, 5), (0.6, 10), (0.8, 15), (1.0, 20), (1.1, 20)])
def test_steps_to_interpolates_between_validations(level: float, steps: float) -> None:
    assert StepsTo("a", "m", level)(run(0.4, 0.6, 1.0)) == pytest.approx(steps)


@pytest.mark.parametrize(
    ("low", "high", "above", "below", "found"),
    [
        (0.1, 0.3, 0.0, None, "reproduced"),
        (-0.1, 0.3, 0.0, None, "undecided"),
        (-0.3, -0.1, 0.0, None, "not reproduced"),
        (0.0, 0.3, 0.0, None, "undecided"),
        (-0.01, 0.3, -0.02, None, "reproduced"),
        (0.1, 0.3, None, 0.4, "reproduced"),
        (0.1, 0.5, None, 0.4, "undecided"),
        (0.5, 0.6, None, 0.4, "not reproduced"),
        (0.5, 0.6, None, None, "undecided"),
        (None, None, 0.0, None, "undecided"),
    ],
)
def test_outcome_depends_on_the_side_of_the_interval(
    low: float | None, high: float | None, above: float | None, below: float | None, found: str
) -> None:
    assert outcome_of(Estimate(0.2, low, high, 5), Effect("x", MetricAt("a", "m"), above=above, below=below)) == found


def test_measure_pairs_seeds() -> None:
    """Differences 0.1, 0.2 and 0.3: mean 0.2, half-width 4.303 * 0.1 / sqrt(3); the third seed of b is not there."""
    runs = {
        "a": {seed: run(final=value) for seed, value in enumerate((0.2, 0.5, 0.9, 0.7))},
        "b": {seed: run(final=value) for seed, value in enumerate((0.1, 0.3, 0.6))},
    }
    one = measure(Effect("x", MetricAt("a", "m"), MetricAt("b", "m"), above=0.0), runs)
    assert one.value is not None
    assert one.value.value == pytest.approx(0.2)
    assert one.value.high == pytest.approx(0.2 + 4.3026527 * 0.1 / 3**0.5)
    assert (one.value.n, [side.n for side in one.sides if side], one.outcome) == (3, [4, 3], "undecided")
    ratio = measure(Effect("x", MetricAt("a", "m"), MetricAt("b", "m"), operator.truediv), runs)
    assert ratio.value is not None
    assert ratio.value.value == pytest.approx((2 + 5 / 3 + 1.5) / 3)


def test_measure_missing_run_is_undecided() -> None:
    one = measure(Effect("x", MetricAt("a", "m"), MetricAt("b", "m"), above=0.0), {"a": {0: run()}})
    assert (one.value, one.sides[1], one.outcome) == (None, None, "undecided")
    assert over_seeds([0.5]) == Estimate(0.5, None, None, 1)


@pytest.mark.parametrize(
    ("intervals", "found"),
    [
        ([(0.1, 0.2), (0.1, 0.2)], "reproduced"),
        ([(0.1, 0.2), (-0.1, 0.2)], "undecided"),
        ([(0.1, 0.2), (-0.2, -0.1)], "not reproduced"),
        ([(-0.1, 0.2), (-0.2, -0.1)], "not reproduced"),
    ],
)
def test_overall_outcome_needs_all_deciding_effects(intervals: list[tuple[float, float]], found: str) -> None:
    deciding = Effect("x", MetricAt("a", "m"), above=0.0)
    reported = Measured(Effect("y", MetricAt("a", "m")), Estimate(-1.0, -1.1, -0.9, 5), ())
    held = [Measured(deciding, Estimate(0.0, low, high, 5), ()) for low, high in intervals]
    assert overall_outcome([*held, reported]) == found
    assert overall_outcome([reported]) == "undecided"
