"""Prompts, seeds and comparisons for tests of rollout engines."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from r1.core.seeds import derive_seed
from r1.rollout.base import NEUTRAL, Rollout, Sampling

PROMPTS = [[5], [7, 8, 9, 10, 11, 12], [3, 3, 3]]
SEEDS = [[derive_seed("vllm", p, g) for g in range(3)] for p in range(3)]
STOP = set(range(80, 97))


def at(temperature: float, **knobs: Any) -> Sampling:
    """The model's own distribution at a temperature, apart from these knobs."""
    return {**NEUTRAL, "temperature": temperature, **knobs}  # type: ignore[typeddict-item]


def assert_same(found: list[list[Rollout]], expected: list[list[Rollout]]) -> None:
    for a, b in zip(chain(*found), chain(*expected), strict=True):
        assert (a.prompt_ids, a.completion_ids, a.truncated) == (b.prompt_ids, b.completion_ids, b.truncated)
        assert a.stop_text == b.stop_text
        assert a.logps == pytest.approx(b.logps, abs=1e-5)


def moved(model: PreTrainedModel, step: int) -> PreTrainedModel:
    """The model after an update."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(step)
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model
