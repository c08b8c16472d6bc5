"""Reading and writing a completion: its thinking, its one answer, and whether its form is the one that R1 asks for.

The parser never guesses. A completion has an answer only if it states exactly one: one ``<answer>`` block
outside the thinking, or, where there is no answer tag at all, the last ``\\boxed{}`` after the thinking, if
its braces balance. Linear time; text beyond ``MAX_CHARS`` is not read.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

MAX_CHARS = 262_144  # 32k tokens, the paper's longest completions, at 8 characters each
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
RESERVED_DECOMPOSITIONS = ("<super>", "<sub>", "<fraction>")  # decompositions that change a number: NFKC reads 5² as 52
STRICT = re.compile(r"\s*<think>(.+?)</think>\s*<answer>(.+?)</answer>\s*", re.DOTALL)


@dataclass(frozen=True)
class Parsed:
    """The parts of one completion.

    Attributes:
        thinking: the text between the think tags (up to the end if the block never closes), or None.
        answer: the one stated answer, stripped; None if there is none or more than one.
        strict: think block then answer block, each exactly once and not empty, nothing else around them.
        tags: how many of the four tags occur exactly once, 0 to 4.
    """

    thinking: str | None
    answer: str | None
    strict: bool
    tags: int


def format_completion(thinking: str, answer: str) -> str:
    """A completion in the strict form, from which ``parse`` reads both again."""
    return f"<think>{thinking}</think>\n<answer>{answer}</answer>"


def parse(completion: str) -> Parsed:
    """Read a completion; never raises."""
    text = completion[:MAX_CHARS]
    counts = [text.count(tag) for tag in TAGS]
    match = STRICT.fullmatch(text) if counts == [1, 1, 1, 1] else None
    strict = match is not None and all(group.strip() for group in match.groups())
    return Parsed(
        thinking=_thinking(text),
        answer=_answer(text, num_open=counts[2], num_closed=counts[3]),
        strict=strict,
        tags=sum(count == 1 for count in counts),
    )


def _thinking(text: str) -> str | None:
    _, opened, rest = text.partition("<think>")
    return rest.partition("</think>")[0] if opened else None


def _answer(text: str, num_open: int, num_closed: int) -> str | None:
    if num_open == num_closed == 1:
        _, _, rest = text.partition("<answer>")
        inside, closed, after = rest.partition("</answer>")
        thought = "<think>" in inside or "</think>" in inside + after
        answer = (boxed(inside) or inside) if closed and not thought else None
    else:
        answer = boxed(text_after_thinking(text)) if num_open == num_closed == 0 else None
    return (normalise(answer) or None) if answer else None


def text_after_thinking(text: str) -> str:
    """What follows the thinking: everything where there is none, nothing while it is not closed."""
    after = text.rpartition("</think>")[2]
    return "" if "<think>" in after else after


def boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{...}``; None if there is none or its braces do not balance."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len("\\boxed{")
    for brace in re.compile("[{}]").finditer(text, begin):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[begin : brace.start()]
    return None


def normalise(text: str) -> str:
    """NFKC but for superscripts, subscripts and fractions; plain minus signs; nothing invisible; stripped."""
    visible = (c for c in text.replace("\u2212", "-") if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFC", "".join(map(_fold, visible))).strip()


def _fold(char: str) -> str:
    changes_number = unicodedata.decomposition(char).startswith(RESERVED_DECOMPOSITIONS)
    return char if changes_number else unicodedata.normalize("NFKC", char)
