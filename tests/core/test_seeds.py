"""Keyed randomness: the same key gives the same draw, another key another one, and an epoch visits everything once."""

from __future__ import annotations

import hashlib
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r1.core.seeds import batch_indices, derive_seed, uniforms


def test_derive_seed_is_the_top_63_bits_of_a_hash() -> None:
    digest = hashlib.sha256(b"0/rollout/3/17/5").hexdigest()
    assert derive_seed(0, "rollout", 3, 17, 5) == int(digest[:16], 16) // 2


def test_derived_seeds_of_a_run_differ() -> None:
    keys = {derive_seed(seed, "rollout", *rest) for seed in range(3) for rest in product(range(9), repeat=3)}
    assert len(keys) == 3 * 9**3
    assert all(0 <= k < 2**63 for k in keys)


def test_derived_seeds_of_joined_parts_differ() -> None:
    assert derive_seed(1, 12) != derive_seed(11, 2)


def test_uniforms_are_in_range_and_of_double_precision() -> None:
    noise = uniforms([1, 2, 3], 1000)
    assert noise.shape == (3, 1000)
    assert noise.dtype == torch.float64
    assert 0 <= noise.min() < noise.max() < 1
    assert noise.mean().item() == pytest.approx(0.5, abs=0.02)


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4), st.integers(1, 70), st.integers(1, 70))
def test_uniforms_depend_on_seed_and_position_alone(seeds: list[int], short: int, long: int) -> None:
    short, long = sorted((short, long))
    together = uniforms(seeds, long)
    for b, seed in enumerate(seeds):
        assert together[b, :short].equal(uniforms([seed], short)[0])


def test_uniforms_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    uniforms([5], 3)
    batch_indices(0, 0, 2, 8)
    assert torch.get_rng_state().equal(state)


@given(st.integers(0, 5), st.integers(1, 30), st.integers(1, 12))
def test_batch_indices_visit_every_example_once_per_epoch(seed: int, num_examples: int, batch_size: int) -> None:
    batch_size = min(batch_size, num_examples)
    steps = -(-2 * num_examples // batch_size)  # two epochs, a step may lie in both
    visited = [i for step in range(steps) for i in batch_indices(seed, step, batch_size, num_examples)]
    assert len(visited) == steps * batch_size
    for epoch in (0, 1):
        assert sorted(visited[epoch * num_examples : (epoch + 1) * num_examples]) == list(range(num_examples))


def test_batch_indices_differ_between_seeds_and_epochs() -> None:
    first = batch_indices(0, 0, 64, 64)
    assert first == batch_indices(0, 0, 64, 64)
    assert first != batch_indices(1, 0, 64, 64)
    assert first != batch_indices(0, 1, 64, 64)
    assert first != list(range(64))
