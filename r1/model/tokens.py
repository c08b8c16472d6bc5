"""Texts as tokens, and which of many texts have too many."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import BatchEncoding, PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a rendered text, which holds its special tokens already."""
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def tokenize_spans(
    tokenizer: PreTrainedTokenizerBase, text: str, spans: Sequence[tuple[int, int]]
) -> tuple[list[int], list[bool]]:
    """Token ids of a rendered text, and whether each holds a character of one of the ``spans``, (start, end).

    The same tokens as in transformers' ``assistant_masks``.
    """
    encoding = tokenizer(text, add_special_tokens=False)
    ids = list(encoding.input_ids)
    is_inside = [False] * len(ids)
    for start, end in spans:
        if tokenizer.is_fast:  # a character that no token holds, such as a space, belongs to the next one
            first = _first_token(encoding, range(start, end), len(ids))
            last = _first_token(encoding, range(end - 1, start - 1, -1), -1)
        else:
            first, last = _num_common(ids, tokenizer, text[:start]), _num_common(ids, tokenizer, text[:end]) - 1
        is_inside[first : last + 1] = [True] * max(0, last + 1 - first)
    return ids, is_inside


def _first_token(encoding: BatchEncoding, characters: range, default: int) -> int:
    tokens = (encoding.char_to_token(character) for character in characters)
    return next((token for token in tokens if token is not None), default)


def _num_common(ids: list[int], tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """How many tokens of a text are also the first ones of ``ids``."""
    pairs = zip(ids, tokenize(tokenizer, text), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 over all that decides a text's tokens; of a slow tokenizer over its vocabulary and its files' name."""
    if tokenizer.is_fast:
        fast: PreTrainedTokenizerFast = tokenizer  # type: ignore[assignment]
        text = fast.backend_tokenizer.to_str()
    else:
        text = json.dumps([type(tokenizer).__name__, tokenizer.name_or_path, tokenizer.get_vocab()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


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

    A space may become the three bytes of SentencePiece's mark, which is also put in front of a text; of a byte-level
    tokenizer it stays one byte.
    """
    if not tokenizer.is_fast:
        return math.inf
    fast: PreTrainedTokenizerFast = tokenizer  # type: ignore[assignment]
    normalizer = fast.backend_tokenizer.normalizer
    read = normalizer.normalize_str(text) if normalizer else text
    num_marks = 1 if _is_byte_level(fast) else read.count(" ") + 1
    return len(read.encode(errors="replace")) + 2 * num_marks


@lru_cache(maxsize=16)
def _is_byte_level(tokenizer: PreTrainedTokenizerFast) -> bool:
    steps = repr(tokenizer.backend_tokenizer.pre_tokenizer)
    return "ByteLevel" in steps and "Metaspace" not in steps


def context_length(config: PretrainedConfig) -> float:
    """The most positions that a model was made for; infinity where its architecture has no such number."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)  # only some architectures have it
    return math.inf if length is None else int(length)
