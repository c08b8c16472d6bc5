"""Credit assignment against numbers worked out by hand, and against every reward that a group could have."""

from __future__ import annotations

import math
from functools import partial
from statistics import mean, stdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from options import build_option, option_names
from torch import Tensor

from r1.stage.advantage.base import Advantage, compute_advantages, group_std, has_signal, is_per_minibatch
from r1.stage.advantage.batch import batch
from r1.stage.advantage.best_of_group import best_of_group
from r1.stage.advantage.center import center
from r1.stage.advantage.gdpo import gdpo
from r1.stage.advantage.group import group
from r1.stage.advantage.max_rl import max_rl
from r1.stage.advantage.rloo import rloo
from r1.stage.advantage.step import step

NAN = math.nan
GROUP: Advantage = partial(group, epsilon=1e-4)
GDPO: Advantage = partial(gdpo, epsilon=1e-4, scale_by_batch=False)


def one_term(rewards: Tensor) -> Tensor:
    """gdpo of a single reward term of weight 1."""
    return GDPO(rewards[None], torch.ones(1))


OPTIONS: list[Advantage] = [center, GROUP, one_term]
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


def of(advantage: Advantage, *rewards: list[float]) -> list[list[float]]:
    found: list[list[float]] = advantage(torch.tensor(rewards)).tolist()
    return found


def test_center_matches_hand_computation() -> None:
    assert of(center, [1.0, 0.0, 0.0, 0.0], [1.2, 0.2, 0.2, 0.0]) == [
        [0.75, -0.25, -0.25, -0.25],
        pytest.approx([0.8, -0.2, -0.2, -0.4]),
    ]


def test_group_matches_hand_computation() -> None:
    """One right answer in four: mean 1/4, sample standard deviation 1/2."""
    (found,) = of(GROUP, [1.0, 0.0, 0.0, 0.0])
    assert found == pytest.approx([0.75 / 0.5001, *[-0.25 / 0.5001] * 3])


def test_group_divides_by_sample_std() -> None:
    rewards = [1.2, 0.2, -0.3, 0.0, 1.0]
    (found,) = of(GROUP, rewards)
    assert found == pytest.approx([(r - mean(rewards)) / (stdev(rewards) + 1e-4) for r in rewards], abs=1e-6)


@pytest.mark.parametrize("advantage", OPTIONS)
def test_advantages_of_groups_are_independent(advantage: Advantage) -> None:
    both = of(advantage, [1.0, 0.0], [5.0, 4.0])
    assert both == [*of(advantage, [1.0, 0.0]), *of(advantage, [5.0, 4.0])]


@pytest.mark.parametrize("advantage", OPTIONS)
@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, 1.2, -7.7])
def test_equal_rewards_have_zero_advantage(advantage: Advantage, reward: float) -> None:
    """The mean of seven times 0.1 is not 0.1 in floating point; divided by a tiny spread that would be a signal."""
    assert of(advantage, [reward] * 7) == [[0.0] * 7]


@pytest.mark.parametrize("advantage", OPTIONS)
def test_missing_reward_is_left_out(advantage: Advantage) -> None:
    ((a, missing, b, c),) = of(advantage, [1.0, NAN, 0.0, 0.0])
    assert missing == 0.0
    assert [[a, b, c]] == of(advantage, [1.0, 0.0, 0.0])


@pytest.mark.parametrize("advantage", OPTIONS)
@pytest.mark.parametrize("rewards", [[NAN] * 3, [NAN, 1.0, NAN], [NAN, 1.0, 1.0]])
def test_equal_rewards_beside_missing_one_have_zero_advantage(advantage: Advantage, rewards: list[float]) -> None:
    assert of(advantage, rewards) == [[0.0] * 3]


def test_group_std_and_has_signal_match_hand_computation() -> None:
    rewards = torch.tensor([[1.0, 0.0, NAN], [0.5, 0.5, 0.5], [NAN, NAN, NAN], [3.0, NAN, NAN]])
    assert group_std(rewards).squeeze(1).tolist() == pytest.approx([math.sqrt(0.5), 0.0, 0.0, 0.0])
    assert has_signal(rewards).squeeze(1).tolist() == [True, False, False, False]


