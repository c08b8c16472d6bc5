"""From the tokens of a completion to its text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from r1.data.completion import TAGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def decode_completion(
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    token_ids: Sequence[int],
    truncated: bool,
    stop_text: str = "",
) -> str:
    """The text that follows a prompt, without special tokens and without the token or ``stop_text`` that ended it.

    Tags that a completion is parsed by stay, even where they are special tokens of the tokenizer, or the last token.
    """
    skipped, tags = skipped_ids(tokenizer)
    ended = not truncated and not stop_text and token_ids[-1] not in tags
    shown = [i for i in (token_ids[:-1] if ended else token_ids) if i not in skipped]
    # A SentencePiece decoder strips the first space of a text, and the completion is the middle of one.
    before, text = (str(tokenizer.decode([*prompt_ids[-1:], *ids])) for ids in ([], shown))
    text = text.removeprefix(before) if text.startswith(before) else str(tokenizer.decode(shown))
    return text.partition(stop_text)[0] if stop_text else text


@lru_cache(maxsize=8)
def skipped_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[frozenset[int], frozenset[int]]:
    """The special tokens that no text shows, and the special tokens that are tags."""
    added = tokenizer.added_tokens_decoder
    special = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    tags = {i for i, token in added.items() if any(tag in token.content for tag in TAGS)}
    return frozenset(special - tags), frozenset(tags)
