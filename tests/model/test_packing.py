"""How a batch is laid out in one row, and what a token may see there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from r1.model import packing
from r1.model.packing import Layout, attention, pack
from r1.model.sequences import Sequences, stack
from r1.model.transformers_adapter import checkpoint_contexts, custom_attention

Pair = tuple[list[int], list[int]]
A, B = [1, 2, 3], [4]
PAIRS: list[Pair] = [(A, [11, 12, 13, 14, 15]), (B, [21]), (A, [31, 32]), (B, [41, 42, 43, 44, 45])]
tokens = st.lists(st.integers(1, 9), min_size=1, max_size=7)
pairs = st.lists(st.tuples(st.sampled_from([[1], [2, 3], [4, 5, 6, 7, 8]]) | tokens, tokens), min_size=1, max_size=7)


# ---- by hand ----


def test_pack_shared_matches_hand_computation() -> None:
    """Prompts first, then the completions but for their last tokens, those of similar lengths side by side."""
    layout = pack(stack(PAIRS, 0), share_prompts=True)
    prompts, long, short = layout.segments
    assert layout.input_ids.tolist() == [[1, 2, 3, 4, 0, 0, 11, 12, 13, 14, 41, 42, 43, 44, 31]]
    assert layout.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 3]]
    assert [(s.start, s.rows, s.width) for s in layout.segments] == [(0, 2, 3), (6, 2, 4), (14, 1, 1)]
    assert (prompts.mask, prompts.prompts) == (None, None)
    assert (long.prompts.tolist(), short.prompts.tolist()) == ([0, 1], [0])
    assert long.mask[1, 0].int().tolist() == [  # prompt B has one token; then its own past
        [1, 0, 0, 1, 0, 0, 0],
        [1, 0, 0, 1, 1, 0, 0],
        [1, 0, 0, 1, 1, 1, 0],
        [1, 0, 0, 1, 1, 1, 1],
    ]
    assert short.mask[0, 0].int().tolist() == [[1, 1, 1, 1]]
    assert layout.sources.tolist() == [2, 6, 7, 8, 9, 3, 2, 14, 3, 10, 11, 12, 13]


def test_pack_separate_matches_hand_computation() -> None:
    """Sorted by length, 7 tokens and then the two of 4 and 5, and the one of 1 on its own."""
    layout = pack(stack(PAIRS, 0), share_prompts=False)
    assert [(s.start, s.rows, s.width) for s in layout.segments] == [(0, 1, 7), (7, 2, 5), (17, 1, 1)]
    assert layout.input_ids.tolist()[0][:12] == [1, 2, 3, 11, 12, 13, 14, 4, 41, 42, 43, 44]
    assert layout.input_ids.tolist()[0][12:16] == [1, 2, 3, 31]
    assert layout.input_ids.tolist()[0][17:] == [4]
    assert layout.position_ids.tolist()[0][:12] == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]
    assert layout.sources.tolist() == [2, 3, 4, 5, 6, 17, 14, 15, 7, 8, 9, 10, 11]
    assert all(s.mask is None and s.prompts is None for s in layout.segments)


def test_one_token_completions_pack_prompts_only() -> None:
    layout = pack(stack([(A, [5]), (A, [6]), (B, [7])], 0), share_prompts=True)
    assert len(layout.segments) == 1
    assert layout.input_ids.tolist() == [[1, 2, 3, 4, 0, 0]]
    assert layout.sources.tolist() == [2, 2, 3]


def test_equal_prompt_lengths_share_one_mask() -> None:
    layout = pack(stack([([1, 2], [5, 6, 7]), ([3, 4], [5, 6, 7])], 0), share_prompts=True)
    assert layout.segments[1].mask.shape == (1, 1, 2, 4)


# ---- any batch ----


def context(layout: Layout, segment: int, row: int, column: int) -> list[int]:
    """The tokens that one packed token sees, its own included, in order."""
    held, ids = layout.segments[segment], layout.input_ids[0]
    own = ids[held.start + row * held.width :][: held.width].tolist()
    if held.prompts is None:
        return own[: column + 1]
    shared = layout.segments[0]
    prompt = ids[int(held.prompts[row]) * shared.width :][: shared.width].tolist()
    sees = held.mask[row if len(held.mask) > 1 else 0, 0, column].tolist()
    return [token for token, seen in zip(prompt + own, sees, strict=True) if seen]


def place(layout: Layout, position: int) -> tuple[int, int, int]:
    (index,) = (i for i, s in enumerate(layout.segments) if s.start <= position < s.end)
    held = layout.segments[index]
    return index, *divmod(position - held.start, held.width)


@pytest.mark.parametrize("share_prompts", [True, False])
@given(given_pairs=pairs)
def test_sources_precede_their_targets(share_prompts: bool, given_pairs: list[Pair]) -> None:
    layout = pack(stack(given_pairs, 0), share_prompts)
    sources = iter(layout.sources.tolist())
    for prompt, completion in given_pairs:
        for t in range(len(completion)):
            position = next(sources)
            before = prompt + completion[:t]
            assert context(layout, *place(layout, position)) == before
            assert layout.position_ids[0, position] == len(before) - 1
    assert list(sources) == []


@given(given_pairs=pairs)
def test_shared_prompts_are_packed_once(given_pairs: list[Pair]) -> None:
    layout = pack(stack(given_pairs, 0), share_prompts=True)
    distinct = {tuple(prompt) for prompt, _ in given_pairs}
    longest = max(map(len, distinct))
    completions = sum(len(completion) - 1 for _, completion in given_pairs)
    assert layout.input_ids.shape[1] <= len(distinct) * longest + completions / packing.MIN_FILL


@given(given_pairs=pairs)
def test_pack_separate_has_little_padding(given_pairs: list[Pair]) -> None:
    layout = pack(stack(given_pairs, 0), share_prompts=False)
    real = sum(len(prompt) + len(completion) - 1 for prompt, completion in given_pairs)
    assert real <= layout.input_ids.shape[1] <= real / packing.MIN_FILL


def test_batch_padding_is_not_packed() -> None:
    batch = stack(PAIRS, 0)
    wide = Sequences(
        torch.nn.functional.pad(batch.prompt_ids, (0, 2), value=7),
        batch.prompt_lengths,
        batch.prompt_index,
        torch.nn.functional.pad(batch.completion_ids, (0, 3), value=7),
        batch.lengths,
    )
    for share_prompts in (True, False):
        narrow, found = (pack(b, share_prompts) for b in (batch, wide))
        assert narrow.input_ids[0, narrow.sources].equal(found.input_ids[0, found.sources])
        assert narrow.position_ids[0, narrow.sources].equal(found.position_ids[0, found.sources])


# ---- the model's attention ----


def test_custom_attention_restores_the_original(llama: PreTrainedModel) -> None:
    before = llama.config._attn_implementation

    def broken() -> None:
        with custom_attention(llama, attention, None):
            assert llama.config._attn_implementation == "r1_r1.model.packing"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert llama.config._attn_implementation == before


def test_checkpointed_layer_is_recomputed_with_its_attention(llama: PreTrainedModel) -> None:
    before = llama.config._attn_implementation
    with custom_attention(llama, attention, None):
        forward, again = checkpoint_contexts(llama.config)
    with forward:
        assert llama.config._attn_implementation == before
    with again:
        assert llama.config._attn_implementation == "r1_r1.model.packing"
    assert llama.config._attn_implementation == before
