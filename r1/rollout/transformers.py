"""The embedded rollout engine: decodes with the policy itself, through transformers' forward and cache.

Each prompt is prefilled once for its whole group, and finished sequences leave the batch. Noise is drawn per
(sequence, position), so a completion does not depend on what else is being decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from r1.functional import sample, token_logps
from r1.rollout.base import Rollout
from r1.seeds import uniforms

COMPACT_BELOW = 0.8  # drop finished rows once fewer than this share is still alive


class Transformers:
    """Sample with ``model`` in this process.

    Args:
        temperature: divides the logits, in rollout and training alike; 0 is greedy (evaluation only).
        max_completion_length: T, tokens, the closing one included.
        batch_size: sequences decoded at once; bounds the memory of the cache, cannot change the result.
    """

    def __init__(
        self,
        *,
        temperature: Annotated[float, Ge(0)],
        max_completion_length: Annotated[int, Ge(1)],
        batch_size: Annotated[int, Ge(1)],
    ) -> None:
        self.temperature = temperature
        self.max_completion_length = max_completion_length
        self.batch_size = batch_size

    def generate(
        self,
        model: PreTrainedModel,
        prompts: Sequence[list[int]],
        seeds: Sequence[Sequence[int]],
        stop_ids: set[int],
    ) -> list[list[Rollout]]:
        was_training = model.training
        model.eval()  # dropout would make the sampled log-probs someone else's
        groups = [
            group
            for chunk in _chunks([len(s) for s in seeds], self.batch_size)
            for group in self._decode(model, prompts[chunk], seeds[chunk], stop_ids)
        ]
        model.train(was_training)
        return groups

    @torch.no_grad()
    def _decode(
        self,
        model: PreTrainedModel,
        prompts: Sequence[list[int]],
        seeds: Sequence[Sequence[int]],
        stop_ids: set[int],
    ) -> list[list[Rollout]]:
        flat_seeds = [seed for group in seeds for seed in group]
        noise = uniforms(flat_seeds, self.max_completion_length).to(model.device)
        tokens, logps = _loop(model, prompts, [len(s) for s in seeds], noise, self.temperature, stop_ids)
        rows = iter(zip(tokens.tolist(), logps.tolist(), strict=True))
        return [[_rollout(prompt, *next(rows), stop_ids) for _ in s] for prompt, s in zip(prompts, seeds, strict=True)]


def _loop(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    group_sizes: list[int],
    noise: Tensor,
    temperature: float,
    stop_ids: set[int],
) -> tuple[Tensor, Tensor]:
    """Decode until every row has met a stop id or the noise (B, T) is used up; (B, T) tokens (-1: none) and logps."""
    num_rows, max_length = noise.shape
    tokens = torch.full((num_rows, max_length), -1, device=noise.device)
    logps = torch.zeros((num_rows, max_length), dtype=torch.float32, device=noise.device)
    stops = torch.tensor(sorted(stop_ids), device=noise.device)
    rows = torch.arange(num_rows, device=noise.device)
    alive = torch.ones_like(rows, dtype=torch.bool)
    logits, cache, mask = _prefill(model, prompts, group_sizes)
    for t in range(max_length):
        drawn = sample(logits, noise[rows, t], temperature)
        tokens[rows, t], logps[rows, t] = drawn, token_logps(logits, drawn, temperature or 1.0)
        alive = alive & ~torch.isin(drawn, stops)
        if t + 1 == max_length or not alive.any():
            break
        if alive.float().mean() < COMPACT_BELOW:
            keep = alive.nonzero().squeeze(-1)
            rows, drawn, mask, alive = rows[keep], drawn[keep], mask[keep], alive[keep]
            cache.batch_select_indices(keep)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        out = model(
            input_ids=drawn[:, None],
            attention_mask=mask,
            position_ids=mask.sum(1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        )
        logits = out.logits[:, -1]
    return tokens, logps


def _prefill(
    model: PreTrainedModel, prompts: Sequence[list[int]], group_sizes: list[int]
) -> tuple[Tensor, DynamicCache, Tensor]:
    """One forward per prompt, left-padded, then one row per completion: (B, V) logits, the cache, the (B, L) mask."""
    length = max(map(len, prompts))
    input_ids = torch.tensor([[0] * (length - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    cache = DynamicCache(config=model.config)
    out = model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    )
    rows = torch.arange(len(prompts), device=model.device).repeat_interleave(
        torch.tensor(group_sizes, device=model.device)
    )
    cache.batch_select_indices(rows)
    return out.logits[:, -1][rows], cache, mask[rows]


def _rollout(prompt: list[int], tokens: list[int], logps: list[float], stop_ids: set[int]) -> Rollout:
    """Cut a decoded row after its first stop id: rows that are waiting to be dropped go on being decoded."""
    end = next((t + 1 for t, token in enumerate(tokens) if token in stop_ids), len(tokens))
    return Rollout(prompt, tokens[:end], logps[:end], truncated=tokens[end - 1] not in stop_ids)


def _chunks(group_sizes: list[int], batch_size: int) -> list[slice]:
    """Consecutive whole groups of at most ``batch_size`` sequences together (at least one group)."""
    chunks, start, size = [], 0, 0
    for p, group_size in enumerate(group_sizes):
        if size and size + group_size > batch_size:
            chunks.append(slice(start, p))
            start, size = p, 0
        size += group_size
    return [*chunks, slice(start, len(group_sizes))]
