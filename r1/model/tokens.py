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


COUNTED = 65_536  # tokens, or 16 times its limit if that is more: a longer text is not counted to its end
CHARACTERS = 16  # of a token, at most, in the part of a text that is counted first


def lengths_over(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limits: Sequence[float]) -> dict[int, int]:
    """Index -> tokens of each text that has more of them than its limit; ``max_counted`` + 1 where it has more yet.

    Only texts that may have are tokenised, and of a very long one its start: 20 MB take minutes and gigabytes.
    """
    suspects = [i for i, text in enumerate(texts) if max_tokens(tokenizer, text) > limits[i]]
    starts = [_start(texts[i], limits[i]) for i in suspects]
    counts = dict(zip(suspects, _count(tokenizer, starts), strict=True))
    cut = [i for i, start in zip(suspects, starts, strict=True) if len(start) < len(texts[i])]
    sparse = [i for i in cut if counts[i] <= max_counted(limits[i])]  # few tokens for so many characters
    counts |= dict(zip(sparse, _count(tokenizer, [texts[i] for i in sparse]), strict=True))
    return {i: _capped(count, limits[i]) for i, count in counts.items() if count > limits[i]}


def max_counted(limit: float) -> float:
    return max(COUNTED, 16 * limit)


def _start(text: str, limit: float) -> str:
    return text if math.isinf(limit) else text[: CHARACTERS * int(max_counted(limit))]


def _capped(count: int, limit: float) -> int:
    return count if count <= max_counted(limit) else int(max_counted(limit)) + 1


def _count(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[int]:
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False).input_ids] if texts else []


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
