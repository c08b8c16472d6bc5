"""A reward model from pairs of answers, one preferred to the other (Bradley-Terry; Ouyang et al. 2022, eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from r1.core.batch import chunks
from r1.core.errors import UserError
from r1.core.seeds import derive_seed
from r1.core.statistics import mean, proportion
from r1.data.base import Row
from r1.data.conversation import question_text
from r1.model.export import export_classifier
from r1.model.tokens import tokenize
from r1.reward.reward_model_io import chat_ids, chat_text, check_chat, pad_chats, reward_model_scores
from r1.stage.base import StageParts
from r1.stage.training.base import TrainingStage
from r1.stage.training.micro_batches import rows_by_tokens
from r1.stage.training.optimization import Optimization

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pair = tuple[list[int], list[int]]  # token ids of the preferred chat and of the other one


@dataclass(frozen=True)
class Pairs:
    """A micro-batch of n pairs as chats.

    Attributes:
        input_ids, attention_mask: (2n, L), the n preferred chats first.
        step_pairs: pairs of the whole step over all devices.
    """

    input_ids: Tensor
    attention_mask: Tensor
    step_pairs: int

    @property
    def num_tokens(self) -> int:
        return int(self.attention_mask.sum())

    def to(self, device: torch.device) -> Self:
        return replace(self, input_ids=self.input_ids.to(device), attention_mask=self.attention_mask.to(device))


class RewardModel(TrainingStage):
    """Learns r(prompt, chosen) > r(prompt, rejected): the mean over a step's pairs of -log sigmoid(difference).

    The policy is a sequence-classification model with one output on a causal LM's weights; nothing is sampled.
    """

    required_columns = val_columns = ("chosen", "rejected")
    batch_unit = "pairs"
    texts_per_example = 2

    def __init__(self, parts: StageParts, **optimization: Unpack[Optimization]) -> None:
        super().__init__(parts, optimization)
        check_chat(self.tokenizer, "model.path")
        if parts.model.lora is not None:
            raise UserError("a reward model trains all weights", key="model.lora", hint="leave it at null")
        if optimization["packing"]:
            raise UserError("pairs are padded", key="stage.packing", value=True, expected="false")

    def load_policy(self) -> PreTrainedModel:
        return self.model_source.load_classifier(derive_seed(self.seed, "weights"), self.tokenizer)

    def training_step(self, batch: Pairs, batch_idx: int) -> Tensor:
        margins = self.margins(batch)
        loss = -logsigmoid(margins).sum() / batch.step_pairs
        accuracy = pair_accuracy(margins).sum() / batch.step_pairs
        self.step_metrics.add({"train/loss": loss.detach(), "train/pair_accuracy": accuracy})
        return self.scaled_loss(loss)

    def margins(self, batch: Pairs) -> Tensor:
        """(n,) r(chosen) - r(rejected)."""
        chosen, rejected = reward_model_scores(self.policy, batch.input_ids, batch.attention_mask).chunk(2)
        return chosen - rejected

    def micro_batches(self, step: int) -> list[Pairs]:
        rows = sorted((self.data.train[i] for i in self.step_indices(step)), key=_num_chars)
        pairs, step_pairs = self.pairs(rows), self.global_sum(len(rows))
        parts = self.micro_batch_rows(pairs)
        parts = self.equal_counts(parts) if self.plan.micro_batch_tokens else parts
        return [self.collate([pairs[i] for i in part], step_pairs) for part in parts]

    def pairs(self, rows: Sequence[Row]) -> list[Pair]:
        return [(self.chat_ids(row, "chosen"), self.chat_ids(row, "rejected")) for row in rows]

    def micro_batch_rows(self, pairs: Sequence[Pair]) -> list[list[int]]:
        """Which of these pairs go through the model together."""
        if self.plan.micro_batch_size:
            return [list(part) for part in chunks(range(len(pairs)), self.plan.micro_batch_size)]
        assert self.plan.micro_batch_tokens
        lengths = [2 * max(map(len, pair)) for pair in pairs]  # both are padded to the longer one
        return rows_by_tokens(lengths, self.plan.micro_batch_tokens, is_packed=False)

    def collate(self, pairs: Sequence[Pair], step_pairs: int) -> Pairs:
        chats = [pair[side] for side in (0, 1) for pair in pairs]
        return Pairs(*pad_chats(chats, int(self.tokenizer.pad_token_id)), step_pairs)

    def chat_ids(self, row: Row, side: str) -> list[int]:
        ids = chat_ids(self.tokenizer, row, row[side])
        if self.data.truncates_to(row) is None:
            return ids
        prompt = tokenize(self.tokenizer, self.data.prompt_text(self.tokenizer, row))
        return ids[self.data.num_cut(row, len(prompt)) :]

    def full_texts(self, row: Row, columns: Sequence[str]) -> list[str]:
        return [chat_text(self.tokenizer, row, row[column]) for column in columns]

    def shown_texts(self, row: Row) -> dict[str, str]:
        return dict(zip(self.required_columns, self.full_texts(row, self.required_columns), strict=True))

    # ---- validation: held-out pairs ----

    @property
    def validation_plan(self) -> str:
        return f"{self.num_val_rows} pairs{self.of_held_out}"

    def validation_step(self, indices: list[int], batch_idx: int) -> None:
        rows = [self.data.val[i] for i in indices]
        pairs, margins = self.pairs(rows), torch.empty(len(rows), device=self.device)
        for part in self.micro_batch_rows(pairs):
            margins[part] = self.margins(self.collate([pairs[i] for i in part], len(rows)).to(self.device))
        metrics = {
            "val/pair_accuracy": proportion(pair_accuracy(margins).tolist(), 1),
            "val/loss": mean((-logsigmoid(margins)).tolist(), 1),
            "val/margin": mean(margins.tolist(), 1),
        }
        if self.run.record:
            self.run.record.add_pairs("val", self.trainer.global_step, rows[:8], margins.tolist())
        self.validator.update(self.trainer.global_step, metrics)
        self.report_validation({})

    def save_pretrained(self, policy: PreTrainedModel, folder: Path, resumable: bool) -> None:
        export_classifier(policy, self.tokenizer, folder)


def pair_accuracy(margins: Tensor) -> Tensor:
    """(n,): 1 if the preferred answer has the higher score, 1/2 for equal scores, else 0."""
    return (1 + margins.detach().sign()) / 2


def _num_chars(row: Row) -> int:
    return max(len(question_text(row[side])) for side in ("chosen", "rejected"))
