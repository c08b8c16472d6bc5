"""Reading and writing a completion: its thinking, its one answer, and whether its form is the one that R1 asks for.

The parser never guesses. A completion has an answer only if it states exactly one: one ``<answer>`` block
outside the thinking, or, where there is no answer tag at all, the last box after the thinking, if its braces
balance. Boxes with nothing but separators between them are one answer, a list. Linear time, whatever the length.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import groupby

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
FORMS = (*TAGS, "\\boxed")  # that a prompt can ask for; an answer in another form is not read
RESERVED_DECOMPOSITIONS = ("<super>", "<sub>", "<fraction>")  # decompositions that change a number: NFKC reads 5² as 52
BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # \{ is no brace of TeX's: it is skipped with its backslash
UNBRACED = re.compile(r"[^$\n\\]+(?=\$|\\[)\]])|\S+")  # \boxed 5: to the end of the formula, else one word
SEPARATORS = re.compile(r"(?:[\s$.,;&]|\\[()\[\],;: ]|\\q?quad(?![a-zA-Z])|\\text\{\s*(?:and|or)\s*\}|and\b|or\b)*")
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
    text = completion
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
    """The content of the last ``\\boxed{...}``, after those before it if only separators lie between, as a list.

    ``\\fbox{5}``, ``\\boxed {5}`` and ``\\boxed 5`` are boxes too. None: there is none, or the last does not close.
    """
    contents: dict[str, None] = {}  # the last one first, each once
    following = None  # where the box after this one starts
    for start in reversed([box.start() for box in BOX.finditer(text)]):  # a million matches would cost their memory
        box = BOX.match(text, start)
        assert box
        content, end = _box_content(text, box.end())
        if content is None or not (following is None or SEPARATORS.fullmatch(text, end, following)):
            break
        following = start
        contents[content] = None
    return ", ".join(reversed(contents)) if contents else None


def _box_content(text: str, begin: int) -> tuple[str | None, int]:
    """What a box holds whose content starts at ``begin``, and where it ends; None if it never closes."""
    if not text.startswith("{", begin):
        match = UNBRACED.match(text, begin)
        return (match[0].strip().rstrip(".,;:"), match.end()) if match else (None, begin)
    depth = 0
    for brace in BRACE.finditer(text, begin):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[begin + 1 : brace.start()], brace.end()
    return None, begin


def normalise(text: str) -> str:
    """NFKC but for superscripts, subscripts and fractions; plain minus signs; nothing invisible; stripped."""
    if text.isascii():
        return text.strip()
    visible = (c for c in text.replace("\u2212", "-") if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFC", _order_marks("".join(map(_fold, visible)))).strip()


def _order_marks(text: str) -> str:
    """Runs of combining marks in their canonical order: ``unicodedata`` sorts by insertion, in quadratic time."""
    runs = ((mark, list(chars)) for mark, chars in groupby(text, lambda char: unicodedata.combining(char) > 0))
    return "".join("".join(sorted(run, key=unicodedata.combining) if mark else run) for mark, run in runs)


def _fold(char: str) -> str:
    changes_number = unicodedata.decomposition(char).startswith(RESERVED_DECOMPOSITIONS)
    return char if changes_number else unicodedata.normalize("NFKC", char)
