"""IFEval's 25 kinds of verifiable instructions (Zhou et al. 2023, arXiv:2311.07911).

Each is a function of a response and of the instruction's arguments, its keyword-only parameters, as google/IFEval names
them. A response is never blank.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Literal

from r1.data.verifier.prose import TOKEN, WORD, is_in_language, sentences

Relation = Literal["less than", "at least"]
FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL | re.IGNORECASE)
BULLET = re.compile(r"^[^\S\n]*(?:\*(?!\*)|-(?!-))[^\S\n]*\S", re.MULTILINE)
HIGHLIGHT = re.compile(r"\*\*([^\n*]+)\*\*|\*([^\n*]+)\*")
PLACEHOLDER = re.compile(r"\[[^\n\[\]]*\]")
ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
POSTSCRIPTS = {"P.P.S": re.compile(r"p\.\s?p\.\s?s", re.IGNORECASE), "P.S.": re.compile(r"p\.\s?s\.", re.IGNORECASE)}


def compare(count: int, relation: Relation, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


# ---- keywords ----


def existence(text: str, *, keywords: list[str]) -> bool:
    """Every keyword occurs, in any case, also within a word."""
    return all(keyword.lower() in text.lower() for keyword in keywords)


def frequency(text: str, *, keyword: str, frequency: int, relation: Relation) -> bool:
    return compare(text.lower().count(keyword.strip().lower()), relation, frequency)


def forbidden_words(text: str, *, forbidden_words: list[str]) -> bool:
    """None occurs as a word of its own."""
    return not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(text: str, *, letter: str, let_frequency: int, let_relation: Relation) -> bool:
    return compare(text.lower().count(letter.lower()), let_relation, let_frequency)


# ---- language and case ----


def response_language(text: str, *, language: str) -> bool:
    return is_in_language(text, language)


def english_capital(text: str) -> bool:
    return text.isupper() and is_in_language(text, "en")


def english_lowercase(text: str) -> bool:
    return text.islower() and is_in_language(text, "en")


def capital_word_frequency(text: str, *, capital_frequency: int, capital_relation: Relation) -> bool:
    """Words in capital letters, ``I`` and ``U.S.`` among them; a hyphenated word is one."""
    return compare(sum(word.isupper() for word in TOKEN.findall(text)), capital_relation, capital_frequency)


# ---- length ----


def number_sentences(text: str, *, num_sentences: int, relation: Relation) -> bool:
    return compare(len(sentences(text)), relation, num_sentences)


def number_words(text: str, *, num_words: int, relation: Relation) -> bool:
    """Runs of letters and digits: ``don't`` is two."""
    return compare(len(WORD.findall(text)), relation, num_words)


def number_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Paragraphs between dividers ``***``; an empty one is none at an end, and an error elsewhere."""
    parts = [part.strip() for part in text.split("***")]
    parts = parts[not parts[0] : len(parts) - (not parts[-1])]
    return all(parts) and len(parts) == num_paragraphs


def nth_paragraph_first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs between blank lines; the n-th, from 1, starts with a word."""
    parts = [part.strip() for part in text.split("\n\n") if part.strip()]
    if len(parts) != num_paragraphs or not 1 <= nth_paragraph <= len(parts):
        return False
    word = re.split("[.,?!'\"]", parts[nth_paragraph - 1].split()[0].lstrip("'\""))[0]
    return word.lower() == first_word.lower()


# ---- content and format ----


def number_placeholders(text: str, *, num_placeholders: int) -> bool:
    return len(PLACEHOLDER.findall(text)) >= num_placeholders


def postscript(text: str, *, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    return bool(POSTSCRIPTS[marker].search(text)) if marker in POSTSCRIPTS else marker.lower() in text.lower()


def number_bullet_lists(text: str, *, num_bullets: int) -> bool:
    """Exactly so many lines that start with ``*`` or ``-``; a rule, ``---``, is none."""
    return len(BULLET.findall(text)) == num_bullets


def constrained_response(text: str) -> bool:
    return any(answer in text for answer in ANSWERS)


def number_highlighted_sections(text: str, *, num_highlights: int) -> bool:
    """At least so many parts ``*like this*`` or ``**like this**``."""
    return sum(bool("".join(parts).strip()) for parts in HIGHLIGHT.findall(text)) >= num_highlights


def multiple_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many marks, ``Section 1``."""
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def json_format(text: str) -> bool:
    """JSON and nothing else, a fence around it or not."""
    fenced = FENCE.fullmatch(text.strip())
    try:
        json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return True


def title(text: str) -> bool:
    """A line with ``<<words>>``."""
    behind = [line.partition("<<")[2] for line in text.split("\n")]
    return any(rest.rpartition(">>")[0].strip("<> ") for rest in behind)


# ---- the form as a whole ----


def two_responses(text: str) -> bool:
    """Two different ones between six asterisks."""
    parts = [part.strip() for part in text.split("******")]
    parts = parts[not parts[0] : len(parts) - (not parts[-1])]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, *, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str) -> bool:
    stripped = text.strip()
    return len(stripped) > 1 and stripped[0] == stripped[-1] == '"'


def no_comma(text: str) -> bool:
    return "," not in text


FORMATS = [
    number_bullet_lists,
    constrained_response,
    number_highlighted_sections,
    multiple_sections,
    json_format,
    title,
]
GROUPS: dict[str, list[Callable[..., bool]]] = {
    "keywords": [existence, frequency, forbidden_words, letter_frequency],
    "language": [response_language],
    "length_constraints": [number_sentences, number_paragraphs, number_words, nth_paragraph_first_word],
    "detectable_content": [number_placeholders, postscript],
    "detectable_format": [
        *(number_bullet_lists, constrained_response, number_highlighted_sections),
        *(multiple_sections, json_format, title),
    ],
    "combination": [two_responses, repeat_prompt],
    "startend": [end_checker, quotation],
    "change_case": [capital_word_frequency, english_capital, english_lowercase],
    "punctuation": [no_comma],
}
KINDS = {f"{group}:{function.__name__}": function for group, functions in GROUPS.items() for function in functions}
"""IFEval's name of each kind."""
