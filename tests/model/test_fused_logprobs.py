"""The tiled output layer against log_softmax over the whole vocabulary: values, entropies, gradients of both."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from r1.model import fused_logprobs as head
from r1.model.fused_logprobs import head_logps

Pair = tuple[Tensor, Tensor]


def whole(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, cap: float | None = None) -> Pair:
    """The (N, V) matrix that the tiles do without."""
    logits = hidden @ weight.T / temperature
    logps = (logits if cap is None else cap * torch.tanh(logits / cap)).log_softmax(-1)
    return logps.gather(1, targets[:, None]).squeeze(1), -(logps.exp() * logps).sum(1)


def inputs(num_tokens: int, vocab_size: int, width: int = 6, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    hidden = (scale * torch.randn(num_tokens, width, generator=generator)).requires_grad_()
    weight = torch.randn(vocab_size, width, generator=generator).requires_grad_()
    targets = torch.randint(vocab_size, (num_tokens,), generator=generator)
    return hidden, weight, targets, *torch.randn(2, num_tokens, generator=generator)


def gradients(found: Pair, of_logps: Tensor, of_entropy: Tensor | None, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    total = (found[0] * of_logps).sum() + (0 if of_entropy is None else (found[1] * of_entropy).sum())
    return torch.autograd.grad(total, leaves)


def assert_equals_the_whole(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    of_logps: Tensor,
    of_entropy: Tensor,
    temperature: float,
    chunk: int,
    slack: float = 1.0,
    cap: float | None = None,
) -> None:
    found = head_logps(hidden, weight, targets, temperature, entropy_gradient=True, chunk=chunk, cap=cap)
    expected = whole(hidden, weight, targets, temperature, cap)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * slack)
    leaves = [hidden, weight]
    pairs = zip(
        gradients(found, of_logps, of_entropy, leaves), gradients(expected, of_logps, of_entropy, leaves), strict=True
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5 * slack)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("chunk", [1, 7, 10, 64, 8192])
@pytest.mark.parametrize("cap", [None, 1.5])
def test_head_logps_equals_log_softmax(chunk: int, temperature: float, cap: float | None) -> None:
    assert_equals_the_whole(*inputs(9, 40), temperature, chunk, cap=cap)


@pytest.mark.parametrize("tile", [1, 10, 25, 40, 10**6])  # rows per tile: 1 to all of them
def test_tile_size_does_not_change_head_logps(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    monkeypatch.setattr(head, "TILE", {"cpu": tile})
    assert_equals_the_whole(*inputs(9, 40), 0.8, chunk=10)


@pytest.mark.parametrize("target", [0, 9, 10, 19, 20, 39])  # first and last of a chunk of ten, and of the vocabulary
def test_targets_at_chunk_borders_equal_log_softmax(target: int) -> None:
    hidden, weight, targets, of_logps, of_entropy = inputs(3, 40)
    assert_equals_the_whole(hidden, weight, torch.full_like(targets, target), of_logps, of_entropy, 1.0, chunk=10)


@pytest.mark.parametrize(("num_tokens", "vocab_size"), [(1, 40), (1, 1), (5, 1), (1, 2)])
def test_one_token_and_tiny_vocabularies_equal_log_softmax(num_tokens: int, vocab_size: int) -> None:
    assert_equals_the_whole(*inputs(num_tokens, vocab_size), 1.0, chunk=3)


def test_empty_batch_gives_empty_results() -> None:
    hidden, weight, targets, *_ = inputs(0, 5)
    logps, entropy = head_logps(hidden, weight, targets, 1.0, entropy_gradient=True)
    assert logps.shape == entropy.shape == (0,)
    (logps.sum() + entropy.sum()).backward()
    assert weight.grad.abs().sum() == 0


@given(
    num_tokens=st.integers(1, 7),
    vocab_size=st.integers(1, 30),
    chunk=st.integers(1, 33),
    tile=st.integers(1, 60),
    temperature=st.sampled_from([0.5, 1.0, 1.4]),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
    seed=st.integers(0, 99),
)
def test_head_logps_equals_log_softmax_for_any_shape(
    num_tokens: int, vocab_size: int, chunk: int, tile: int, temperature: float, scale: float, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "TILE", {"cpu": tile})
        given = inputs(num_tokens, vocab_size, seed=seed, scale=scale)
        assert_equals_the_whole(*given, temperature, chunk, slack=20)  # logits up to 100 in single precision


def test_head_logps_matches_hand_computation() -> None:
    """Logits (0, ln 3) at temperature 1: p = (1/4, 3/4)."""
    weight = torch.tensor([[0.0], [math.log(3)]])
    logps, entropy = head_logps(torch.ones(2, 1), weight, torch.tensor([0, 1]), 1.0, chunk=1)
    assert logps.tolist() == pytest.approx([math.log(1 / 4), math.log(3 / 4)])
    assert entropy.tolist() == pytest.approx([-(0.25 * math.log(0.25) + 0.75 * math.log(0.75))] * 2)


@pytest.mark.parametrize("chunk", [4, 8192])
def test_gradient_matches_finite_differences(chunk: int) -> None:
    hidden, weight, targets, of_logps, of_entropy = inputs(2, 9, width=3)

    def total(states: Tensor, matrix: Tensor) -> Tensor:
        logps, entropy = head_logps(states, matrix, targets, 0.7, entropy_gradient=True, chunk=chunk)
        return (logps * of_logps).sum() + (entropy * of_entropy).sum()

    found = torch.autograd.grad(total(hidden, weight), [hidden, weight])
    for leaf, gradient in zip((hidden, weight), found, strict=True):
        for i in range(leaf.numel()):
            step = torch.zeros(leaf.numel())
            step[i] = 0.01
            there, back = (
                total(*(x + sign * step.view_as(x) if x is leaf else x for x in (hidden, weight))).item()
                for sign in (1, -1)
            )
            assert gradient.flatten()[i].item() == pytest.approx((there - back) / 0.02, abs=2e-3)


def test_without_entropy_gradient_the_entropy_is_a_constant() -> None:
    hidden, weight, targets, of_logps, _ = inputs(5, 20)
    logps, entropy = head_logps(hidden, weight, targets, 1.0, chunk=8)
    assert not entropy.requires_grad
    expected = gradients(whole(hidden, weight, targets, 1.0), of_logps, None, [hidden, weight])
    for a, b in zip(gradients((logps, entropy), of_logps, None, [hidden, weight]), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_gradient_of_the_entropy_alone_is_correct() -> None:
    hidden, weight, targets, *_ = inputs(5, 20)
    _, entropy = head_logps(hidden, weight, targets, 1.0, entropy_gradient=True, chunk=8)
    found = torch.autograd.grad(entropy.sum(), [hidden, weight])
    expected = torch.autograd.grad(whole(hidden, weight, targets, 1.0)[1].sum(), [hidden, weight])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_frozen_output_layer_has_no_gradient_and_changes_no_other() -> None:
    """As with adapters: the gradient goes on to the hidden states."""
    hidden, weight, targets, of_logps, of_entropy = inputs(5, 20)
    (expected,) = gradients(whole(hidden, weight, targets, 1.0), of_logps, of_entropy, [hidden])
    frozen = weight.detach()
    found = head_logps(hidden, frozen, targets, 1.0, entropy_gradient=True, chunk=8)
    torch.testing.assert_close(gradients(found, of_logps, of_entropy, [hidden])[0], expected, rtol=1e-4, atol=1e-5)
    assert frozen.grad is None


def test_huge_logits_do_not_overflow() -> None:
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    logps, entropy = head_logps(hidden, weight, torch.tensor([0, 0]), 1.0, entropy_gradient=True, chunk=1)
    assert logps.tolist() == [0.0, -2e4]
    assert entropy.tolist() == [0.0, 0.0]
    (logps.sum() + entropy.sum()).backward()
    assert hidden.grad.isfinite().all()
    assert weight.grad.isfinite().all()


def test_many_tiles_lose_no_precision() -> None:
    """A uniform distribution over 5,000 tokens in tiles of one: entropy ln 5000.

    Each tile may round the float32 entropy by half an ulp of 8.5, 4.8e-7: 2.4e-3 in all, and in practice 1e-4.
    """
    weight = torch.zeros(5000, 2)
    logps, entropy = head_logps(torch.ones(1, 2), weight, torch.tensor([4999]), 1.0, chunk=1)
    assert logps.item() == pytest.approx(-math.log(5000), abs=1e-4)
    assert entropy.item() == pytest.approx(math.log(5000), abs=2e-4)


# ---- half precision ----


@pytest.mark.parametrize("chunk", [8, 8192])
def test_bfloat16_error_is_within_that_of_the_full_matrix(chunk: int) -> None:
    hidden, weight, targets, of_logps, of_entropy = inputs(9, 40)
    exact = whole(hidden, weight, targets, 1.0)
    expected = gradients(exact, of_logps, of_entropy, [hidden, weight])
    half = [x.detach().bfloat16().requires_grad_() for x in (hidden, weight)]
    found = head_logps(*half, targets, 1.0, entropy_gradient=True, chunk=chunk)
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.03, atol=0.06)
    for a, b in zip(gradients(found, of_logps, of_entropy, half), expected, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a.float() - b).norm() < 0.03 * b.norm()


def test_autocast_multiplies_in_half_precision_and_gives_full_gradients() -> None:
    hidden, weight, targets, of_logps, of_entropy = inputs(9, 40)
    expected = whole(hidden, weight, targets, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = head_logps(hidden, weight, targets, 1.0, entropy_gradient=True, chunk=16)
    assert 0 < (found[0] - expected[0]).abs().max() < 0.1
    wanted = gradients(expected, of_logps, of_entropy, [hidden, weight])
    for a, b in zip(gradients(found, of_logps, of_entropy, [hidden, weight]), wanted, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.03 * b.norm()
