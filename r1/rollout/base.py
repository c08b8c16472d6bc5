"""What a rollout engine takes and gives, in token ids: text is for rewards and people only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Rollout:
    """One completion as it was sampled.

    Attributes:
        prompt_ids: the prompt's token ids.
        completion_ids: T sampled token ids, the closing one included.
        logps: T log-probabilities under the sampling distribution (temperature applied).
        truncated: it ran into ``max_completion_length`` without a closing token.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    logps: list[float]
    truncated: bool


class Engine(Protocol):
    """Anything that writes completions. ``seeds[p][g]`` decides sample g of prompt p, whatever the batch around it."""

    temperature: float
    max_completion_length: int

    def generate(
        self,
        model: PreTrainedModel,
        prompts: Sequence[list[int]],
        seeds: Sequence[Sequence[int]],
        stop_ids: set[int],
    ) -> list[list[Rollout]]:
        """``len(seeds[p])`` completions for each prompt p."""


@dataclass(frozen=True)
class PaddedSequences:
    """Prompt + completion, right-padded: under causal attention the padding cannot change a real position.

    Attributes:
        input_ids: (B, L).
        mask: (B, L - 1) true where the *target* ``input_ids[:, 1:]`` is a completion token.
    """

    input_ids: Tensor
    mask: Tensor


def pad(sequences: Sequence[tuple[list[int], list[int]]], pad_id: int) -> PaddedSequences:
    """Right-pad (prompt_ids, completion_ids) pairs; the mask goes by position, never by token id."""
    length = max(len(prompt) + len(completion) for prompt, completion in sequences)
    input_ids = torch.full((len(sequences), length), pad_id)
    mask = torch.zeros((len(sequences), length - 1), dtype=torch.bool)
    for b, (prompt, completion) in enumerate(sequences):
        end = len(prompt) + len(completion)
        input_ids[b, :end] = torch.tensor(prompt + completion)
        mask[b, max(len(prompt) - 1, 0) : end - 1] = True
    return PaddedSequences(input_ids, mask)
