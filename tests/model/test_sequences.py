"""Batches of prompts and completions: what is held once, what is padded, what is left when rows are picked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r1.model.sequences import Sequences, padded, stack
from r1.stage.loss.base import StepCounts
from r1.stage.rl.experience import Experience, from_state, select, split, to_state

Pair = tuple[list[int], list[int]]
PAIRS: list[Pair] = [([1, 2], [3, 0]), ([4], [5]), ([1, 2], [6, 7, 8]), ([4], [0, 0])]
ids = st.lists(st.integers(0, 3), min_size=1, max_size=5)  # four token ids, one of them the padding
pairs = st.lists(st.tuples(ids, ids), min_size=1, max_size=6)


def pairs_of(batch: Sequences) -> list[Pair]:
    """The (prompt, completion) of every row, read by position."""
    found = []
    for b, length in enumerate(batch.lengths):
        p = batch.prompt_index[b]
        prompt = batch.prompt_ids[p, : batch.prompt_lengths[p]].tolist()
        found.append((prompt, batch.completion_ids[b, :length].tolist()))
    return found


def experience_of(given_pairs: list[Pair], old: bool = True) -> Experience:
    batch = stack(given_pairs, 9)
    values = torch.arange(batch.completion_ids.numel()).float().view_as(batch.completion_ids) * batch.mask
    counts = StepCounts(7, 4, 8, 7, 1, 7)
    return Experience(
        **vars(batch),
        advantages=torch.arange(len(batch)).float(),
        engine_logps=values,
        old_logps=values + 100 if old else None,
        ref_logps=None,
        counts=counts,
    )


# ---- stack ----


def test_stack_matches_hand_computation() -> None:
    batch = stack(PAIRS, pad_id=9)
    assert batch.prompt_ids.tolist() == [[1, 2], [4, 9]]
    assert batch.prompt_lengths == [2, 1]
    assert batch.prompt_index == [0, 1, 0, 1]
    assert batch.completion_ids.tolist() == [[3, 0, 9], [5, 9, 9], [6, 7, 8], [0, 0, 9]]
    assert batch.lengths == [2, 1, 3, 2]
    assert batch.mask.int().tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]]
    assert (len(batch), batch.num_tokens) == (4, 8)


@given(pairs, st.integers(0, 3))
def test_mask_depends_on_position_not_token_id(given_pairs: list[Pair], pad_id: int) -> None:
    """With four token ids, one of them the padding, completions are full of it."""
    batch = stack(given_pairs, pad_id)
    assert pairs_of(batch) == given_pairs
    assert set(batch.completion_ids[~batch.mask].tolist()) <= {pad_id}
    for (_, completion), row, mask in zip(given_pairs, batch.completion_ids, batch.mask, strict=True):
        assert row[mask].tolist() == completion


@given(pairs)
def test_distinct_prompts_are_stored_once(given_pairs: list[Pair]) -> None:
    batch = stack(given_pairs, 0)
    distinct = list(dict.fromkeys(tuple(prompt) for prompt, _ in given_pairs))
    held = [tuple(row[:n].tolist()) for row, n in zip(batch.prompt_ids, batch.prompt_lengths, strict=True)]
    assert held == distinct
    assert batch.prompt_ids.shape[1] == max(map(len, distinct))


def test_prompt_that_is_a_prefix_stays_distinct() -> None:
    batch = stack([([1, 0], [2]), ([1], [2]), ([1, 0, 0], [2])], pad_id=0)
    assert batch.prompt_index == [0, 1, 2]
    assert batch.prompt_lengths == [2, 1, 3]


def test_padded_matches_hand_computation() -> None:
    assert padded([[1, 2], [], [3]], 7).tolist() == [[1, 2], [7, 7], [3, 7]]
    assert padded([[0.5], [0.25, 1.0]], 0.0).tolist() == [[0.5, 0.0], [0.25, 1.0]]
    assert padded([], 0).numel() == 0


# ---- rows ----


@given(pairs, st.data())
def test_rows_selects_in_order_and_trims(given_pairs: list[Pair], data: st.DataObject) -> None:
    batch = stack(given_pairs, 0)
    picked = data.draw(st.lists(st.integers(0, len(batch) - 1), min_size=1, max_size=8))
    found = Sequences(**batch.rows(picked))
    assert pairs_of(found) == [given_pairs[b] for b in picked]
    assert found.completion_ids.shape[1] == max(found.lengths)
    assert found.prompt_ids.shape == (len(set(found.prompt_index)), max(found.prompt_lengths))


def test_rows_of_nothing_is_an_empty_batch() -> None:
    found = Sequences(**stack(PAIRS, 0).rows([]))
    assert (len(found), found.num_tokens) == (0, 0)
    assert found.mask.shape[0] == 0


# ---- to ----


def test_to_moves_the_tensors_and_keeps_the_rest() -> None:
    experience = experience_of(PAIRS)
    moved = experience.to(torch.device("meta"))
    assert isinstance(moved, Experience)
    assert {moved.prompt_ids.device.type, moved.advantages.device.type, moved.old_logps.device.type} == {"meta"}
    assert moved.ref_logps is None
    assert (moved.lengths, moved.prompt_index, moved.counts) == (
        experience.lengths,
        experience.prompt_index,
        experience.counts,
    )
    assert experience.prompt_ids.device.type == "cpu"


# ---- an experience ----


def test_select_trims_all_fields() -> None:
    found = select(experience_of(PAIRS), [1, 0])
    assert pairs_of(found) == [PAIRS[1], PAIRS[0]]
    assert found.advantages.tolist() == [1.0, 0.0]
    assert found.engine_logps.tolist() == [[3.0, 0.0], [0.0, 1.0]]
    assert found.old_logps.tolist() == [[103.0, 100.0], [100.0, 101.0]]
    assert found.ref_logps is None


@pytest.mark.parametrize("num_parts", [1, 2, 3, 4, 7])
def test_split_sizes_differ_by_at_most_one(num_parts: int) -> None:
    parts = split(experience_of(PAIRS), num_parts)
    sizes = [len(part) for part in parts]
    assert len(parts) == num_parts
    assert sum(sizes) == 4
    assert max(sizes) - min(sizes) <= 1
    assert [pair for part in parts for pair in pairs_of(part)] == PAIRS
    assert torch.cat([part.advantages for part in parts]).tolist() == [0.0, 1.0, 2.0, 3.0]
    assert {part.counts for part in parts} == {experience_of(PAIRS).counts}


def test_empty_experience_splits_into_empty_parts() -> None:
    parts = split(select(experience_of(PAIRS), []), 3)
    assert [len(part) for part in parts] == [0, 0, 0]


@pytest.mark.parametrize("old", [True, False])
def test_experience_state_round_trip(old: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    experience = experience_of(PAIRS, old).as_stale()
    file = tmp_path_factory.mktemp("state") / "state.pt"
    torch.save(to_state(experience), file)
    found = from_state(torch.load(file, weights_only=True))
    assert not found.is_fresh
    for name, value in vars(experience).items():
        other = getattr(found, name)
        assert value.equal(other) if isinstance(value, torch.Tensor) else value == other, name
