"""The embedded rollout engine: decodes with the policy itself, in this process.

Each prompt is prefilled once for its whole group, and finished sequences leave the batch. The noise is a function of
(sequence seed, position), so a completion does not depend on the rest of the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, ClassVar, Unpack

import torch
from annotated_types import Ge, Interval
from torch import Tensor
from transformers import PreTrainedModel

from r1.core.seeds import uniforms
from r1.distributed.collectives import RankGroup
from r1.model.folding import folded_adapters
from r1.model.fused_logprobs import matmul_dtype
from r1.rollout.base import SINGLE_RANK, CheckForStop, Engine, Rollout, Sampling, ignore_count, no_op
from r1.rollout.decoding.decoder import check_architecture, make_decoder, not_finite
from r1.rollout.decoding.stop_texts import StopTexts, finished_rollout
from r1.rollout.decoding.token_sampler import TokenSampler
from r1.rollout.serving.subprocess_sampler import SubprocessSampler

if TYPE_CHECKING:
    from r1.model.loading import Model

NO_TOKEN = -1  # fills a row behind the token that it was dropped after


class Transformers(Engine):
    """Sample with the policy itself; adapters are folded into a copy of their layers' weights while it samples.

    Args:
        max_completion_length: T, tokens, including the closing one.
        batch_size: sequences decoded at once; bounds the memory of the cache, cannot change the result.
        async_steps: 1: a second process samples the next batch of stage=grpo during an update.
        sampling: the knobs of ``conf/rollout/_base.yaml``.
    """

    logprobs_match_trainer: ClassVar[bool] = True
    model: PreTrainedModel

    def __init__(
        self,
        *,
        max_completion_length: Annotated[int, Ge(1)],
        batch_size: Annotated[int, Ge(1)],
        async_steps: Annotated[int, Interval(ge=0, le=1)],
        **sampling: Unpack[Sampling],
    ) -> None:
        self.sampling = sampling
        self.max_completion_length = max_completion_length
        self.batch_size, self.async_steps = batch_size, async_steps
        self.num_processes = 1 + async_steps
        self.sampler: SubprocessSampler | None = None

    def check_model(self, model: Model) -> None:
        """Raises: UserError: as in ``fastest_decoder``, of the architecture alone."""
        check_architecture(model.load_config())

    def update(self, model: PreTrainedModel, version: int, ranks: RankGroup = SINGLE_RANK) -> None:
        self.model = model

    def async_sampler(self) -> SubprocessSampler | None:
        """A copy of this engine in a second process, with ``async_steps=1``."""
        self.sampler = SubprocessSampler(copy.copy(self)) if self.async_steps else None
        return self.sampler

    def close(self) -> None:
        if self.sampler:
            self.sampler.close()

    def generate(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[Sequence[int]],
        stop_ids: set[int],
        check_for_stop: CheckForStop = no_op,
    ) -> list[list[Rollout]]:
        groups: list[list[Rollout]] = []
        with folded_adapters(self.model, matmul_dtype(next(self.model.parameters()))) as model, eval_mode(model):
            for chunk in _chunks([len(group) for group in seeds], self.batch_size):
                num_before = sum(map(len, groups))
                groups += self._decode(model, prompts[chunk], seeds[chunk], stop_ids, check_for_stop, num_before)
        return groups

    @torch.no_grad()
    def _decode(
        self,
        model: PreTrainedModel,
        prompts: Sequence[list[int]],
        seeds: Sequence[Sequence[int]],
        stop_ids: set[int],
        check_for_stop: CheckForStop,
        num_before: int,
    ) -> list[list[Rollout]]:
        """One batch, behind ``num_before`` completions of the call."""
        flat_seeds = [seed for group in seeds for seed in group]
        noise = uniforms(flat_seeds, self.max_completion_length).to(model.device)
        group_sizes = [len(group) for group in seeds]
        with allow_nondeterministic_kernels(model.device):
            tokens, logps = decode_batch(
                model,
                prompts,
                group_sizes,
                noise,
                self.sampling,
                stop_ids,
                check_for_stop,
                self.stop_texts,
                lambda count: self.on_finished(num_before + count),
            )
        if not logps.isfinite().all():
            raise not_finite(self.model)
        rows = iter(zip(tokens.tolist(), logps.tolist(), strict=True))
        return [
            [_to_rollout(prompt, *next(rows), stop_ids, self.stop_texts) for _ in range(size)]
            for prompt, size in zip(prompts, group_sizes, strict=True)
        ]


@contextmanager
def eval_mode(model: PreTrainedModel) -> Iterator[None]:
    """With dropout the sampled log-probs would be those of another model."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def allow_nondeterministic_kernels(device: torch.device) -> Iterator[None]:
    """On a GPU, suspend ``trainer.deterministic``.

    Its kernels are slower, and decoding never writes the same element twice: the result is deterministic anyway.
    """
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(enabled and device.type == "cpu", warn_only=warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


def decode_batch(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    group_sizes: list[int],
    noise: Tensor,
    sampling: Sampling,
    stop_ids: set[int],
    check_for_stop: CheckForStop,
    stop_texts: StopTexts | None = None,
    on_finished: Callable[[int], None] = ignore_count,
) -> tuple[Tensor, Tensor]:
    """Decode until every row has a stop id, a stop text or T tokens.

    Args:
        group_sizes: completions per prompt; B in all.
        noise: (B, T) uniform numbers, one per draw.

    Returns:
        (B, T) token ids and (B, T) float32 log-probs. Behind the step at which a row left the batch they are
        ``NO_TOKEN`` and 0; a finished row that has not left yet is filled with tokens that the caller cuts off.
    """
    num_rows, max_length = noise.shape
    tokens = torch.full((num_rows, max_length), NO_TOKEN, device=noise.device)
    logps = torch.zeros((num_rows, max_length), dtype=torch.float32, device=noise.device)
    stops = torch.tensor(sorted(stop_ids | (stop_texts.ids if stop_texts else set())), device=noise.device)
    rows = torch.arange(num_rows, device=noise.device)  # the output row of each row that is still decoded
    alive = torch.ones_like(rows, dtype=torch.bool)
    decoder = make_decoder(model, max(map(len, prompts)) + max_length)
    sampler = TokenSampler(sampling, [p for p, size in zip(prompts, group_sizes, strict=True) for _ in range(size)])
    logits = decoder.start(prompts, group_sizes)
    for t in range(max_length):
        check_for_stop()
        sampled, logp = sampler.draw(logits, noise[rows, t])
        tokens[rows, t], logps[rows, t] = sampled, logp
        alive = alive & ~torch.isin(sampled, stops)
        if stop_texts:
            alive &= ~stop_texts.ended_rows(sampler.prompts, tokens[rows, : t + 1])
        alive_share = alive.float().mean().item()
        on_finished(num_rows - round(alive_share * len(rows)))
        if t + 1 == max_length or alive_share == 0:
            break
        # dropping rows copies the cache, so it waits until enough of them have finished
        if alive_share < decoder.compact_below:
            remaining = alive.nonzero().squeeze(-1)
            rows, sampled, alive = rows[remaining], sampled[remaining], alive[remaining]
            decoder.select_rows(remaining)
            sampler.select_rows(remaining)
        logits = decoder.step(sampled)
    return tokens, logps


def _to_rollout(
    prompt: list[int], tokens: list[int], logps: list[float], stop_ids: set[int], stop_texts: StopTexts | None
) -> Rollout:
    """Cut a decoded row at its end: finished rows are decoded on until they are dropped."""
    num_decoded = tokens.index(NO_TOKEN) if NO_TOKEN in tokens else len(tokens)
    return finished_rollout(prompt, tokens[:num_decoded], logps[:num_decoded], stop_ids, stop_texts)


def _chunks(group_sizes: list[int], batch_size: int) -> list[slice]:
    """Slices of consecutive groups with at most ``batch_size`` sequences together, or a single larger group."""
    chunks, start, size = [], 0, 0
    for p, group_size in enumerate(group_sizes):
        if size and size + group_size > batch_size:
            chunks.append(slice(start, p))
            start, size = p, 0
        size += group_size
    return [*chunks, slice(start, len(group_sizes))]
