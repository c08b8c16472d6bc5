"""Sums of small numbers: the problems of the tiny world, and worked solutions as people write them.

A problem is a list of terms, and its question is ``3+5+8=?``.
"""

from __future__ import annotations

import random
import re
from typing import Annotated, Literal, Unpack

from annotated_types import Ge

from r1.core.errors import UserError
from r1.data.base import Data, Row
from r1.data.completion import format_completion
from r1.data.generated import GeneratedOptions, distinct_problems, generated_data
from r1.data.split import is_held_out

Language = Literal["en", "zh"]
PLUS = {"en": "plus", "zh": "加"}
IS = {"en": "is", "zh": "得"}
WAIT = {"en": "wait", "zh": "等等"}
COMMA = {"en": ",", "zh": "，"}
STOP = {"en": ".", "zh": "。"}


def arithmetic(
    *,
    min_terms: Annotated[int, Ge(2)],
    max_terms: Annotated[int, Ge(2)],
    max_term: Annotated[int, Ge(1)],
    language: Language,
    **options: Unpack[GeneratedOptions],
) -> Data:
    """Sums of ``min_terms`` to ``max_terms`` numbers of 1 to ``max_term``, each with a worked completion.

    Raises:
        UserError: ``max_terms < min_terms``, or the range holds too few different problems.
    """
    if max_terms < min_terms:
        raise UserError("no sum has so few terms", key=".max_terms", value=max_terms, expected=f">= {min_terms}")

    def rows(rng: random.Random, split: str, count: int) -> list[Row]:
        sums = distinct_sums(rng, split, min_terms, max_terms, max_term, count)
        return [sum_row(terms, worked_solution(terms, rng, [language])) for terms in sums]

    return generated_data("arithmetic", rows, options, row_from_question=row_from_sum, is_held_out=is_held_out)


def sum_row(terms: list[int], thinking: str) -> Row:
    answer = str(sum(terms))
    return {"prompt": sum_question(terms), "answer": answer, "completion": format_completion(thinking, answer)}


def row_from_sum(prompt: str) -> Row | None:
    """The row of a sum typed by hand, or None if it is not one."""
    if not re.fullmatch(r"\d{1,1000}+(?:\+\d{1,1000}+)++=\?", prompt):
        return None
    terms = [int(term) for term in prompt[:-2].split("+")]
    return sum_row(terms, worked_solution(terms, random.Random(prompt), ["en"]))


def sum_question(terms: list[int]) -> str:
    return "+".join(map(str, terms)) + "=?"


def distinct_sums(
    rng: random.Random, split: str, min_terms: int, max_terms: int, max_term: int, count: int
) -> list[list[int]]:
    """``count`` different sums of one split, the number of terms uniform."""
    possible = sum(max_term**n for n in range(min_terms, max_terms + 1))
    return distinct_problems(
        lambda: draw_sum(rng, min_terms, max_terms, max_term),
        sum_question,
        split,
        count,
        tries=100 * min(count, possible),
        hint="lower it, or raise max_terms or max_term",
    )


def draw_sum(rng: random.Random, min_terms: int, max_terms: int, max_term: int) -> list[int]:
    return [rng.randint(1, max_term) for _ in range(rng.randint(min_terms, max_terms))]


def worked_solution(
    terms: list[int],
    rng: random.Random,
    languages: list[Language],
    *,
    slip_rate: float = 0.0,
    wait_rate: float = 0.0,
) -> str:
    """Running sums, `` 3 plus 5 is 8, plus 8 is 16.``; every step in a language drawn from ``languages``.

    A slip is a wrong running sum that later steps build on; a wait is one that is noticed and corrected at once.
    """
    total, text = terms[0], f" {terms[0]}"
    for i, term in enumerate(terms[1:]):
        lang = rng.choice(languages)
        total += term
        if i:
            text += COMMA[lang]
        text += f" {PLUS[lang]} {term} {IS[lang]}"
        if rng.random() < wait_rate:
            text += f" {perturb(total, rng)}{COMMA[lang]} {WAIT[lang]}{COMMA[lang]}"
        if rng.random() < slip_rate:
            total = perturb(total, rng)
        text += f" {total}"
    return text + STOP[rng.choice(languages)]


def perturb(value: int, rng: random.Random) -> int:
    """A number near ``value`` and never equal to it."""
    return max(0, value + rng.choice([-10, -3, -2, -1, 1, 2, 3, 10])) if value > 0 else 1
