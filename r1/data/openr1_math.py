"""OpenR1-Math-220k: NuminaMath questions, each with two to four DeepSeek-R1 completions and their marks.

The first completion that math-verify marked correct is the one to learn from.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Unpack

from r1.core.errors import DATA, UserError
from r1.data.base import Data
from r1.data.columns import Row
from r1.data.completion import boxed
from r1.data.dataset import DatasetOptions, read_dataset

COLUMNS_READ = frozenset(("prompt", "answer", "generations", "correct", "question_type"))
NO_ANSWER = {"", "proof", "notfound", "not found"}  # NuminaMath's words where there is no gold answer


def openr1_math(learns: bool, *, only_solved: bool, **options: Unpack[DatasetOptions]) -> Data:
    """Rows ``{prompt, answer, completion}``; proofs and rows without a gold answer are left out and counted.

    Args:
        only_solved: leave out questions without a correct completion too; else they have no ``completion``.

    Raises:
        UserError: the dataset cannot be read, or no row is left.
    """
    make_row = partial(openr1_row, only_solved)
    return read_dataset(options, learns, make_row, ["openr1_math", only_solved], only=COLUMNS_READ)


def openr1_row(only_solved: bool, source: Row, location: str) -> Row | str:
    """One row, or why it is left out."""
    answer = "" if source["answer"] is None else source["answer"]
    gold = str(answer).strip()
    if source.get("question_type") == "proof" or gold.lower() == "proof":
        return "proofs"
    if gold.lower() in NO_ANSWER:
        return "without a gold answer"
    row = {"prompt": source["prompt"], "answer": gold if isinstance(answer, str) else answer}
    marks = list_of(bool, source, "correct", location)
    completion = first_correct(list_of(str, source, "generations", location), marks, gold)
    if completion is None:
        return "without a correct completion" if only_solved else row
    return row | {"completion": completion}


def list_of(kind: type, source: Row, column: str, location: str) -> list[Any]:
    """A list of a source row; empty for null. Raises: UserError: a value is of another type, or it is no list."""
    values = source[column] or []
    if isinstance(values, list) and all(value is None or isinstance(value, kind) for value in values):
        return values
    message = f"{location}: the column `{column}` holds no list"
    expected = {str: "a list of texts, or null", bool: "a list of true and false, or null"}[kind]
    raise UserError(message, key=f".columns.{column}", value=values, expected=expected, code=DATA)


def first_correct(generations: list[str | None], marks: list[bool | None], gold: str) -> str | None:
    """The first completion marked correct whose thinking is closed, in r1's form."""
    for text, right in zip(generations, marks, strict=False):
        if right and text and text.count("<think>") == text.count("</think>") == 1:
            return to_strict_form(text, gold)
    return None


def to_strict_form(text: str, gold: str) -> str:
    """Thinking as it is; what follows it goes into answer tags, and states the answer if it did not.

    R1's own completions end in a write-up with a ``\\boxed{}`` in it, outside any answer tags.
    """
    thinking, closed, after = text.strip().partition("</think>")
    after = after.strip()
    if after.count("<answer>") == after.count("</answer>") == 1:
        return f"{thinking}{closed}\n{after}"
    if not after:
        after = gold
    elif boxed(after) is None:
        after = f"{after}\n\\boxed{{{gold}}}"
    return f"{thinking}{closed}\n<answer>{after}</answer>"
