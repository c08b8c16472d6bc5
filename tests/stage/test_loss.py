"""Each policy loss against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from options import build_option, option_names
from torch import Tensor

from r1.stage.loss.base import Clip, ClippedLoss, Loss, StepCounts
from r1.stage.loss.bnpo import Bnpo
from r1.stage.loss.cispo import Cispo
from r1.stage.loss.dapo import Dapo
from r1.stage.loss.dr_grpo import DrGrpo
from r1.stage.loss.grpo import Grpo
from r1.stage.loss.gspo import Gspo
from r1.stage.loss.kimi import Kimi
from r1.stage.loss.sapo import Sapo

SAPO, KIMI = Sapo(temperature_pos=1.0, temperature_neg=2.0), Kimi(tau=0.1)
CLIP = Clip(low=0.2, high=0.28)
DUAL = Clip(low=0.2, high=0.28, dual=3.0)


def counts_of(num_tokens: int, num_sequences: int, max_completion_length: int, device_tokens: int = 0) -> StepCounts:
    """Of one device, or of the first of two if ``device_tokens`` says how many of the tokens are its own."""
    return StepCounts(
        num_tokens=num_tokens,
        num_sequences=num_sequences,
        max_completion_length=max_completion_length,
        device_tokens=device_tokens or num_tokens,
        num_devices=2 if device_tokens else 1,
        active_tokens=num_tokens,
    )


MASK = torch.tensor([[True, True, True, True], [False, True, False, False]])  # completions of 4 tokens and of 1
COUNTS = counts_of(num_tokens=20, num_sequences=8, max_completion_length=10, device_tokens=5)  # of the whole step
WEIGHTS: list[tuple[Loss, list[list[float]]]] = [
    (Grpo(), [[1 / 32] * 4, [0, 1 / 8, 0, 0]]),
    (Dapo(), [[1 / 20] * 4, [0, 1 / 20, 0, 0]]),
    (Bnpo(), [[1 / 5 / 2] * 4, [0, 1 / 5 / 2, 0, 0]]),
    (DrGrpo(), [[1 / 80] * 4, [0, 1 / 80, 0, 0]]),
    (Cispo(), [[1 / 20] * 4, [0, 1 / 20, 0, 0]]),
    (Gspo(), [[1 / 32] * 4, [0, 1 / 8, 0, 0]]),
    (SAPO, [[1 / 32] * 4, [0, 1 / 8, 0, 0]]),
    (KIMI, [[1 / 32] * 4, [0, 1 / 8, 0, 0]]),
]


def cost(ratio: float, advantage: float, clip: Clip = CLIP) -> tuple[float, bool]:
    """What one token costs with epsilon 0.2 below and 0.28 above, and whether it was clipped."""
    logps, one = torch.tensor([[math.log(ratio)]]), torch.ones(1, 1)
    found, clipped = ClippedLoss().per_token(logps, 0 * one, advantage * one, one > 0, clip)
    return found.item(), clipped.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.1, 2.0, -2.2, False),
        (1.5, 2.0, -2.56, True),  # gains nothing beyond 1.28
        (0.5, 2.0, -1.0, False),  # a good token that became rarer is pulled back
        (1.1, -2.0, 2.2, False),
        (1.5, -2.0, 3.0, False),  # a bad token that became likelier is pulled back
        (0.5, -2.0, 1.6, True),  # gains nothing below 0.8
        (1.5, 0.0, 0.0, False),
    ],
)
def test_per_token_loss_matches_hand_computation(
    ratio: float, advantage: float, expected: float, clipped: bool
) -> None:
    found, was_clipped = cost(ratio, advantage)
    assert found == pytest.approx(expected, abs=1e-6)
    assert was_clipped == clipped


def gradient(ratio: float, advantage: float, clip: Clip = CLIP) -> float:
    logps = torch.tensor([[math.log(ratio)]], requires_grad=True)
    one = torch.ones(1, 1)
    ClippedLoss().per_token(logps, 0 * one, advantage * one, one > 0, clip)[0].sum().backward()
    assert logps.grad is not None
    return logps.grad.item()


@pytest.mark.parametrize(("ratio", "advantage", "expected"), [(1.0, 2.0, -2.0), (0.5, 2.0, -1.0), (1.5, -2.0, 3.0)])
def test_token_gradient_is_ratio_times_advantage(ratio: float, advantage: float, expected: float) -> None:
    assert gradient(ratio, advantage) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("ratio", "advantage"), [(1.5, 2.0), (0.5, -2.0), (1.5, 0.0)])
def test_clipped_token_has_zero_gradient(ratio: float, advantage: float) -> None:
    assert gradient(ratio, advantage) == 0.0


@pytest.mark.parametrize(("loss", "expected"), WEIGHTS)
def test_weights_match_hand_computation(loss: Loss, expected: list[list[float]]) -> None:
    torch.testing.assert_close(loss.weights(MASK, COUNTS), torch.tensor(expected))


EVERY = [
    (Grpo(), 1.0),
    (Dapo(), 1.0),
    (Bnpo(), 1.0),
    (DrGrpo(), 0.5),
    (Cispo(), 1.0),
    (Gspo(), 1.0),
    (SAPO, 1.0),
    (KIMI, 1.0),
]


@pytest.mark.parametrize(("loss", "total"), EVERY)
def test_weights_of_micro_batches_are_those_of_the_step(loss: Loss, total: float) -> None:
    """Four completions of 2 tokens in micro-batches of two; 8 of at most 16 tokens."""
    counts = counts_of(num_tokens=8, num_sequences=4, max_completion_length=4)
    parts: list[Tensor] = [loss.weights(torch.tensor([[True, True, False]] * 2), counts) for _ in range(2)]
    assert sum(part.sum().item() for part in parts) == pytest.approx(total)


@pytest.mark.parametrize(("loss", "long", "short"), [(Grpo(), 0.5, 0.5), (Dapo(), 0.8, 0.2), (DrGrpo(), 0.4, 0.1)])
def test_weights_of_long_and_short_completions(loss: Loss, long: float, short: float) -> None:
    """A completion of 4 tokens and one of 1, of at most 5: the difference between the three losses."""
    weights = loss.weights(MASK, counts_of(num_tokens=5, num_sequences=2, max_completion_length=5)).sum(1)
    assert weights.tolist() == pytest.approx([long, short])


# ---- nothing to divide by ----


@pytest.mark.parametrize("loss", [loss for loss, _ in EVERY])
def test_weights_of_step_without_tokens_are_zero(loss: Loss) -> None:
    counts = StepCounts(0, 0, max_completion_length=4, device_tokens=0, num_devices=2, active_tokens=0)
    assert loss.weights(torch.zeros(2, 4, dtype=torch.bool), counts).tolist() == [[0.0] * 4] * 2


# ---- the dual clip ----


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "clipped"),
    [
        (5.0, -2.0, 6.0, True),  # 3 times the advantage at most
        (2.9, -2.0, 5.8, False),
        (5.0, 2.0, -2.56, True),  # a good token is held by the upper clip, as without
        (0.5, -2.0, 1.6, True),  # and the lower one is as it was
    ],
)
def test_dual_clip_bounds_loss_of_negative_advantage(
    ratio: float, advantage: float, expected: float, clipped: bool
) -> None:
    assert cost(ratio, advantage, DUAL) == (pytest.approx(expected, abs=1e-5), clipped)


def test_token_beyond_dual_clip_has_zero_gradient() -> None:
    assert gradient(5.0, -2.0, CLIP) == pytest.approx(10.0)
    assert gradient(5.0, -2.0, DUAL) == 0.0
    assert gradient(2.9, -2.0, DUAL) == pytest.approx(5.8)


# ---- bnpo ----


def test_bnpo_is_mean_of_device_means() -> None:
    """A device with 3 tokens and one with 1, every token costing 1 on the first and 9 on the second: (1 + 9) / 2."""
    total = 0.0
    for num_tokens, value in ((3, 1.0), (1, 9.0)):
        counts = counts_of(num_tokens=4, num_sequences=2, max_completion_length=4, device_tokens=num_tokens)
        total += float(value * Bnpo().weights(torch.ones(1, num_tokens, dtype=torch.bool), counts).sum())
    assert total == pytest.approx(5.0)  # DAPO: (3 + 9) / 4


# ---- cispo and gspo ----


@pytest.mark.parametrize(("ratio", "weight", "clipped"), [(1.1, 1.1, False), (1.5, 1.28, True), (0.5, 0.5, False)])
def test_cispo_clipped_token_keeps_its_gradient(ratio: float, weight: float, clipped: bool) -> None:
    logps = torch.tensor([[math.log(ratio)]], requires_grad=True)
    one = torch.ones(1, 1)
    cost, was_clipped = Cispo().per_token(logps, 0 * one, 2 * one, one > 0, CLIP)
    cost.sum().backward()
    assert logps.grad is not None
    assert logps.grad.item() == pytest.approx(-2 * weight)
    assert cost.item() == pytest.approx(-2 * weight * math.log(ratio))
    assert was_clipped.item() == clipped


def test_gspo_has_one_ratio_per_completion() -> None:
    """Token ratios 1.2 and 1/1.2 * 1.1^2 make the geometric mean 1.1, which scales both tokens' gradients alike."""
    logps = torch.tensor([[math.log(1.2), math.log(1.1**2 / 1.2), 9.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    cost, clipped = Gspo().per_token(logps, torch.zeros(1, 3), torch.tensor([[2.0]]), mask, CLIP)
    assert cost[0, :2].tolist() == pytest.approx([-2.2, -2.2])
    assert not clipped.any()
    (cost * Gspo().weights(mask, counts_of(num_tokens=2, num_sequences=1, max_completion_length=3))).sum().backward()
    assert logps.grad is not None
    assert logps.grad[0].tolist() == pytest.approx([-1.1, -1.1, 0.0])


def test_gspo_clips_all_tokens_of_a_completion() -> None:
    logps = torch.full((1, 2), math.log(1.5), requires_grad=True)
    cost, clipped = Gspo().per_token(logps, torch.zeros(1, 2), torch.ones(1, 1), torch.ones(1, 2) > 0, CLIP)
    assert cost.tolist() == [pytest.approx([-1.28, -1.28])]
    assert clipped.all()
    cost.sum().backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [[0.0, 0.0]]


# ---- sapo and kimi: nothing is clipped ----

THREE = torch.tensor([[math.log(1.1), math.log(1.5), 9.0]])  # the second beyond the clip, the third masked
TWO_TOKENS = torch.tensor([[True, True, False]])


def cost_and_gradient(loss: Loss, advantage: float) -> tuple[list[float], list[float]]:
    """Costs of the two tokens, and the gradient of their weighted sum at all three."""
    logps = THREE.clone().requires_grad_()
    cost, clipped = loss.per_token(logps, torch.zeros(1, 3), torch.tensor([[advantage]]), TWO_TOKENS, CLIP)
    (
        cost * loss.weights(TWO_TOKENS, counts_of(num_tokens=2, num_sequences=1, max_completion_length=3))
    ).sum().backward()
    assert logps.grad is not None
    assert not clipped.any()
    return cost[0, :2].tolist(), logps.grad[0].tolist()


@pytest.mark.parametrize(("advantage", "tau"), [(2.0, 1.0), (-2.0, 2.0)])
def test_sapo_fades_the_gradient_of_far_tokens(advantage: float, tau: float) -> None:
    """Gate 4 / tau s with s = 1 / (1 + e^(-tau (r - 1))); its slope 4 s (1 - s) r is 1 at r = 1."""
    costs, gradient = cost_and_gradient(SAPO, advantage)
    s = [1 / (1 + math.exp(-tau * gap)) for gap in (0.1, 0.5)]
    assert costs == pytest.approx([-4 / tau * s[0] * advantage, -4 / tau * s[1] * advantage])
    slopes = [4 * s[0] * (1 - s[0]) * 1.1, 4 * s[1] * (1 - s[1]) * 1.5]
    assert gradient == pytest.approx([-advantage * slopes[0] / 2, -advantage * slopes[1] / 2, 0.0])
    assert slopes[1] < 1.5 * 0.95


def test_sapo_matches_numbers_by_hand() -> None:
    """s(0.1) = 0.524979, s(0.5) = 0.622459 at tau 1 and advantage 1."""
    costs, gradient = cost_and_gradient(SAPO, 1.0)
    assert costs == pytest.approx([-2.099917, -2.489837], abs=1e-5)
    assert gradient == pytest.approx([-0.548627, -0.705011, 0.0], abs=1e-5)


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_kimi_is_squared_distance_of_log_ratio_to_advantage(advantage: float) -> None:
    """rho = log 1.65 over the completion: A rho - tau / 2 rho^2, whose gradient at each token is A - tau rho."""
    rho = math.log(1.1 * 1.5)
    costs, gradient = cost_and_gradient(KIMI, advantage)
    assert costs == pytest.approx([0.05 * rho**2 - advantage * rho] * 2)
    assert costs[0] == pytest.approx(((advantage - 0.1 * rho) ** 2 - advantage**2) / 0.2, abs=1e-5)
    assert gradient == pytest.approx([0.1 * rho - advantage] * 2 + [0.0])


def test_kimi_has_no_gradient_at_its_target() -> None:
    """A = tau rho: the closed form pi = pi_old e^(A / tau)."""
    _, gradient = cost_and_gradient(KIMI, 0.1 * math.log(1.65))
    assert gradient == pytest.approx([0.0] * 3, abs=1e-7)


# ---- every option of conf/stage/loss ----

OPTIONS: list[Loss] = [build_option("stage/loss", option) for option in option_names("stage/loss")]


@pytest.mark.parametrize("loss", OPTIONS)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4), size=st.integers(1, 3))
def test_loss_weights_of_a_step_sum_to_at_most_one(loss: Loss, lengths: list[int], size: int) -> None:
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    counts = counts_of(num_tokens=sum(lengths), num_sequences=len(lengths), max_completion_length=5)
    weights = [loss.weights(part, counts) for part in mask.split(size)]
    assert torch.cat(weights)[~mask].eq(0).all()
    assert 0 <= sum(part.sum().item() for part in weights) <= 1 + 1e-6
    torch.testing.assert_close(torch.cat(weights), loss.weights(mask, counts))  # whatever the micro-batches are


@pytest.mark.parametrize("loss", OPTIONS)
@given(
    gaps=st.lists(st.floats(-20, 20, width=32), min_size=4, max_size=4),
    advantage=st.floats(-10, 10, width=32),
    clip=st.sampled_from([CLIP, DUAL]),
)
def test_loss_is_finite_and_ignores_masked_tokens(loss: Loss, gaps: list[float], advantage: float, clip: Clip) -> None:
    logps = torch.tensor([gaps, gaps], requires_grad=True)
    advantages = torch.tensor([[advantage], [-advantage]])
    costs, clipped = loss.per_token(logps, torch.zeros(2, 4), advantages, MASK, clip)
    assert costs.shape == clipped.shape == MASK.shape
    assert clipped.dtype == torch.bool
    (costs.masked_fill(~MASK, 0) * loss.weights(MASK, COUNTS)).sum().backward()
    assert logps.grad is not None
    assert costs[MASK].isfinite().all()
    assert logps.grad.isfinite().all()
    assert logps.grad[~MASK].eq(0).all()
