"""Multiple choice: one option, by its letter, by its text, or by both where they agree."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any

from r1.data.base import Row
from r1.data.completion import boxed, normalise
from r1.data.verifier.notation import canonical

MAX_CHARS = 4000  # a longer text names no option
LETTERS = string.ascii_uppercase
COMMAND = re.compile(r"\\(?:text(?:bf|it|rm|sf)?|math(?:rm|bf|it|sf)|mbox|emph|underline|bf|rm)(?![a-zA-Z])\s*")
MARKUP = re.compile(r"\*\*|__|[`$\"'“”‘’]|\\[()\[\]]|(?<!\\)[{}]|\\(?:left|right)(?![a-zA-Z])\s*\.?|\\[,;:! ]")
INTRODUCTION = re.compile(
    r"\A(?:(?:so|thus|hence|therefore),? )?(?:(?:the|my) )?(?:(?:correct|right|best|final|most likely) )*"
    r"(?:it is|i choose|i pick|(?:answer|ans|option|choice)(?: (?:is|would be|must be))?)\b(?: -)? ?:? ?",
    re.IGNORECASE,
)
LETTER = re.compile(r"(?:\(\s*([A-Za-z])\s*\)|\[\s*([A-Za-z])\s*\]|\(?([A-Za-z])\)?)(?![A-Za-z0-9_^])")
END = re.compile(r"\s*[.,;:)*>!]*(?: is (?:the )?(?:correct|right)(?: (?:answer|option|choice|one))?)?\.?")
SEPARATOR = re.compile(r"\s*(?:[:.)\]=]|[-–—](?=\s))+\s*")
ANOTHER = re.compile(  # a second letter in the text that follows the first
    r"^\(?([A-Za-z])(?![A-Za-z0-9_])\W*$|[(\[]([A-Z])[)\]]|(?<![A-Za-z0-9])([A-Z])[).:](?!\w)"
    r"|(?:\b(?:or|and|nor|not|option|choice|answer|both|neither)\b|[,;/&|])\s*\(?([A-Z])(?![A-Za-z0-9_])"
)
WORD = re.compile(r"[^\W_]+|[^\w\s]")


def choice(answer: str, row: Row) -> bool:
    """Whether ``answer`` names the option of ``row["answer"]``, a letter or an option's text.

    The row's ``options``, a list of texts, are A, B, C, ...; without them a letter alone counts. Never raises.
    """
    options: Any = row.get("options")
    is_list = isinstance(options, list) and all(isinstance(text, str) for text in options)
    texts = options[: len(LETTERS)] if is_list else []
    gold = letters(str(row["answer"]), texts)
    return bool(gold & letters(answer, texts))


def letters(text: str, options: Sequence[str]) -> set[str]:
    """The letter of the one option that a text names; those of all options with this same text; none if unclear."""
    if len(text) > MAX_CHARS:
        return set()
    own = without_markup(text).lstrip("*<")
    for _ in range(2):  # The answer is option B
        own = INTRODUCTION.sub("", own)
    known = LETTERS[: len(options)] if options else LETTERS
    match = LETTER.match(own)
    letter = captured(match).upper() if match else ""
    if match and END.fullmatch(own, match.end()):
        return {letter} & {*known}
    if named := {known[i] for i in of_text(text, options) | of_text(own, options)}:
        return named
    if match is None or letter not in known:
        return set()
    start = match.end() - match[0].endswith((")", "]"))  # a bracket separates the letter from its text
    return {letter} if agrees(letter, own[start:], options) else set()


def captured(match: re.Match[str]) -> str:
    """The one group of several that has matched."""
    return next(group for group in match.groups() if group)


def without_markup(text: str) -> str:
    """Without box, dollars, emphasis, quotes, braces and text commands; single spaces."""
    text = normalise(boxed(text) or text)
    return " ".join(MARKUP.sub("", COMMAND.sub("", text)).split())


def of_text(text: str, options: Sequence[str]) -> set[int]:
    """The options with this text; where none is written in the same case, those in another."""
    form = text_form(text)
    same = {i for i, option in enumerate(options) if form and text_form(option) == form}
    return same or {i for i, option in enumerate(options) if form and text_form(option).lower() == form.lower()}


def text_form(text: str) -> str:
    """One spelling of an option's text."""
    return without_markup(canonical(text)).rstrip(".;, ")


def agrees(letter: str, rest: str, options: Sequence[str]) -> bool:
    """Whether the text behind a letter is that option's, or at least names no other one."""
    separator = SEPARATOR.match(rest)
    text = rest[separator.end() :] if separator else rest
    named = of_text(text, options) or of_text(text.strip(" ,;()[]-–—"), options)
    own = LETTERS.index(letter)
    if named or separator is None:
        return own in named
    others = {captured(another).upper() for another in ANOTHER.finditer(text)} - {letter}
    related = {i for i, option in enumerate(options) if shares_words(text_form(text), text_form(option))}
    return not others and (not related or own in related)


def shares_words(text: str, option: str) -> bool:
    """Whether one of two texts occurs in the other, in full words."""
    a, b = (f" {' '.join(WORD.findall(part.lower()))} " for part in (text, option))
    return bool(a.strip() and b.strip()) and (a in b or b in a)
