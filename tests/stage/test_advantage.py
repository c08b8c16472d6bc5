"""Credit assignment against numbers worked out by hand, and against every reward that a group could have."""

from __future__ import annotations

import math
from functools import partial
from statistics import mean, stdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r1.stage.advantage.base import Advantage, group_std, has_signal
from r1.stage.advantage.batch import batch
from r1.stage.advantage.best_of_group import best_of_group
from r1.stage.advantage.center import center
from r1.stage.advantage.group import group
from r1.stage.advantage.rloo import rloo

NAN = math.nan
GROUP: Advantage = partial(group, epsilon=1e-4)
OPTIONS: list[Advantage] = [center, GROUP]
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


def of(advantage: Advantage, *rewards: list[float]) -> list[list[float]]:
    found: list[list[float]] = advantage(torch.tensor(rewards)).tolist()
    return found


def test_center_by_hand() -> None:
    assert of(center, [1.0, 0.0, 0.0, 0.0], [1.2, 0.2, 0.2, 0.0]) == [
        [0.75, -0.25, -0.25, -0.25],
        pytest.approx([0.8, -0.2, -0.2, -0.4]),
    ]


def test_group_by_hand() -> None:
    """One right answer in four: mean 1/4, sample standard deviation 1/2."""
    (found,) = of(GROUP, [1.0, 0.0, 0.0, 0.0])
    assert found == pytest.approx([0.75 / 0.5001, *[-0.25 / 0.5001] * 3])


def test_group_divides_by_the_sample_standard_deviation() -> None:
    rewards = [1.2, 0.2, -0.3, 0.0, 1.0]
    (found,) = of(GROUP, rewards)
    assert found == pytest.approx([(r - mean(rewards)) / (stdev(rewards) + 1e-4) for r in rewards], abs=1e-6)


@pytest.mark.parametrize("advantage", OPTIONS)
def test_groups_do_not_mix(advantage: Advantage) -> None:
    both = of(advantage, [1.0, 0.0], [5.0, 4.0])
    assert both == [*of(advantage, [1.0, 0.0]), *of(advantage, [5.0, 4.0])]


@pytest.mark.parametrize("advantage", OPTIONS)
@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, 1.2, -7.7])
def test_equal_rewards_earn_exactly_nothing(advantage: Advantage, reward: float) -> None:
    """The mean of seven times 0.1 is not 0.1 in floating point; divided by a tiny spread that would be a signal."""
    assert of(advantage, [reward] * 7) == [[0.0] * 7]


@pytest.mark.parametrize("advantage", OPTIONS)
def test_a_missing_reward_is_left_out(advantage: Advantage) -> None:
    ((a, missing, b, c),) = of(advantage, [1.0, NAN, 0.0, 0.0])
    assert missing == 0.0
    assert [[a, b, c]] == of(advantage, [1.0, 0.0, 0.0])


@pytest.mark.parametrize("advantage", OPTIONS)
@pytest.mark.parametrize("rewards", [[NAN] * 3, [NAN, 1.0, NAN], [NAN, 1.0, 1.0]])
def test_what_is_left_without_a_difference_earns_nothing(advantage: Advantage, rewards: list[float]) -> None:
    assert of(advantage, rewards) == [[0.0] * 3]


def test_spread_and_signal_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, NAN], [0.5, 0.5, 0.5], [NAN, NAN, NAN], [3.0, NAN, NAN]])
    assert group_std(rewards).squeeze(1).tolist() == pytest.approx([math.sqrt(0.5), 0.0, 0.0, 0.0])
    assert has_signal(rewards).squeeze(1).tolist() == [True, False, False, False]


@pytest.mark.parametrize("advantage", OPTIONS)
@given(rewards=st.lists(finite, min_size=1, max_size=8))
def test_no_finite_rewards_earn_anything_else_than_a_finite_advantage(
    advantage: Advantage, rewards: list[float]
) -> None:
    (found,) = of(advantage, rewards)
    assert all(map(math.isfinite, found))
    if len(set(rewards)) == 1:
        assert found == [0.0] * len(rewards)


@pytest.mark.parametrize("advantage", OPTIONS)
@given(rewards=st.lists(st.one_of(st.just(NAN), st.floats(-10, 10, width=32)), min_size=2, max_size=8))
def test_advantages_sum_to_zero_and_keep_the_order(advantage: Advantage, rewards: list[float]) -> None:
    (found,) = of(advantage, rewards)
    assert sum(found) == pytest.approx(0.0, abs=1e-4)
    there = [(r, a) for r, a in zip(rewards, found, strict=True) if not math.isnan(r)]
    assert all(a == 0.0 for r, a in zip(rewards, found, strict=True) if math.isnan(r))
    assert [a for _, a in sorted(there)] == sorted(a for _, a in there)


@given(rewards=st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=8), scale=st.floats(0.5, 100))
def test_group_does_not_depend_on_the_unit_of_the_reward(rewards: list[float], scale: float) -> None:
    (plain,), (scaled,) = of(GROUP, rewards), of(GROUP, [r * scale for r in rewards])
    assert scaled == pytest.approx(plain, abs=2e-3)


# ---- rloo, batch, best of group ----


def test_rloo_by_hand() -> None:
    """Against the mean of the other two: 1 - 0, 0 - 1/2, 0 - 1/2; a missing reward is nobody's other."""
    assert of(rloo, [1.0, 0.0, 0.0]) == [pytest.approx([1.0, -0.5, -0.5])]
    assert of(rloo, [1.0, NAN, 0.0]) == [[1.0, 0.0, -1.0]]


def test_batch_by_hand() -> None:
    """Gaps 1/2, -1/2 and 2, -2: sum of squares 8.5 over 4 - 1."""
    spread = math.sqrt(8.5 / 3) + 1e-4
    found = of(partial(batch, epsilon=1e-4), [1.0, 0.0], [4.0, 0.0])
    assert found == [
        pytest.approx([0.5 / spread, -0.5 / spread]),
        pytest.approx([2 / spread, -2 / spread]),
    ]


def test_best_of_group_by_hand() -> None:
    assert of(best_of_group, [0.2, 1.2, 0.0], [1.0, NAN, 1.0], [1.0, 0.0, 1.0]) == [[0, 1, 0], [0, 0, 0], [0.5, 0, 0.5]]


OTHERS: list[Advantage] = [rloo, partial(batch, epsilon=1e-4), best_of_group]


@pytest.mark.parametrize("advantage", OTHERS)
@pytest.mark.parametrize("rewards", [[0.1] * 7, [NAN] * 3, [NAN, 1.0, 1.0], [NAN, 1.0, NAN]])
def test_no_difference_earns_nothing(advantage: Advantage, rewards: list[float]) -> None:
    assert of(advantage, rewards) == [[0.0] * len(rewards)]


@pytest.mark.parametrize("advantage", OTHERS)
@given(rewards=st.lists(st.one_of(st.just(NAN), st.floats(-1e6, 1e6, width=32)), min_size=2, max_size=8))
def test_they_are_finite_and_keep_the_order(advantage: Advantage, rewards: list[float]) -> None:
    (found,) = of(advantage, rewards)
    assert all(map(math.isfinite, found))
    there = sorted((r, a) for r, a in zip(rewards, found, strict=True) if not math.isnan(r))
    assert [a for _, a in there] == sorted(a for _, a in there)
