"""The text of a completion: tags stay whatever kind of token they are, other special tokens and the last one go."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from templates import SPECIALS, TOKENIZERS, tokenizer_of
from tokenizers import AddedToken
from transformers import AutoTokenizer

from r1.core.paths import ASSETS
from r1.data.completion import TAGS, parse
from r1.data.decoding import decode_completion

PROMPT = [300]
STRICT = "<think> 3 plus 5 is 8.</think>\n<answer>8</answer>"


def tokenizer_with(special: tuple[str, ...], **roles: Any) -> Any:
    made = AutoTokenizer.from_pretrained(ASSETS / "tiny", **roles)
    made.add_special_tokens({"additional_special_tokens": [AddedToken(tag, special=True) for tag in special]})
    return made


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids  # type: ignore[no-any-return]


@pytest.mark.parametrize("special", [tags for n in range(5) for tags in combinations(TAGS, n)], ids=str)
def test_decode_completion_keeps_tags_that_are_special_tokens(special: tuple[str, ...]) -> None:
    tokenizer = tokenizer_with(special)
    text = decode_completion(tokenizer, PROMPT, ids_of(tokenizer, STRICT + "<|eos|>"), truncated=False)
    assert text == STRICT
    assert parse(text).strict


def test_decode_completion_keeps_a_special_token_that_holds_a_tag_and_a_line_break() -> None:
    tokenizer = tokenizer_with(("<think>\n", "</think>\n\n"))
    text = "<think>\n3 plus 5 is 8.</think>\n\n<answer>8</answer>"
    assert decode_completion(tokenizer, PROMPT, ids_of(tokenizer, text + "<|eos|>"), truncated=False) == text


def test_decode_completion_that_ends_with_a_tag_keeps_it() -> None:
    """A model may be made to stop at ``</answer>``."""
    tokenizer = tokenizer_with((), eos_token="</answer>")
    assert decode_completion(tokenizer, PROMPT, ids_of(tokenizer, STRICT), truncated=False) == STRICT


def test_decode_completion_drops_other_special_tokens() -> None:
    tokenizer = tokenizer_with(("<|channel|>",))
    ids = ids_of(tokenizer, "<|channel|> 3<|pad|> 5<|eos|>")
    assert decode_completion(tokenizer, PROMPT, ids, truncated=False) == " 3 5"


def test_decode_completion_drops_the_last_token_unless_truncated() -> None:
    tokenizer = tokenizer_with(())
    ids = ids_of(tokenizer, " 3 5")
    assert decode_completion(tokenizer, PROMPT, ids, truncated=True) == " 3 5"
    assert decode_completion(tokenizer, PROMPT, ids, truncated=False) == " 3"


@pytest.mark.parametrize("kind", ["sentencepiece", "metaspace", "byte_level", "unigram"])
def test_decode_completion_keeps_the_space_after_the_prompt(kind: str) -> None:
    """Decoded alone, ``"▁8"`` of a SentencePiece tokenizer would lose its space."""
    tokenizer = tokenizer_of(TOKENIZERS[kind](SPECIALS), "")
    ids = tokenizer("The answer is 8, 等等", add_special_tokens=False).input_ids
    for cut in range(1, len(ids)):
        prompt, text = tokenizer.decode(ids[:cut]), decode_completion(tokenizer, ids[:cut], ids[cut:], truncated=True)
        assert prompt + text == "The answer is 8, 等等" or "\ufffd" in prompt
