"""A batch of prompts and completions as token ids; completions of the same prompt share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sequences:
    """B completions of P prompts, padded on the right: under causal attention padding cannot change a real position.

    Attributes:
        prompt_ids: (P, L) token ids.
        prompt_lengths: P lengths, each at least 1: the first completion token needs something to follow.
        prompt_index: B indices, which prompt each completion continues.
        completion_ids: (B, T) token ids.
        lengths: B lengths of the completions, each at least 1.
    """

    prompt_ids: Tensor
    prompt_lengths: list[int]
    prompt_index: list[int]
    completion_ids: Tensor
    lengths: list[int]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """Completion tokens."""
        return sum(self.lengths)

    @property
    def mask(self) -> Tensor:
        """(B, T) true at completion tokens: by position, never by token id."""
        device = self.completion_ids.device
        lengths = torch.tensor(self.lengths, device=device)
        return torch.arange(self.completion_ids.shape[1], device=device) < lengths[:, None]

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on ``device``."""
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def rows(self, chosen: Sequence[int]) -> dict[str, Any]:
        """The fields of a batch of the ``chosen`` completions: their prompts only, without superfluous padding."""
        prompts = sorted({self.prompt_index[b] for b in chosen})
        new_index = {p: i for i, p in enumerate(prompts)}
        lengths = [self.lengths[b] for b in chosen]
        prompt_lengths = [self.prompt_lengths[p] for p in prompts]
        return {
            "prompt_ids": self.prompt_ids[prompts, : max(prompt_lengths, default=1)],
            "prompt_lengths": prompt_lengths,
            "prompt_index": [new_index[self.prompt_index[b]] for b in chosen],
            "completion_ids": self.completion_ids[list(chosen), : max(lengths, default=1)],
            "lengths": lengths,
        }


def stack(pairs: Sequence[tuple[list[int], list[int]]], pad_id: int) -> Sequences:
    """(prompt_ids, completion_ids) pairs as a batch; equal prompts are stored once, in order of appearance."""
    index: dict[tuple[int, ...], int] = {}
    prompt_index = [index.setdefault(tuple(prompt), len(index)) for prompt, _ in pairs]
    prompts = [list(prompt) for prompt in index]
    completions = [completion for _, completion in pairs]
    return Sequences(
        padded(prompts, pad_id), list(map(len, prompts)), prompt_index, padded(completions, pad_id),
        list(map(len, completions)),
    )  # fmt: skip


def padded(rows: Sequence[Sequence[Any]], fill: float) -> Tensor:
    """Rows of different lengths as one (B, longest) tensor, padded on the right with ``fill``."""
    width = max(map(len, rows), default=1)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])
