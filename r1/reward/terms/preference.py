"""A reward model's score: people's preference, learned from pairs (Ouyang et al. 2022; DeepSeek-R1 2.3.4).

``stage=reward_model`` trains one; any Hugging Face sequence-classification model with one output will do.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Ge, Gt

from r1.core.errors import MODEL, UserError
from r1.data.base import Row
from r1.data.conversation import messages_of, question_text
from r1.model.loading import DType, Model
from r1.reward.reward_model_io import chat_ids, check_chat, pad_chats, reward_model_scores
from r1.reward.scorer import Outcome, Pair, Scorer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Preference(Scorer):
    """(score - center) * scale of a question and its answer, written in the reward model's own chat template.

    Args:
        path: a run's folder, a local folder or a hub id; nothing is loaded before the first score.
        center: subtracted from every score; None: 0.
        scale: the factor of the difference.
        thinking: show the thinking, too; false: only the text after it.
        max_length: tokens of a whole chat; a longer one has no score.
        batch_size: chats scored at once; bounds the memory, cannot change the result.
    """

    reasons = ("too_long",)

    def __init__(
        self,
        *,
        path: str,
        dtype: DType,
        center: float | None,
        scale: Annotated[float, Gt(0)],
        thinking: bool,
        max_length: Annotated[int, Ge(1)],
        batch_size: Annotated[int, Ge(1)],
    ) -> None:
        super().__init__(thinking)
        self.source = Model.pretrained(path, dtype)
        self.center, self.scale = center or 0.0, scale
        self.max_length, self.batch_size = max_length, batch_size

    def __call__(
        self, prompts: list[str], completions: list[str], rows: list[Row] | None = None, **columns: Any
    ) -> list[float | None]:
        """(B,); None for a chat that is too long."""
        rows = rows or [{"prompt": prompt} for prompt in prompts]
        conversations = [question_text(messages_of(row)) for row in rows]  # with the system message
        row_of = dict(zip(conversations, rows, strict=True))
        return self.score_cached(conversations, completions, lambda pairs: self.scores(pairs, row_of))

    def scores(self, pairs: list[Pair], row_of: dict[str, Row]) -> list[Outcome]:
        """Scores of chats, in batches of similar length; ``too_long`` for a chat that does not fit."""
        tokenizer, _ = self._loaded
        chats = [chat_ids(tokenizer, row_of[conversation], text) for conversation, text in pairs]
        order = sorted((b for b, ids in enumerate(chats) if len(ids) <= self.max_length), key=lambda b: len(chats[b]))
        outcomes: list[Outcome] = ["too_long"] * len(pairs)
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            for b, score in zip(part, self._batch([chats[b] for b in part]), strict=True):
                outcomes[b] = (score - self.center) * self.scale
        return outcomes

    @torch.no_grad()
    def _batch(self, chats: list[list[int]]) -> list[float]:
        tokenizer, model = self._loaded
        ids, mask = pad_chats(chats, int(tokenizer.pad_token_id))
        return reward_model_scores(model, ids.to(model.device), mask.to(model.device)).tolist()

    def check(self) -> None:
        try:
            config, tokenizer = self.source.load_config(), self.source.load_tokenizer()
        except UserError as error:
            error.key = ".path"
            raise
        kinds = config.architectures or []
        if config.num_labels != 1 or not any(kind.endswith("ForSequenceClassification") for kind in kinds):
            raise UserError(
                "this is not a reward model",
                key=".path",
                value=f"{', '.join(kinds) or 'no architecture'} with {config.num_labels} outputs",
                expected="a sequence-classification model with one output",
                hint="stage=reward_model trains one from pairs",
                code=MODEL,
            )
        check_chat(tokenizer, ".path")

    @cached_property
    def _loaded(self) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
        self.check()
        tokenizer = self.source.load_tokenizer()
        seed = 0  # unused: the head is loaded, too
        model = self.source.load_classifier(seed, tokenizer).eval().requires_grad_(False)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return tokenizer, model.to(device)  # type: ignore[arg-type]  # transformers hides torch's signature
