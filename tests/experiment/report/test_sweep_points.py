"""Points and their differences by hand: paired, unpaired, by the validations alone; what ties with the winner."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from r1.core.runs import RunRecord
from r1.core.statistics import Estimate, pool_seeds
from r1.experiment.report.sweep.analysis import compare
from r1.experiment.report.sweep.points import (
    Difference,
    TrialGroup,
    comparable,
    difference,
    group_trials,
    labels,
    value_text,
)
from r1.experiment.report.sweep.trials import Compute, Trial

NOTHING = Compute(None, None, None, None)


def trial(values: dict[str, Any], seed: int, score: float, ended: str = "finished") -> Trial:
    run = RunRecord(Path(f"/{values}{seed}"), {"metrics": {}}, {}, [])
    return Trial(run, values, seed, ended, Estimate(score, score - 0.05, score + 0.05, 64), NOTHING)


def point(scores: dict[int, float], name: Any = 1) -> TrialGroup:
    trials = [trial({"x": name}, seed, score) for seed, score in scores.items()]
    by_seed = {made.seed: made.estimate for made in trials if made.estimate}
    return TrialGroup({"x": name}, trials, trials, by_seed, pool_seeds(list(by_seed.values())), NOTHING)


@pytest.mark.parametrize(
    ("t", "df"), [(12.7062, 1), (4.302653, 2), (3.182446, 3), (2.776445, 4), (2.228139, 10), (1.959964, math.inf)]
)
def test_difference_chance_is_the_tail_of_students_t(t: float, df: float) -> None:
    assert Difference(t, 1.0, df, "").p_value(1) == pytest.approx(0.025, abs=1e-6)
    assert Difference(t, 1.0, df, "").p_value(-1) == pytest.approx(0.975, abs=1e-6)
    assert Difference(0.0, 1.0, df, "").p_value(1) == pytest.approx(0.5)
    assert Difference(0.0, 1.0, df, "").half_width == pytest.approx(t, abs=1e-4)


def test_difference_paired_over_seeds() -> None:
    made = difference(point({0: 0.6, 1: 0.7, 2: 0.8}), point({0: 0.5, 1: 0.65, 2: 0.6, 9: 0.0}))
    assert made is not None
    assert (made.value, made.df, made.basis) == (pytest.approx(0.35 / 3), 2, "paired over 3 seeds")
    assert made.se == pytest.approx(math.sqrt(0.0175 / 3) / math.sqrt(3))  # of 0.1, 0.05, 0.2
    assert made.half_width == pytest.approx(4.3026527 * made.se)
    assert made.p_value(1) == pytest.approx((1 - math.sqrt(7) / 3) / 2)  # t is the root of 7; t / sqrt(2 + t^2) inside
    assert made.p_value(-1) == pytest.approx((1 + math.sqrt(7) / 3) / 2)


def test_difference_of_disjoint_seeds_is_welchs() -> None:
    made = difference(point({0: 0.1, 1: 0.2, 2: 0.3}), point({7: 0.4, 8: 0.6}))
    assert made is not None
    assert made.value == pytest.approx(-0.3)
    assert made.se == pytest.approx(math.sqrt(0.01 / 3 + 0.02 / 2))
    assert made.df == 1  # 1.68, rounded down
    assert "not the same" in made.basis


def test_difference_one_seed_uses_the_validation() -> None:
    made = difference(point({0: 0.6}), point({0: 0.5, 1: 0.5}))
    assert made is not None
    assert made.df == math.inf
    assert made.basis == "by the validations' own intervals"
    wide = pool_seeds([Estimate(0.5, 0.45, 0.55, 64)] * 2)
    assert made.se == pytest.approx(math.hypot(0.05 / 1.959964, ((wide.high or 0) - (wide.low or 0)) / 2 / 1.959964))
    bare = TrialGroup({"x": 2}, [], [], {0: (figure := Estimate(0.6, None, None, 0))}, figure, NOTHING)
    assert difference(point({0: 0.5}), bare) is None
    (one,) = compare([point({0: 0.5}), bare], 1)
    assert (one.difference, one.tied) == (None, True)


def test_p_value_constant_lead_is_certain() -> None:
    assert Difference(0.0, 0.0, 2, "").p_value(1) == 1.0
    lead = difference(point({0: 0.3, 1: 0.1, 2: 0.7}), point({0: 0.2, 1: 0.0, 2: 0.6}))
    assert lead is not None
    assert (lead.se, lead.p_value(1), lead.p_value(-1)) == (0.0, 0.0, 1.0)


def test_compare_corrects_for_the_number_of_rivals() -> None:
    """Of two seeds t is 10, one-sided p 0.0317: alone that is no tie, among three points it is one."""
    best, other = point({0: 0.655, 1: 0.745}), point({0: 0.6, 1: 0.7}, "other")
    far = point({0: 0.1, 1: 0.19001}, "far")
    (alone,) = compare([best, other], 1)
    first, second = compare([best, other, far], 1)
    assert alone.p_value == pytest.approx(first.p_value / 2)
    assert alone.p_value == pytest.approx(0.5 - math.atan(10) / math.pi)
    assert (alone.tied, first.tied, second.tied) == (False, True, False)
    assert second.difference is not None
    assert second.difference.value == pytest.approx(-0.554995)


def test_group_trials_ranks_by_mean() -> None:
    made = group_trials([
        *(trial({"x": 1}, seed, 0.5 + 0.1 * seed) for seed in range(3)),
        trial({"x": 1}, 3, 0.99, "stopped"),
        *(trial({"x": 2}, seed, 0.7) for seed in range(2)),
        trial({"x": None}, 0, 0.9),
        trial({"x": 4}, 0, 0.9, "failed"),
    ], maximize=True)  # fmt: skip
    assert [one.values["x"] for one in made] == [None, 2, 1, 4]
    assert made[2].estimate == pool_seeds(
        [Estimate(0.5 + 0.1 * s, 0.45 + 0.1 * s, 0.55 + 0.1 * s, 64) for s in range(3)]
    )
    assert made[3].estimate is None
    assert [one.values["x"] for one in comparable(made)] == [2, 1]  # one seed of three is too few to win
    assert group_trials([trial({"x": x}, 0, 0.1 * x) for x in (3, 1, 2)], maximize=False)[0].values == {"x": 1}


def test_labels_and_value_text() -> None:
    names = ["stage.lr", "reward.terms.format.weight", "reward.terms.language.weight", "model", "a.b.c", "x.b.c"]
    short = ["stage.lr", "format.weight", "language.weight", "model", "a.b.c", "x.b.c"]
    assert list(labels(names).values()) == short
    assert [value_text(v) for v in (None, True, 8, 0.000355914, "dapo")] == ["null", "true", "8", "0.0003559", "dapo"]
