"""The tiled divergences against sums over the whole vocabulary: values, gradients, and what they mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from r1.model import fused_logprobs as head
from r1.model.fused_divergence import Caps, Divergence, head_divergence, logits_divergence
from r1.stage.divergence.forward_kl import forward_kl
from r1.stage.divergence.jsd import jsd
from r1.stage.divergence.reverse_kl import reverse_kl

Reference = Callable[[Tensor, Tensor], Tensor]


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(-1)


def mixed(beta: float) -> Reference:
    """GKD eq. 1."""
    return lambda p, q: beta * kl(p, beta * p + (1 - beta) * q) + (1 - beta) * kl(q, beta * p + (1 - beta) * q)


CASES: dict[str, tuple[Divergence, Reference]] = {
    "forward_kl": (forward_kl, kl),
    "reverse_kl": (reverse_kl, lambda p, q: kl(q, p)),
    "jsd(0.5)": (partial(jsd, beta=0.5), mixed(0.5)),
    "jsd(0.1)": (partial(jsd, beta=0.1), mixed(0.1)),
    "jsd(0.9)": (partial(jsd, beta=0.9), mixed(0.9)),
}
every_case = pytest.mark.parametrize("name", list(CASES))


def inputs(num_tokens: int, vocab_size: int, seed: int = 0, scale: float = 0.5) -> tuple[Tensor, ...]:
    """Hidden states and output layer of a student, the same of a wider teacher, and a gradient for each token."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return scale * torch.randn(*shape, generator=generator)

    student = draw(num_tokens, 6).requires_grad_(), draw(vocab_size, 6).requires_grad_()
    return *student, draw(num_tokens, 9), draw(vocab_size, 9), draw(num_tokens)


def assert_equals_the_whole(
    name: str, given: tuple[Tensor, ...], temperature: float, chunk: int, caps: Caps = (None, None)
) -> None:
    divergence, reference = CASES[name]
    hidden, weight, teacher_hidden, teacher_weight, slopes = given
    found = head_divergence(hidden, weight, teacher_hidden, teacher_weight, temperature, divergence, chunk, caps)
    logits = hidden @ weight.T / temperature, teacher_hidden @ teacher_weight.T / temperature
    q, p = ((z if cap is None else cap * torch.tanh(z / cap)).softmax(-1) for z, cap in zip(logits, caps, strict=True))
    expected = reference(p, q)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    pairs = zip(*(torch.autograd.grad(value @ slopes, [hidden, weight]) for value in (found, expected)), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@every_case
@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.0])
@pytest.mark.parametrize("chunk", [1, 7, 40, 8192])
def test_head_divergence_equals_full_vocabulary_sum(name: str, chunk: int, temperature: float) -> None:
    assert_equals_the_whole(name, inputs(9, 40), temperature, chunk)


@every_case
@pytest.mark.parametrize("caps", [(0.7, None), (None, 0.7), (0.9, 0.6)])
def test_soft_caps_of_either_model_equal_full_vocabulary_sum(name: str, caps: Caps) -> None:
    assert_equals_the_whole(name, inputs(9, 40), 0.8, chunk=7, caps=caps)


@every_case
@given(st.integers(1, 7), st.integers(1, 30), st.integers(1, 33), st.integers(1, 60), st.integers(0, 99))
def test_head_divergence_equals_full_sum_for_any_shape(
    name: str, num_tokens: int, vocab_size: int, chunk: int, tile: int, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "TILE", {"cpu": tile})
        assert_equals_the_whole(name, inputs(num_tokens, vocab_size, seed), 0.8, chunk)


@every_case
@pytest.mark.parametrize("chunk", [3, 8192])
def test_divergence_to_itself_is_zero_with_zero_gradient(name: str, chunk: int) -> None:
    hidden, weight, *_ = inputs(5, 20, scale=2.0)
    found = head_divergence(hidden, weight, hidden.detach(), weight.detach(), 1.0, CASES[name][0], chunk)
    assert found.abs().max() < 1e-6
    for gradient in torch.autograd.grad(found.sum(), [hidden, weight]):
        assert gradient.abs().max() < 1e-5


@every_case
@given(st.integers(0, 999), st.sampled_from([0.1, 1.0, 5.0]))
def test_divergence_is_never_negative(name: str, seed: int, scale: float) -> None:
    hidden, weight, teacher_hidden, teacher_weight, _ = inputs(4, 12, seed, scale)
    found = head_divergence(hidden, weight, teacher_hidden, teacher_weight, 1.0, CASES[name][0], chunk=5)
    assert found.min() > -1e-5


def by_hand(divergence: Divergence) -> tuple[float, list[float]]:
    """Teacher (1/2, 1/2), student (1/4, 3/4): the divergence and its gradient by the student's two logits."""
    logits = torch.tensor([[0.0, math.log(3)]], requires_grad=True)
    layer = torch.eye(2)
    found = head_divergence(logits, layer, torch.zeros(1, 2), layer, 1.0, divergence, chunk=1)
    (gradient,) = torch.autograd.grad(found, logits)
    return found.item(), gradient[0].tolist()