@pytest.mark.parametrize("advantage", OPTIONS)
@given(rewards=st.lists(finite, min_size=1, max_size=8))
def test_finite_rewards_have_finite_advantages(advantage: Advantage, rewards: list[float]) -> None:
    (found,) = of(advantage, rewards)
    assert all(map(math.isfinite, found))
    if len(set(rewards)) == 1:
        assert found == [0.0] * len(rewards)


@pytest.mark.parametrize("advantage", OPTIONS)
@given(rewards=st.lists(st.one_of(st.just(NAN), st.integers(-640, 640).map(lambda n: n / 64)), min_size=2, max_size=8))
def test_advantages_sum_to_zero_in_reward_order(advantage: Advantage, rewards: list[float]) -> None:
    (found,) = of(advantage, rewards)
    assert sum(found) == pytest.approx(0.0, abs=3e-3)
    there = [(r, a) for r, a in zip(rewards, found, strict=True) if not math.isnan(r)]
    assert all(a == 0.0 for r, a in zip(rewards, found, strict=True) if math.isnan(r))
    assert [a for _, a in sorted(there)] == sorted(a for _, a in there)


@given(rewards=st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=8), scale=st.floats(0.5, 100))
def test_group_does_not_depend_on_reward_scale(rewards: list[float], scale: float) -> None:
    (plain,), (scaled,) = of(GROUP, rewards), of(GROUP, [r * scale for r in rewards])
    assert scaled == pytest.approx(plain, abs=2e-3)


# ---- rloo, batch, best of group ----


def test_rloo_matches_hand_computation() -> None:
    """Against the mean of the other two: 1 - 0, 0 - 1/2, 0 - 1/2; a missing reward is nobody's other."""
    assert of(rloo, [1.0, 0.0, 0.0]) == [pytest.approx([1.0, -0.5, -0.5])]
    assert of(rloo, [1.0, NAN, 0.0]) == [[1.0, 0.0, -1.0]]


def test_batch_matches_hand_computation() -> None:
    """Gaps 1/2, -1/2 and 2, -2: sum of squares 8.5 over 4 - 1."""
    spread = math.sqrt(8.5 / 3) + 1e-4
    found = of(partial(batch, epsilon=1e-4), [1.0, 0.0], [4.0, 0.0])
    assert found == [
        pytest.approx([0.5 / spread, -0.5 / spread]),
        pytest.approx([2 / spread, -2 / spread]),
    ]


def test_best_of_group_matches_hand_computation() -> None:
    assert of(best_of_group, [0.2, 1.2, 0.0], [1.0, NAN, 1.0], [1.0, 0.0, 1.0]) == [[0, 1, 0], [0, 0, 0], [0.5, 0, 0.5]]


# ---- every option of conf/stage/advantage ----

EVERY: list[Advantage] = [build_option("stage/advantage", option) for option in option_names("stage/advantage")]
rewards_or_none = st.one_of(st.just(NAN), st.floats(-1e6, 1e6, width=32))


def of_one_term(advantage: Advantage, *rewards: list[float]) -> list[list[float]]:
    """As a run computes them from a single reward term of weight 1."""
    values = torch.tensor(rewards)
    advantages: list[list[float]] = compute_advantages(advantage, values, values[None], torch.ones(1)).tolist()
    return advantages


@pytest.mark.parametrize("advantage", EVERY)
@pytest.mark.parametrize("rewards", [[0.1] * 7, [NAN] * 3, [NAN, 1.0, 1.0], [NAN, 1.0, NAN]])
def test_group_without_signal_has_zero_advantages(advantage: Advantage, rewards: list[float]) -> None:
    assert of_one_term(advantage, rewards) == [[0.0] * len(rewards)]


