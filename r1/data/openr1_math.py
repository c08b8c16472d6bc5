"""OpenR1-Math-220k: NuminaMath questions, each with two to four DeepSeek-R1 completions and their marks.

The first completion that math-verify marked correct is the one to learn from.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Unpack

from r1.core.errors import DATA, UserError
from r1.data.base import Data, Row
from r1.data.completion import boxed
from r1.data.hub import HubOptions, answer_text, hub_data

NO_ANSWER = {"", "proof", "notfound", "not found"}  # NuminaMath's words where there is no gold answer


def openr1_math(
    *,
    answer_column: str,
    generations_column: str,
    correct_column: str,
    only_solved: bool,
    **options: Unpack[HubOptions],
) -> Data:
    """Rows ``{prompt, answer, completion}``; proofs and rows without a gold answer are left out and counted.

    Args:
        only_solved: leave out questions without a correct completion too; else they have no ``completion``.

    Raises:
        UserError: the dataset cannot be read, or no row is left.
    """
    columns = {
        "answer_column": answer_column,
        "generations_column": generations_column,
        "correct_column": correct_column,
    }
    names = (options["prompt_column"], *columns.values())
    # The other columns are not read: `messages` alone is gigabytes.
    return hub_data(options, columns, partial(openr1_row, names, only_solved), read_only=(*names, "question_type"))


def openr1_row(columns: tuple[str, ...], only_solved: bool, source: Row, location: str) -> Row | str:
    """One row, or why it is left out. ``columns``: of the question, the answer, the completions and their marks."""
    prompt_column, answer_column, generations_column, correct_column = columns
    gold = answer_text(source, answer_column, location)
    if source.get("question_type") == "proof" or gold.lower() == "proof":
        return "proofs"
    if gold.lower() in NO_ANSWER:
        return "without a gold answer"
    row = {"prompt": source[prompt_column], "answer": gold}
    generations = list_of(str, source, generations_column, ".generations_column", location)
    completion = first_correct(generations, list_of(bool, source, correct_column, ".correct_column", location), gold)
    if completion is None:
        return "without a correct completion" if only_solved else row
    return row | {"completion": completion}


def list_of(kind: type, source: Row, column: str, key: str, location: str) -> list[Any]:
    """A list of a source row; empty for null. Raises: UserError: a value is of another type, or it is no list."""
    values = source[column] or []
    if isinstance(values, list) and all(value is None or isinstance(value, kind) for value in values):
        return values
    message = f"{location}: the column `{column}` holds no list"
    expected = {str: "a list of texts, or null", bool: "a list of true and false, or null"}[kind]
    raise UserError(message, key=key, value=values, expected=expected, code=DATA)


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