def test_forward_kl_matches_hand_computation() -> None:
    """(ln 2 + ln 2/3) / 2, and q - p."""
    value, gradient = by_hand(forward_kl)
    assert value == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert gradient == pytest.approx([-0.25, 0.25])


def test_reverse_kl_matches_hand_computation() -> None:
    """ln(1/2) / 4 + 3 ln(3/2) / 4 = 0.13081, and q (log q/p - KL)."""
    value, gradient = by_hand(reverse_kl)
    assert value == pytest.approx(0.13081, abs=1e-5)
    assert gradient == pytest.approx([0.25 * (math.log(0.5) - value), 0.75 * (math.log(1.5) - value)])


def test_jsd_matches_hand_computation() -> None:
    """m = (3/8, 5/8): half of ln(4/3)/2 + ln(4/5)/2, and half of ln(2/3)/4 + 3 ln(6/5)/4."""
    value, _ = by_hand(partial(jsd, beta=0.5))
    forward = 0.5 * math.log(4 / 3) + 0.5 * math.log(4 / 5)
    reverse = 0.25 * math.log(2 / 3) + 0.75 * math.log(6 / 5)
    assert value == pytest.approx(0.5 * forward + 0.5 * reverse)


@pytest.mark.parametrize(("beta", "limit"), [(1e-3, forward_kl), (1 - 1e-3, reverse_kl)])
def test_jsd_limits_are_the_two_kls(beta: float, limit: Divergence) -> None:
    value, gradient = by_hand(partial(jsd, beta=beta))
    expected, slopes = by_hand(limit)
    size = min(beta, 1 - beta)
    assert value / size == pytest.approx(expected, rel=2e-3)
    assert [slope / size for slope in gradient] == pytest.approx(slopes, rel=5e-3)


def test_reverse_kl_has_the_mean_gradient_of_the_sampled_one() -> None:
    """sum over x of q(x) grad log q(x) (log q(x) - log p(x)): what a policy gradient estimates from one token."""
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(1), requires_grad=True)
    theirs = torch.randn(1, 12, generator=torch.Generator().manual_seed(2))
    (found,) = torch.autograd.grad(logits_divergence(logits, theirs, 1.0, reverse_kl).sum(), logits)
    logps, p = logits.log_softmax(-1), theirs.log_softmax(-1)
    surrogate = (logps.exp().detach() * (logps - p).detach() * logps).sum()
    (expected,) = torch.autograd.grad(surrogate, logits)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@every_case
@pytest.mark.parametrize(("ours", "theirs"), [(40, 43), (43, 40)])
def test_longer_padded_vocabulary_is_cut(name: str, ours: int, theirs: int) -> None:
    divergence = CASES[name][0]
    hidden, weight, teacher_hidden, teacher_weight, slopes = inputs(5, 43)
    weight, teacher_weight = weight[:ours], teacher_weight[:theirs]
    found = head_divergence(hidden, weight, teacher_hidden, teacher_weight, 1.0, divergence, chunk=8)
    logits = logits_divergence(hidden @ weight.T, teacher_hidden @ teacher_weight.T, 1.0, divergence)
    expected = head_divergence(hidden, weight[:40], teacher_hidden, teacher_weight[:40], 1.0, divergence)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(logits, expected)
    a, b = (torch.autograd.grad(value @ slopes, weight, retain_graph=True)[0] for value in (found, expected))
    torch.testing.assert_close(a, b)


@every_case
def test_a_frozen_output_layer_gets_no_gradient(name: str) -> None:
    hidden, weight, *rest, slopes = inputs(5, 20)
    expected = torch.autograd.grad(head_divergence(hidden, weight, *rest, 1.0, CASES[name][0]) @ slopes, hidden)
    frozen = head_divergence(hidden, weight.detach(), *rest, 1.0, CASES[name][0], chunk=8) @ slopes
    torch.testing.assert_close(torch.autograd.grad(frozen, hidden), expected)


@every_case
def test_huge_logits_do_not_overflow(name: str) -> None:
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    found = head_divergence(hidden, weight, -hidden.detach(), weight.detach(), 1.0, CASES[name][0], chunk=1)
    assert found.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(found.sum(), [hidden, weight]))


@every_case
def test_autocast_multiplies_in_half_precision_and_gives_full_gradients(name: str) -> None:
    hidden, weight, *rest, slopes = inputs(9, 40)
    exact = head_divergence(hidden, weight, *rest, 1.0, CASES[name][0])
    with torch.autocast("cpu", torch.bfloat16):
        found = head_divergence(hidden, weight, *rest, 1.0, CASES[name][0], chunk=8)
    pairs: Any = zip(*(torch.autograd.grad(v @ slopes, [hidden, weight]) for v in (found, exact)), strict=True)
    torch.testing.assert_close(found, exact, rtol=0.1, atol=0.02)
    for a, b in pairs:
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.05 * b.norm()
