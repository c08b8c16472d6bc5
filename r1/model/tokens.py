"""Texts as tokens, and which of many texts have too many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a rendered text, which holds its special tokens already."""
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def lengths_over(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limits: Sequence[float]) -> dict[int, int]:
    """Index -> tokens of each text that has more of them than its limit. Only those that may have are tokenised."""
    suspects = [i for i, text in enumerate(texts) if max_tokens(tokenizer, text) > limits[i]]
    ids = tokenizer([texts[i] for i in suspects], add_special_tokens=False).input_ids if suspects else []
    return {i: len(tokens) for i, tokens in zip(suspects, ids, strict=True) if len(tokens) > limits[i]}


def max_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> float:
    """At least as many tokens as ``text`` has: the bytes of what the tokenizer's model reads, where that is known.

    A space may become the three bytes of SentencePiece's mark, which is also put in front of a text.
    """
    if not tokenizer.is_fast:
        return math.inf
    fast: PreTrainedTokenizerFast = tokenizer  # type: ignore[assignment]
    normalizer = fast.backend_tokenizer.normalizer
    read = normalizer.normalize_str(text) if normalizer else text
    return len(read.encode(errors="replace")) + 2 * (read.count(" ") + 1)


def context_length(config: PretrainedConfig) -> float:
    """The most positions that a model was made for; infinity where its architecture has no such number."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)  # only some architectures have it
    return math.inf if length is None else int(length)
