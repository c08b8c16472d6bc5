"""Supervised fine-tuning: cross-entropy on the dataset's completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Unpack

from torch import Tensor

from r1.core.batch import chunks
from r1.data.base import Row
from r1.model.sequences import Sequences, stack
from r1.stage.base import StageParts
from r1.stage.training.base import TrainingStage
from r1.stage.training.optimization import Optimization


class SftOptions(Optimization):
    """The knobs that SFT and the stages built on it share."""

    loss_on_prompt: bool


@dataclass(frozen=True)
class SftBatch(Sequences):
    """A micro-batch, and the number of target tokens of the whole step over all ranks."""

    step_tokens: int


class Sft(TrainingStage):
    """Mean negative log-likelihood per target token, the mean taken over the whole optimizer step.

    Args:
        loss_on_prompt: learn the prompt's tokens too, as in pre-training.
    """

    required_columns: ClassVar[tuple[str, ...]] = ("completion",)

    def __init__(self, parts: StageParts, *, loss_on_prompt: bool, **optimization: Unpack[Optimization]) -> None:
        super().__init__(parts, optimization)
        self.loss_on_prompt = loss_on_prompt

    def training_step(self, batch: SftBatch, batch_idx: int) -> Tensor:
        logps, _ = self.forward_logps(self.policy, batch)
        loss = -logps.sum() / batch.step_tokens
        self.step_metrics.add({"train/loss": loss.detach(), "train/num_tokens": batch.num_tokens})
        return loss * self.backward_scale()

    @property
    def temperature(self) -> float:
        return 1.0  # the cross-entropy is not tempered, unlike the completions of a validation

    def micro_batches(self, step: int) -> list[SftBatch]:
        return make_micro_batches(self, [self.sequence(self.data.train[i]) for i in self.step_indices(step)])

    def full_texts(self, row: Row, columns: Sequence[str]) -> list[str]:
        data, tokenizer = self.data, self.tokenizer
        return [data.prompt_text(tokenizer, row) + data.completion_text(tokenizer, row)] if columns else []

    def sequence(self, row: Row) -> tuple[list[int], list[int]]:
        """(context ids, target ids) of one example; the first token of a text has no context to be predicted from."""
        prompt, completion = self.data.example(self.tokenizer, row)
        ids = prompt + completion
        return (ids[:1], ids[1:]) if self.loss_on_prompt else (prompt, completion)


def make_micro_batches(stage: TrainingStage, sequences: list[tuple[list[int], list[int]]]) -> list[SftBatch]:
    """A step's (context ids, target ids) as micro-batches, sorted by length so that little is padded."""
    ordered = sorted(sequences, key=lambda s: len(s[0]) + len(s[1]))
    step_tokens = stage.global_sum(sum(len(targets) for _, targets in ordered))
    if stage.plan.micro_batch_size is None:
        batch = stack(ordered, stage.tokenizer.pad_token_id)
        parts = stage.equal_counts(stage.rows_by_tokens(batch))
        return [SftBatch(**batch.rows(rows), step_tokens=step_tokens) for rows in parts]
    return [
        SftBatch(**vars(stack(part, stage.tokenizer.pad_token_id)), step_tokens=step_tokens)
        for part in chunks(ordered, stage.plan.micro_batch_size)
    ]
