"""Reward models: a sequence-classification model with one output reads a whole chat and gives one number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from r1.core.errors import MODEL, UserError
from r1.data.base import Row
from r1.data.conversation import Message, messages_of
from r1.model.chat import render_chat
from r1.model.tokens import tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def chat_text(tokenizer: PreTrainedTokenizerBase, row: Row, completion: str | list[Message]) -> str:
    """A row's system message and prompt, and an answer to it, as the model's own chat template writes them."""
    answer = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    return render_chat(tokenizer, messages_of(row) + answer, add_generation_prompt=False, tools=row.get("tools"))


def chat_ids(tokenizer: PreTrainedTokenizerBase, row: Row, completion: str | list[Message]) -> list[int]:
    """Token ids of ``chat_text``."""
    return tokenize(tokenizer, chat_text(tokenizer, row, completion))


def check_chat(tokenizer: PreTrainedTokenizerBase, key: str) -> None:
    """Raises: UserError: the tokenizer has no chat template."""
    if tokenizer.chat_template is None:
        raise UserError(
            "a reward model reads a chat, and this one's tokenizer has no chat template",
            key=key,
            value=tokenizer.name_or_path or None,
            code=MODEL,
        )


def pad_chats(rows: Sequence[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """(B, L) token ids, padded on the right, and their attention mask, 0 on padding."""
    ids = [torch.tensor(row) for row in rows]
    masks = [torch.ones(len(row), dtype=torch.long) for row in rows]
    pad = nn.utils.rnn.pad_sequence
    return pad(ids, batch_first=True, padding_value=pad_id), pad(masks, batch_first=True)


def reward_model_scores(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """(B,) scores, float32."""
    return model(input_ids=input_ids, attention_mask=attention_mask).logits[:, 0].float()  # type: ignore[no-any-return]