@pytest.mark.parametrize("advantage", EVERY)
@given(groups=st.lists(st.lists(rewards_or_none, min_size=4, max_size=4), min_size=1, max_size=3))
def test_advantages_are_finite_in_reward_order(advantage: Advantage, groups: list[list[float]]) -> None:
    for rewards, advantages in zip(groups, of_one_term(advantage, *groups), strict=True):
        assert all(map(math.isfinite, advantages))
        assert all(a == 0.0 for r, a in zip(rewards, advantages, strict=True) if math.isnan(r))
        scored = sorted((r, a) for r, a in zip(rewards, advantages, strict=True) if not math.isnan(r))
        assert [a for _, a in scored] == sorted(a for _, a in scored)


# ---- max_rl and step ----

MAX_RL: Advantage = partial(max_rl, min_mean=0.01)
STEP: Advantage = partial(step, epsilon=1e-4)


def test_max_rl_matches_hand_computation() -> None:
    """One success in four weighs 1 / p - 1 = 3, three in four 1 / 3; a group without a success nothing."""
    assert of(MAX_RL, [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0] * 4, [1.0] * 4) == [
        pytest.approx([3.0, -1.0, -1.0, -1.0]),
        pytest.approx([1 / 3, 1 / 3, 1 / 3, -1.0]),
        [0.0] * 4,
        [0.0] * 4,
    ]


def test_max_rl_is_the_mean_score_of_successes_minus_that_of_all() -> None:
    """The paper's estimator, (1 / K) sum of r_i S_i - (1 / G) sum of S_i, with scores S_i, is the mean of A_i S_i."""
    rewards, scores = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]), torch.tensor([0.3, -1.0, 2.0, 0.7, -0.2])
    paper = (rewards * scores).sum() / 2 - scores.mean()
    assert (MAX_RL(rewards[None])[0] * scores).mean().item() == pytest.approx(paper.item())


def test_max_rl_with_small_or_negative_mean_divides_by_min_mean() -> None:
    (small,), (negative,) = of(MAX_RL, [0.002, 0.0]), of(MAX_RL, [0.0, -1.0])
    assert small == pytest.approx([0.1, -0.1])
    assert negative == pytest.approx([50.0, -50.0])


def test_step_is_in_units_of_the_minibatch_spread() -> None:
    """Centred: 1/2, -1/2 and 3/2, -3/2, whose sample standard deviation is the root of 5/3."""
    unit = 1 / (math.sqrt(5 / 3) + 1e-4)
    assert of(STEP, [1.0, 0.0], [3.0, 0.0]) == [
        pytest.approx([unit / 2, -unit / 2]),
        pytest.approx([1.5 * unit, -1.5 * unit]),
    ]


def test_only_step_is_per_minibatch() -> None:
    assert [
        name for name in option_names("stage/advantage") if is_per_minibatch(build_option("stage/advantage", name))
    ] == ["step"]


# ---- gdpo ----


FORMAT, RIGHT = [[1.0, 1.0, 0.0, 0.0]], [[1.0, 0.0, 1.0, 0.0]]


def gdpo_of(terms: list[list[list[float]]], weights: list[float], scale_by_batch: bool = False) -> list[list[float]]:
    advantage = partial(gdpo, epsilon=1e-4, scale_by_batch=scale_by_batch)
    found: list[list[float]] = advantage(torch.tensor(terms), torch.tensor(weights)).tolist()
    return found


def test_gdpo_matches_hand_computation() -> None:
    """Each term's gaps are 1/2 and its spread the root of 1/3, whatever its weight does to the total."""
    unit = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    assert gdpo_of([FORMAT, RIGHT], [1.0, 1.0]) == [pytest.approx([2 * unit, 0.0, 0.0, -2 * unit])]
    assert gdpo_of([FORMAT, RIGHT], [0.5, 1.0]) == [pytest.approx([1.5 * unit, -0.5 * unit, 0.5 * unit, -1.5 * unit])]


def test_gdpo_distinguishes_completions_with_equal_totals() -> None:
    """Totals (1, 1, 1, 1, 0): the sum's normalisation gives the first four the same, gdpo the rarer merit more."""
    terms = [[[1.0, 0.0, 0.0, 0.0, 0.0]], [[0.0, 1.0, 1.0, 1.0, 0.0]]]
    (found,) = gdpo_of(terms, [1.0, 1.0])
    (summed,) = of(GROUP, [1.0, 1.0, 1.0, 1.0, 0.0])
    assert summed[0] == summed[1]
    spreads = math.sqrt(0.2), math.sqrt(0.3)
    rare, usual = 0.8 / spreads[0] - 0.6 / spreads[1], -0.2 / spreads[0] + 0.4 / spreads[1]
    assert found == pytest.approx([rare, usual, usual, usual, -0.2 / spreads[0] - 0.6 / spreads[1]], abs=1e-3)
    assert rare > 2 * usual


