"""Attention with all of its parts equals a sum over keys that is written out."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from r1.model.attention import attend, soft_cap
from r1.model.transformers_adapter import MaskPattern, check_attention, mask_pattern

Make = Callable[..., PreTrainedModel]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written_out(
    query: Tensor, key: Tensor, value: Tensor, sees: Tensor, scale: float, cap: float | None, sinks: Tensor | None
) -> Tensor:
    """One head and one query at a time."""
    rows, heads, length, _ = query.shape
    out = torch.zeros(rows, heads, length, value.shape[-1], dtype=query.dtype)
    for n in range(rows):
        for h in range(heads):
            k = h * key.shape[1] // heads
            for i in range(length):
                total = 0.0 if sinks is None else math.exp(sinks[h])
                for j in range(key.shape[2]):
                    score = float(query[n, h, i] @ key[n, k, j]) * scale
                    score = score if cap is None else cap * math.tanh(score / cap)
                    weight = math.exp(score) if sees[i, j] else 0.0
                    total += weight
                    out[n, h, i] += weight * value[n, k, j]
                out[n, h, i] /= total
    return out


@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attend_equals_a_written_out_sum(cap: float | None, with_sinks: bool, masked: bool) -> None:
    """Two query heads per key/value head, values of another size than keys."""
    query, key, value = 2 * random(2, 4, 5, 6), random(2, 2, 5, 6, seed=1), random(2, 2, 5, 3, seed=2)
    sinks = random(4, seed=3) if with_sinks else None
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    sees = causal & causal.T.roll(1, 0).logical_not().logical_or(torch.eye(5, dtype=torch.bool)) if masked else causal
    sees = sees.triu(-2) if masked else sees  # three tokens
    found = attend(query, key, value, sees[None, None] if masked else None, 0.7, softcap=cap, sinks=sinks)
    torch.testing.assert_close(found, written_out(query, key, value, sees, 0.7, cap, sinks))


def test_soft_cap_matches_hand_computation() -> None:
    found = soft_cap(torch.tensor([0.001, 2.0, -1000.0]), 2.0)
    assert found.tolist() == pytest.approx([0.001, 2 * math.tanh(1), -2.0], rel=1e-6)


def test_gradients_reach_the_sinks() -> None:
    sinks = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    states = random(1, 4, 3, 6), random(1, 2, 3, 6, seed=1), random(1, 2, 3, 6, seed=2)
    assert torch.autograd.gradcheck(lambda s: attend(*states, None, None, sinks=s), [sinks], eps=1e-2, atol=1e-3)


# ---- which masks are known ----


def test_mask_pattern_shows_a_window_at_any_positions() -> None:
    from transformers.masking_utils import sliding_window_causal_mask_function

    pattern = mask_pattern(mask_function=sliding_window_causal_mask_function(3), local_size=3, batch_size=7)
    assert pattern is not None
    assert pattern.reach == 3
    assert pattern.visible(torch.tensor([[9]]), torch.tensor([[6, 7, 8, 9, 10]])).tolist() == [
        [False, True, True, True, False]
    ]


def test_windows_slide_and_chunks_do_not() -> None:
    from transformers.masking_utils import chunked_causal_mask_function, sliding_window_causal_mask_function

    for size in (2, 3, 8):
        chunks = chunked_causal_mask_function(size, torch.zeros(1, dtype=torch.long))
        assert MaskPattern(sliding_window_causal_mask_function(size), size).slides
        assert not MaskPattern(chunks, size).slides


def test_causal_mask_is_no_pattern_and_others_raise() -> None:
    from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

    assert mask_pattern(mask_function=causal_mask_function) is None
    for kwargs in ({"use_vmap": True}, {"allow_is_causal_skip": False}):
        with pytest.raises(ValueError, match="mask"):
            mask_pattern(mask_function=causal_mask_function, **kwargs)
    with pytest.raises(ValueError, match="mask"):
        mask_pattern(mask_function=bidirectional_mask_function)


@pytest.mark.parametrize("name", ["position_bias", "indices", "an argument of a later version"])
def test_unknown_argument_of_attention_raises(name: str) -> None:
    pattern = MaskPattern(lambda *_: torch.ones(1), 3)
    assert check_attention(pattern, {name: None, "sliding_window": 4, "is_causal": True}) is pattern
    with pytest.raises(ValueError, match=name):
        check_attention(None, {name: torch.ones(1)})
    with pytest.raises(ValueError, match="mask of its own"):
        check_attention(torch.ones(1, 1, 2, 2), {})
