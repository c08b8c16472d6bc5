"""Supervised fine-tuning: cross-entropy on the dataset's completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

from torch import Tensor

from r1.core.batch import chunks
from r1.data.base import Example, Row
from r1.model.sequences import Sequences, padded, stack
from r1.stage.base import StageParts
from r1.stage.training.base import TrainingStage
from r1.stage.training.optimization import Optimization


class SftOptions(Optimization):
    """The knobs that SFT and the stages built on it share."""

    loss_on_prompt: bool
    mask_history: bool


@dataclass(frozen=True)
class SftBatch(Sequences):
    """A micro-batch of which some tokens are learned.

    Attributes:
        is_learned: (B, T) which completion tokens; the others are later turns of the user and of tools.
        step_tokens: learned tokens of the whole step over all ranks.
    """

    is_learned: Tensor
    step_tokens: int

    @property
    def mask(self) -> Tensor:
        """(B, T) true at the tokens that are learned."""
        return self.is_learned

    @property
    def num_tokens(self) -> int:
        """Learned tokens."""
        return int(self.is_learned.sum())

    def rows(self, chosen: Sequence[int]) -> dict[str, Any]:
        fields = super().rows(chosen)
        return fields | {"is_learned": self.is_learned[list(chosen), : fields["completion_ids"].shape[1]]}


class Sft(TrainingStage):
    """Mean negative log-likelihood per target token, the mean taken over the whole optimizer step.

    Args:
        loss_on_prompt: learn the prompt's tokens too, and those of all turns, as in pre-training.
        mask_history: learn the last assistant turn of a conversation only.
    """

    required_columns: ClassVar[tuple[str, ...]] = ("completion",)

    def __init__(
        self, parts: StageParts, *, loss_on_prompt: bool, mask_history: bool, **optimization: Unpack[Optimization]
    ) -> None:
        super().__init__(parts, optimization)
        self.loss_on_prompt, self.mask_history = loss_on_prompt, mask_history

    def training_step(self, batch: SftBatch, batch_idx: int) -> Tensor:
        logps, _ = self.forward_logps(self.policy, batch)
        loss = -logps.sum() / batch.step_tokens
        self.step_metrics.add({"train/loss": loss.detach(), "train/num_tokens": batch.num_tokens})
        return self.scaled_loss(loss)

    @property
    def temperature(self) -> float:
        return 1.0  # the cross-entropy is not tempered, unlike the completions of a validation

    def micro_batches(self, step: int) -> list[SftBatch]:
        return make_micro_batches(self, [self.sequence(self.data.train[i]) for i in self.step_indices(step)])

    def full_texts(self, row: Row, columns: Sequence[str]) -> list[str]:
        return [self.data.learned(self.tokenizer, row, self.mask_history).text] if columns else []

    @property
    def text_options(self) -> dict[str, Any]:
        return {"mask_history": self.mask_history}

    def shown_texts(self, row: Row) -> dict[str, str]:
        if not self.required_columns:  # the teacher writes the completion
            return super().shown_texts(row)
        text, spans = self.data.learned(self.tokenizer, row, self.mask_history)
        turns = [text[start:end] for start, end in spans or []]
        return {"prompt": text[: spans[0][0]] if spans else text, "learned": " ... ".join(turns)}

    def sequence(self, row: Row) -> Example:
        """The token ids of one example; the first token of a text has no context to be predicted from."""
        example = self.data.example(self.tokenizer, row, self.mask_history)
        if self.loss_on_prompt:
            ids = example.context + example.targets
            return fully_learned(ids[:1], ids[1:])
        length = len(example.targets) - example.is_learned[::-1].index(True)  # what follows the last turn has no effect
        return Example(example.context, example.targets[:length], example.is_learned[:length])


def fully_learned(context: list[int], targets: list[int]) -> Example:
    return Example(context, targets, [True] * len(targets))


def make_micro_batches(stage: TrainingStage, examples: list[Example]) -> list[SftBatch]:
    """A step's examples as micro-batches, sorted by length so that little is padded."""
    ordered = sorted(examples, key=lambda example: len(example.context) + len(example.targets))
    step_tokens = stage.global_sum(sum(sum(example.is_learned) for example in ordered))
    if stage.plan.micro_batch_size is None:
        batch = _stack(ordered, stage.tokenizer.pad_token_id, step_tokens)
        parts = stage.equal_counts(stage.rows_by_tokens(batch))
        return [SftBatch(**batch.rows(rows), step_tokens=step_tokens) for rows in parts]
    return [
        _stack(part, stage.tokenizer.pad_token_id, step_tokens) for part in chunks(ordered, stage.plan.micro_batch_size)
    ]


def _stack(examples: Sequence[Example], pad_id: int, step_tokens: int) -> SftBatch:
    sequences = stack([(example.context, example.targets) for example in examples], pad_id)
    is_learned = padded([example.is_learned for example in examples], False)
    return SftBatch(**vars(sequences), is_learned=is_learned, step_tokens=step_tokens)
