"""Sums of small numbers: the tiny world's problems, and the worked solutions its people write.

A problem is a list of terms, asked as ``3+5+8=?``. Train and held-out problems never overlap: the split is a property
of the problem (a hash of its text), not of the order in which problems are drawn.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from typing import Annotated, Literal, Unpack

from annotated_types import Ge

from r1.core.errors import DATA, UserError
from r1.data.base import Data, DataOptions, Row

Language = Literal["en", "zh"]
PLUS = {"en": "plus", "zh": "加"}
IS = {"en": "is", "zh": "得"}
WAIT = {"en": "wait", "zh": "等等"}
COMMA = {"en": ",", "zh": "，"}
STOP = {"en": ".", "zh": "。"}


def arithmetic(
    *,
    num_train: Annotated[int, Ge(1)],
    num_val: Annotated[int, Ge(1)],
    min_terms: Annotated[int, Ge(2)],
    max_terms: Annotated[int, Ge(2)],
    max_term: Annotated[int, Ge(1)],
    language: Language,
    seed: Annotated[int, Ge(0)],
    **shared: Unpack[DataOptions],
) -> Data:
    """Sums of ``min_terms`` to ``max_terms`` numbers of 1 to ``max_term``, each with a worked completion.

    Raises:
        UserError: ``max_terms < min_terms``, or the range holds too few different problems.
    """
    if max_terms < min_terms:
        raise UserError("no sum has so few terms", key=".max_terms", value=max_terms, expected=f">= {min_terms}")

    def rows(split: str, count: int) -> list[Row]:
        rng = random.Random(f"arithmetic/{split}/{seed}")
        found = problems(rng, split, min_terms, max_terms, max_term, count)
        return [row(terms, worked_solution(terms, rng, [language])) for terms in found]

    return Data(train=rows("train", num_train), val=rows("val", num_val), ask=ask, held_out=held_out, **shared)


def row(terms: list[int], thinking: str) -> Row:
    answer = str(sum(terms))
    return {"prompt": question(terms), "answer": answer, "completion": tagged(thinking, answer)}


def ask(prompt: str) -> Row | None:
    """The row of a sum typed by hand, or None if it is not one."""
    if not re.fullmatch(r"\d+(\+\d+)+=\?", prompt):
        return None
    terms = [int(term) for term in prompt[:-2].split("+")]
    return row(terms, worked_solution(terms, random.Random(prompt), ["en"]))


def question(terms: list[int]) -> str:
    return "+".join(map(str, terms)) + "=?"


def tagged(thinking: str, answer: str) -> str:
    return f"<think>{thinking}</think>\n<answer>{answer}</answer>"


def split_of(terms: list[int]) -> str:
    """Which split a problem belongs to."""
    return "val" if held_out(question(terms)) else "train"


def held_out(prompt: str) -> bool:
    """One problem in ten."""
    return hashlib.sha256(prompt.encode()).digest()[0] % 10 == 0


def problems(
    rng: random.Random, split: str, min_terms: int, max_terms: int, max_term: int, count: int
) -> list[list[int]]:
    """``count`` different problems of one split, the number of terms uniform."""
    possible = sum(max_term**n for n in range(min_terms, max_terms + 1))
    seen: dict[str, list[int]] = {}
    for terms in draw(rng, min_terms, max_terms, max_term, tries=100 * min(count, possible)):
        if split_of(terms) == split:
            seen.setdefault(question(terms), terms)
        if len(seen) == count:
            return list(seen.values())
    raise UserError(
        f"there are not that many different problems: {len(seen)} were found",
        key=f".num_{split}",
        value=count,
        hint="lower it, or raise max_terms or max_term",
        code=DATA,
    )


def draw(rng: random.Random, min_terms: int, max_terms: int, max_term: int, tries: int) -> Iterator[list[int]]:
    for _ in range(tries):
        yield [rng.randint(1, max_term) for _ in range(rng.randint(min_terms, max_terms))]


def worked_solution(
    terms: list[int],
    rng: random.Random,
    languages: list[Language],
    *,
    slip_rate: float = 0.0,
    wait_rate: float = 0.0,
) -> str:
    """Running sums, `` 3 plus 5 is 8, plus 8 is 16.``; every step in a language drawn from ``languages``.

    A slip is a wrong running sum that is carried on; a wait is one that is noticed and mended at once.
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
    """A number near ``value`` and never equal to it: what a slip of the pen writes."""
    return max(0, value + rng.choice([-10, -3, -2, -1, 1, 2, 3, 10])) if value > 0 else 1
