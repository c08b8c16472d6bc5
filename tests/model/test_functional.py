"""The tensor functions against numbers worked out by hand, and the sampler against the distribution it draws from."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r1.model.functional import KL_ESTIMATORS, SAMPLE_BLOCK, k1, k2, k3, sample, token_entropy, token_logps

LN3 = math.log(3.0)
LARGEST = 1 - 2.0**-53  # the largest number that a float64 uniform can be


def test_logps_match_hand_computation() -> None:
    logits = torch.tensor([[0.0, LN3], [0.0, LN3]])
    found = token_logps(logits, torch.tensor([0, 1]), temperature=1.0)
    assert found.tolist() == pytest.approx([math.log(0.25), math.log(0.75)], abs=1e-6)


def test_logps_divide_the_logits_by_the_temperature() -> None:
    found = token_logps(torch.tensor([0.0, LN3]), torch.tensor(1), temperature=2.0)
    assert found.item() == pytest.approx(math.log(math.sqrt(3) / (1 + math.sqrt(3))), abs=1e-6)


def test_logps_are_float32_for_any_logits_dtype() -> None:
    logits = torch.linspace(-3, 3, 64, dtype=torch.bfloat16)
    found = token_logps(logits, torch.tensor(5), temperature=1.0)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(logits.double().log_softmax(-1)[5].item(), abs=1e-5)


def test_logps_survive_huge_logits() -> None:
    found = token_logps(torch.tensor([[1e4, -1e4]]).repeat(2, 1), torch.tensor([0, 1]), temperature=1.0)
    assert found.tolist() == [0.0, -2e4]


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=12), st.sampled_from([0.1, 0.6, 1.0, 1.3]))
def test_probabilities_of_all_tokens_sum_to_one(logits: list[float], temperature: float) -> None:
    rows = torch.tensor(logits).repeat(len(logits), 1)
    logps = token_logps(rows, torch.arange(len(logits)), temperature)
    assert logps.max() <= 1e-6
    assert logps.exp().sum().item() == pytest.approx(1.0, abs=1e-4)


def test_entropy_matches_hand_computation() -> None:
    assert token_entropy(torch.zeros(2, 8), 1.0).tolist() == pytest.approx([math.log(8)] * 2, abs=1e-6)
    by_hand = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert token_entropy(torch.tensor([0.0, 2 * LN3]), 2.0).item() == pytest.approx(by_hand, abs=1e-6)


def test_kl_estimators_match_hand_computation() -> None:
    logps, ref_logps = torch.tensor(0.5).log(), torch.tensor(0.25).log()  # p / q = 2
    assert k1(logps, ref_logps).item() == pytest.approx(math.log(2), abs=1e-6)
    assert k2(logps, ref_logps).item() == pytest.approx(math.log(2) ** 2 / 2, abs=1e-6)
    assert k3(logps, ref_logps).item() == pytest.approx(0.5 - 1 + math.log(2), abs=1e-6)


@pytest.mark.parametrize("name", list(KL_ESTIMATORS))
def test_kl_to_itself_is_exactly_zero(name: str) -> None:
    logps = torch.tensor([-0.1, -3.0, -40.0])
    assert KL_ESTIMATORS[name](logps, logps.clone()).tolist() == [0.0] * 3


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    logps, ref_logps = torch.randn(2, 9, generator=generator, dtype=torch.float64).log_softmax(-1)
    expected = (logps.exp() * KL_ESTIMATORS[name](logps, ref_logps)).sum()
    true_kl = torch.nn.functional.kl_div(ref_logps, logps, log_target=True, reduction="sum")
    assert expected.item() == pytest.approx(true_kl.item(), abs=1e-12)


def test_the_expected_gradient_of_k2_is_that_of_the_kl() -> None:
    generator = torch.Generator().manual_seed(2)
    logits, ref = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    logps, ref_logps = logits.log_softmax(-1), ref.log_softmax(-1)
    on_policy = (logps.exp().detach() * k2(logps, ref_logps)).sum()
    true_kl = (logps.exp() * (logps - ref_logps)).sum()
    torch.testing.assert_close(
        torch.autograd.grad(on_policy, logits, retain_graph=True), torch.autograd.grad(true_kl, logits)
    )


def test_sample_inverts_the_cumulative_distribution() -> None:
    logits = torch.tensor([0.25, 0.25, 0.5]).log().repeat(6, 1)
    uniform = torch.tensor([0.0, 0.2499, 0.2501, 0.4999, 0.5001, LARGEST], dtype=torch.float64)
    assert sample(logits, uniform, temperature=1.0)[0].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.3])
def test_sample_frequencies_match_the_softmax(temperature: float) -> None:
    draws = 40_000
    logits = torch.tensor([1.5, 0.3, -0.2, 0.0, -1.0, 2.0])
    uniform = torch.rand(draws, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    counts = sample(logits.repeat(draws, 1), uniform, temperature)[0].bincount(minlength=6)
    expected = (logits / temperature).softmax(-1) * draws
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 20.5  # 99.9 % of the chi-square distribution with 5 degrees of freedom


def test_sample_is_greedy_at_temperature_zero() -> None:
    logits = torch.tensor([[0.0, 1.0, 0.9], [2.0, 1.0, 1.9]])
    tokens, logps = sample(logits, torch.tensor([0.99, 0.0], dtype=torch.float64), temperature=0)
    assert tokens.tolist() == [1, 0]
    assert logps.tolist() == pytest.approx([logits[0].log_softmax(0)[1].item(), logits[1].log_softmax(0)[0].item()])


@given(
    st.lists(st.one_of(st.just(-math.inf), st.floats(-40, 40)), min_size=2, max_size=9).filter(
        lambda logits: max(logits) > -math.inf
    ),
    st.one_of(st.sampled_from([0.0, LARGEST]), st.floats(0, LARGEST)),
    st.sampled_from([0.6, 1.0, 1.3]),
)
def test_sample_never_draws_probability_zero(logits: list[float], uniform: float, temperature: float) -> None:
    row = torch.tensor([logits])
    drawn, _ = sample(row, torch.tensor([uniform], dtype=torch.float64), temperature)
    assert (row / temperature).softmax(-1)[0, drawn].item() > 0


def test_sample_rows_are_independent() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(16, 50, generator=generator) * 3
    uniform = torch.rand(16, generator=generator, dtype=torch.float64)
    together, _ = sample(logits, uniform, 1.0)
    alone = torch.cat([sample(logits[b : b + 1], uniform[b : b + 1], 1.0)[0] for b in range(16)])
    assert together.equal(alone)
    assert len(set(together.tolist())) > 8


@given(
    size=st.sampled_from([2, SAMPLE_BLOCK - 1, SAMPLE_BLOCK, SAMPLE_BLOCK + 1, 2 * SAMPLE_BLOCK, 3 * SAMPLE_BLOCK + 7]),
    seed=st.integers(0, 10_000),
    uniform=st.one_of(st.sampled_from([0.0, LARGEST]), st.floats(0, LARGEST)),
    scale=st.sampled_from([0.0, 1.0, 12.0]),
)
def test_sample_in_blocks_equals_one_cumulative_sum(size: int, seed: int, uniform: float, scale: float) -> None:
    """The token's share of the whole sum covers the number drawn, whatever block it lies in."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(1, size, generator=generator)
    logits[0, torch.rand(size, generator=generator) < 0.3] = -math.inf  # whole blocks may end in tokens of no chance
    logits[0, seed % size] = 0.0
    tokens, _ = sample(logits, torch.tensor([uniform], dtype=torch.float64), 1.0)
    cdf = logits.double().softmax(-1).cumsum(-1)[0]
    drawn = int(tokens)
    assert logits[0, drawn] > -math.inf
    assert (cdf[drawn - 1] if drawn else 0.0) <= uniform * cdf[-1] + 1e-6
    assert uniform * cdf[-1] <= cdf[drawn] + 1e-6


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.3])
def test_sample_returns_the_logp_of_the_sampled_token(temperature: float) -> None:
    generator = torch.Generator().manual_seed(7)
    logits = 3 * torch.randn(8, 300, generator=generator)
    tokens, logps = sample(logits, torch.rand(8, generator=generator, dtype=torch.float64), temperature)
    torch.testing.assert_close(logps, token_logps(logits, tokens, temperature), rtol=0, atol=1e-5)
    assert logps.dtype == torch.float32
