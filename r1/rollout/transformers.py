"""The embedded rollout engine: decodes with the policy itself, through transformers' forward and cache.

Each prompt is prefilled once for its whole group, and finished sequences leave the batch. Noise is drawn per
(sequence, position), so a completion does not depend on what else is being decoded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Interval
from torch import Tensor
from transformers import PreTrainedModel

from r1.core.seeds import uniforms
from r1.distributed.collectives import RankGroup
from r1.model.functional import sample
from r1.rollout.base import SINGLE_RANK, Rollout, no_op
from r1.rollout.decoding.decoder import decoder
from r1.rollout.serving.subprocess_sampler import SubprocessSampler


class Transformers:
    """Sample with the policy itself, in this process.

    Args:
        temperature: divides the logits, in rollout and training alike; 0 is greedy (evaluation only).
        max_completion_length: T, tokens, the closing one included.
        batch_size: sequences decoded at once; bounds the memory of the cache, cannot change the result.
        async_steps: 1: a second process samples the next batch of stage=grpo during an update.
    """

    exact: ClassVar[bool] = True
    model: PreTrainedModel

    def __init__(
        self,
        *,
        temperature: Annotated[float, Ge(0)],
        max_completion_length: Annotated[int, Ge(1)],
        batch_size: Annotated[int, Ge(1)],
        async_steps: Annotated[int, Interval(ge=0, le=1)],
    ) -> None:
        self.temperature = temperature
        self.max_completion_length = max_completion_length
        self.batch_size, self.async_steps = batch_size, async_steps
        self.num_processes = 1 + async_steps
        self.beside: SubprocessSampler | None = None

    def update(self, model: PreTrainedModel, version: int, ranks: RankGroup = SINGLE_RANK) -> None:
        self.model = model

    def ahead(self) -> SubprocessSampler | None:
        """This engine, in a process of its own."""
        self.beside = SubprocessSampler(copy.copy(self)) if self.async_steps else None
        return self.beside

    def close(self) -> None:
        if self.beside:
            self.beside.close()

    def generate(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[Sequence[int]],
        stop_ids: set[int],
        poll: Callable[[], None] = no_op,
    ) -> list[list[Rollout]]:
        model = self.model
        was_training = model.training
        model.eval()  # dropout would make the sampled log-probs someone else's
        try:
            return [
                group
                for chunk in _chunks([len(s) for s in seeds], self.batch_size)
                for group in self._decode(prompts[chunk], seeds[chunk], stop_ids, poll)
            ]
        finally:
            model.train(was_training)

    @torch.no_grad()
    def _decode(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[Sequence[int]],
        stop_ids: set[int],
        poll: Callable[[], None] = no_op,
    ) -> list[list[Rollout]]:
        flat_seeds = [seed for group in seeds for seed in group]
        noise = uniforms(flat_seeds, self.max_completion_length).to(self.model.device)
        sizes = [len(group) for group in seeds]
        with allow_nondeterministic_kernels(self.model.device):
            tokens, logps = _loop(self.model, prompts, sizes, noise, self.temperature, stop_ids, poll)
        rows = iter(zip(tokens.tolist(), logps.tolist(), strict=True))
        return [[_rollout(prompt, *next(rows), stop_ids) for _ in s] for prompt, s in zip(prompts, seeds, strict=True)]


@contextmanager
def allow_nondeterministic_kernels(device: torch.device) -> Iterator[None]:
    """On a GPU, without the slower kernels of ``trainer.deterministic``: decoding never writes one place twice."""
    asked, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(asked and device.type == "cpu", warn_only=warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(asked, warn_only=warn_only)


def _loop(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    group_sizes: list[int],
    noise: Tensor,
    temperature: float,
    stop_ids: set[int],
    poll: Callable[[], None],
) -> tuple[Tensor, Tensor]:
    """Decode until every row has met a stop id or the noise (B, T) is used up; (B, T) tokens (-1: none) and logps."""
    num_rows, max_length = noise.shape
    tokens = torch.full((num_rows, max_length), -1, device=noise.device)
    logps = torch.zeros((num_rows, max_length), dtype=torch.float32, device=noise.device)
    stops = torch.tensor(sorted(stop_ids), device=noise.device)
    rows = torch.arange(num_rows, device=noise.device)
    alive = torch.ones_like(rows, dtype=torch.bool)
    decode = decoder(model, max(map(len, prompts)) + max_length)
    logits = decode.start(prompts, group_sizes)
    for t in range(max_length):
        poll()
        drawn, logp = sample(logits, noise[rows, t], temperature)
        tokens[rows, t], logps[rows, t] = drawn, logp
        alive = alive & ~torch.isin(drawn, stops)
        share = alive.float().mean().item()
        if t + 1 == max_length or share == 0:
            break
        if share < decode.compact_below:
            kept = alive.nonzero().squeeze(-1)
            rows, drawn, alive = rows[kept], drawn[kept], alive[kept]
            decode.keep(kept)
        logits = decode.step(drawn)
    return tokens, logps


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
