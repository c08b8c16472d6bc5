"""Supervised fine-tuning: cross-entropy on the dataset's completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

from torch import Tensor

from r1.data.base import Data, Row
from r1.evaluate import Validation
from r1.functional import token_logps
from r1.model import Model
from r1.reward.base import Rewards
from r1.rollout.base import Engine, PaddedSequences, pad
from r1.stage.base import Optimization, Stage


@dataclass  # not frozen: Lightning moves its tensors to the device
class SftBatch:
    """A micro-batch: right-padded ids (B, L), target mask (B, L - 1), and the target tokens of the whole step."""

    input_ids: Tensor
    mask: Tensor
    num_tokens: int


class Sft(Stage):
    """Mean negative log-likelihood per target token, the mean taken over the whole optimizer step.

    Args:
        loss_on_prompt: learn the prompt's tokens too, as in pre-training.
    """

    needs_columns: tuple[str, ...] = ("completion",)

    def __init__(
        self,
        model: Model,
        data: Data,
        rewards: Rewards,
        engine: Engine,
        validation: Validation,
        seed: int,
        num_devices: int,
        *,
        loss_on_prompt: bool,
        **optimization: Unpack[Optimization],
    ) -> None:
        super().__init__(model, data, rewards, engine, validation, seed)
        self.training_setup(optimization, num_devices)
        self.loss_on_prompt = loss_on_prompt

    def training_step(self, batch: SftBatch, batch_idx: int) -> Tensor:
        logits = self.policy(input_ids=batch.input_ids, use_cache=False).logits[:, :-1]
        logps = token_logps(logits[batch.mask], batch.input_ids[:, 1:][batch.mask], temperature=1.0)
        loss = -logps.sum() / batch.num_tokens
        self.accumulate({"train/loss": loss.detach(), "train/num_tokens": len(logps)})
        return loss * self.backward_scale()

    def micro_batches(self, step: int) -> list[SftBatch]:
        rows = [self.data.train[i] for i in self.step_indices(step)]
        sequences = sorted((self.sequence(row) for row in rows), key=lambda s: len(s[0]) + len(s[1]))
        num_tokens = self.global_sum(sum(_num_targets(s) for s in sequences))
        size = self.plan.micro_batch_size
        chunks = [sequences[i : i + size] for i in range(0, len(sequences), size)]
        return [self._batch(pad(chunk, self.tokenizer.pad_token_id), num_tokens) for chunk in chunks]

    def sequence(self, row: Row) -> tuple[list[int], list[int]]:
        """(context ids, target ids) of one example."""
        prompt, completion = (
            self.data.prompt_ids(self.tokenizer, row),
            self.data.completion_ids(self.tokenizer, row),
        )
        return ([], prompt + completion) if self.loss_on_prompt else (prompt, completion)

    def _batch(self, padded: PaddedSequences, num_tokens: int) -> SftBatch:
        return SftBatch(padded.input_ids, padded.mask, num_tokens)


def _num_targets(sequence: tuple[list[int], list[int]]) -> int:
    context, targets = sequence
    return len(targets) if context else len(targets) - 1  # nothing precedes the very first token
