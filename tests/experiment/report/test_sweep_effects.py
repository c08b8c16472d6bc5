"""Response curves and importance against numbers worked out by hand."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sweep_points import trial

from r1.experiment.report.sweep.effects import BINS, importance, order, response, scale
from r1.experiment.report.sweep.points import group_trials
from r1.experiment.report.sweep.trials import Trial

CELLS = {(0, 0): 0.2, (0, 1): 0.4, (1, 0): 0.6, (1, 1): 1.0}  # and -0.1, +0.1 for the two seeds


def grid() -> list[Trial]:
    return [trial({"a": a, "b": b}, seed, y + 0.2 * seed - 0.1) for (a, b), y in CELLS.items() for seed in (0, 1)]


def test_response_averages_other_parameters_within_seeds() -> None:
    made = response(grid(), "a")
    assert (made.scale, made.binned) == ("linear", False)
    assert [(level.x, level.num_runs, level.num_seeds) for level in made.levels] == [(0, 4, 2), (1, 4, 2)]
    assert [level.estimate.value for level in made.levels] == pytest.approx([0.3, 0.8])
    half = 12.706 * 0.1  # of 0.2 and 0.4: standard deviation 0.1414, over the root of 2
    low, high = made.levels[0].estimate.low, made.levels[0].estimate.high
    assert (low, high) == (0.0, 1.0) or (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=1e-3)


def test_response_one_seed_has_only_a_single_runs_interval() -> None:
    several = response([t for t in grid() if t.seed == 0], "a")
    assert [(level.estimate.low, level.estimate.high) for level in several.levels] == [(None, None)] * 2
    single = response([trial({"a": 1}, 0, 0.5)], "a")
    assert single.levels[0].estimate.low == pytest.approx(0.45)


def test_importance_of_a_grid() -> None:
    """Sums of squares: a 8 * 0.25^2, b 8 * 0.15^2, together 8 * 0.05^2, seeds 8 * 0.1^2: 0.5, 0.18, 0.02, 0.08."""
    made = importance(grid(), group_trials(grid(), maximize=True), ["b", "a"])
    assert made is not None
    assert made.balanced
    shares = {share.name: (share.share, share.noise) for share in made.shares}
    noise = pytest.approx(0.08 / 4 / 0.78)
    assert list(shares) == ["a", "b", "parameters together", "seeds"]
    assert shares["a"] == (pytest.approx(0.5 / 0.78), noise)
    assert shares["b"] == (pytest.approx(0.18 / 0.78), noise)
    assert shares["parameters together"] == (pytest.approx(0.02 / 0.78), noise)
    assert shares["seeds"] == (pytest.approx(0.08 / 0.78), None)


def test_importance_without_seeds_or_full_grid() -> None:
    runs = [trial({"a": a, "b": b}, 0, y) for a, b, y in ((0, 0, 0.1), (0, 1, 0.3), (1, 0, 0.5))]
    made = importance(runs, group_trials(runs, maximize=True), ["a", "b"])
    assert made is not None
    assert not made.balanced
    assert [(s.name, s.share, s.noise) for s in made.shares] == [
        ("a", pytest.approx(0.75), 0.5),  # of 0.08: 0.2 and 0.5 around 0.3 are 0.06
        ("b", 0.0, 0.5),  # both means are 0.3
    ]
    assert importance(runs[:2], group_trials(runs[:2], maximize=True), ["b"]) is None
    equal = [trial({"a": a}, 0, 0.5) for a in range(4)]
    assert importance(equal, group_trials(equal, maximize=True), ["a"]) is None


def test_response_bins_many_values() -> None:
    runs = [trial({"lr": 10 ** (-4 + i / 10)}, 0, i / 40) for i in range(40)]
    made = response(runs, "lr")
    assert (made.scale, made.binned, len(made.levels)) == ("log", True, BINS)
    first = made.levels[0]
    assert first.x == pytest.approx(10 ** (-4 + 0.45))
    assert (first.num_runs, first.estimate.value) == (10, pytest.approx(4.5 / 40))
    assert first.estimate.low == pytest.approx(4.5 / 40 - 2.262 * 3.02765 / 40 / 10**0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([2, 4, 8, 16, 32], "log"),
        ([0.1, 0.3, 1.0], "log"),
        ([1, 2, 3, 4], "linear"),
        ([0, 0.1, 1.0], "linear"),
        ([2, 8], "linear"),
        ([None, 0.1, 1.0], "ordinal"),
        (["grpo", "dapo"], "ordinal"),
        ([True, False], "ordinal"),
    ],
)
def test_scale_of_values(values: list, kind: str) -> None:
    assert scale(values) == kind


def test_order_null_first_then_ascending() -> None:
    assert order([16, None, 2, 0.5, 16, True]) == [None, True, 0.5, 2, 16]


@settings(max_examples=20)
@given(st.lists(st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from("xy"), st.floats(0, 1)), min_size=3, max_size=24))
def test_importance_shares_are_between_0_and_1(rows: list[tuple[int, str, float]]) -> None:
    runs = [trial({"a": a, "b": b}, seed, y) for seed, (a, b, y) in enumerate(rows)]
    made = importance(runs, group_trials(runs, maximize=True), ["a", "b"])
    for share in made.shares if made else ():
        assert -1e-9 <= share.share <= 1 + 1e-9


def test_importance_shares_of_a_full_grid_sum_to_1() -> None:
    runs = [
        trial({"a": a, "b": b}, s, (a * 7 + b * 3 + s * 5 + a * b) % 11 / 11) for a, b, s in product(range(3), repeat=3)
    ]
    made = importance(runs, group_trials(runs, maximize=True), ["a", "b"])
    assert made is not None
    assert sum(share.share for share in made.shares) == pytest.approx(1)