def test_gdpo_scaled_by_batch_has_unit_std() -> None:
    terms = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    found = gdpo(terms, torch.tensor([1.0, 2.0, -0.5]), epsilon=1e-6, scale_by_batch=True)
    assert found.std().item() == pytest.approx(1.0, abs=1e-4)
    assert found.mean().item() == pytest.approx(0.0, abs=1e-6)
    plain = gdpo(terms, torch.tensor([1.0, 2.0, -0.5]), epsilon=1e-6, scale_by_batch=False)
    torch.testing.assert_close(found, (plain - plain.mean()) / plain.std(), rtol=1e-4, atol=1e-4)


def test_gdpo_scaled_by_batch_is_zero_for_equal_or_missing_rewards() -> None:
    """And neither counts: the spread is that of the three completions that were scored, 2 degrees of freedom."""
    terms = torch.tensor([[[0.1] * 4, [NAN, 0.0, 1.0, 0.5]], [[0.7] * 4, [NAN, 0.3, 0.2, 0.1]]])
    found = gdpo(terms[:, 1:], torch.ones(2), epsilon=1e-4, scale_by_batch=True)[0]
    plain = gdpo(terms[:, 1:], torch.ones(2), epsilon=1e-4, scale_by_batch=False)[0]
    assert found[0] == 0.0
    torch.testing.assert_close(found[1:], plain[1:] / (plain[1:].std() + 1e-4))
    assert gdpo(terms, torch.ones(2), epsilon=1e-4, scale_by_batch=True)[0].tolist() == [0.0] * 4


def test_gdpo_leaves_missing_term_out_of_its_statistics() -> None:
    (found,) = gdpo_of([[[1.0, 0.0, NAN, 0.5]], [[1.0, 1.0, 0.0, 0.0]]], [1.0, 1.0])
    (first,), (second,) = of(GROUP, [1.0, 0.0, NAN, 0.5]), of(GROUP, [1.0, 1.0, 0.0, 0.0])
    assert found == pytest.approx([a + b for a, b in zip(first, second, strict=True)], abs=1e-6)


@pytest.mark.parametrize("scale_by_batch", [False, True])
@given(
    values=st.lists(st.one_of(st.just(NAN), st.floats(-1e4, 1e4, width=32)), min_size=12, max_size=12),
    weights=st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=2),
)
def test_gdpo_is_finite_for_any_rewards(scale_by_batch: bool, values: list[float], weights: list[float]) -> None:
    terms = torch.tensor(values).view(2, 2, 3)
    assert gdpo(terms, torch.tensor(weights), epsilon=1e-4, scale_by_batch=scale_by_batch).isfinite().all()


# ---- what a function is given ----


def test_compute_advantages_passes_sum_or_terms() -> None:
    """The sum, or the terms and their weights: also through a partial, as the config makes it."""
    terms, weights = torch.tensor([FORMAT, RIGHT]), torch.tensor([0.5, 1.0])
    rewards = torch.tensor([[1.5, 0.5, 1.0, 0.0]])
    assert compute_advantages(center, rewards, terms, weights).tolist() == of(center, [1.5, 0.5, 1.0, 0.0])
    assert compute_advantages(GROUP, rewards, terms, weights).tolist() == of(GROUP, [1.5, 0.5, 1.0, 0.0])
    assert compute_advantages(GDPO, rewards, terms, weights).tolist() == gdpo_of([FORMAT, RIGHT], [0.5, 1.0])


@pytest.mark.parametrize("function", [group, center, rloo, batch, best_of_group, gdpo, max_rl, step])
def test_every_option_requires_group_of_two(function: Advantage) -> None:
    assert function.min_group_size == 2
