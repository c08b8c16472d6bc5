"""OpenR1-Math-220k: NuminaMath questions, each with two to four DeepSeek-R1 completions and their marks.

The first completion that math-verify marked correct is the one to learn from.
"""

from __future__ import annotations

from typing import Annotated, Any, Unpack

from annotated_types import Ge

from r1.data.base import Data, DataOptions, Row
from r1.data.completion import boxed
from r1.data.hub import drop_invalid_rows, splits

NO_ANSWER = {"", "proof", "notfound", "not found"}  # NuminaMath's words where there is no gold answer


def openr1_math(
    *,
    path: str,
    name: str | None,
    train_split: str,
    val_split: str | None,
    num_val: Annotated[int, Ge(1)] | None,
    limit_train: Annotated[int, Ge(1)] | None,
    prompt_column: str,
    answer_column: str,
    generations_column: str,
    correct_column: str,
    only_solved: bool,
    **shared: Unpack[DataOptions],
) -> Data:
    """Rows ``{prompt, answer, completion}``; proofs and rows without a gold answer are left out and counted.

    Args:
        only_solved: leave out questions without a correct completion too; else they have no ``completion``.

    Raises:
        UserError: the dataset cannot be read, or no row is left.
    """
    columns = {
        "prompt_column": prompt_column,
        "answer_column": answer_column,
        "generations_column": generations_column,
        "correct_column": correct_column,
    }
    train, val = splits(path, name, train_split, val_split, num_val, limit_train, columns)

    def rows(sources: Any) -> list[Row]:
        needed = {*columns.values(), "question_type"} & set(sources.column_names)
        light = sources.select_columns(sorted(needed))  # `messages` alone is gigabytes
        return drop_invalid_rows((row(source, columns, only_solved) for source in light), path)

    return Data(train=rows(train), val=rows(val), **shared)


def row(source: dict[str, Any], columns: dict[str, str], only_solved: bool) -> Row | str:
    """One row, or why it is left out."""
    prompt, answer, generations, marks = (source[column] for column in columns.values())
    gold = str(answer or "").strip()
    if source.get("question_type") == "proof" or gold.lower() == "proof":
        return "proofs"
    if gold.lower() in NO_ANSWER:
        return "without a gold answer"
    found = {"prompt": prompt, "answer": gold}
    completion = first_correct(generations or [], marks or [], gold)
    if completion is None:
        return "without a correct completion" if only_solved else found
    return found | {"completion": completion}


def first_correct(generations: list[str], marks: list[bool], gold: str) -> str | None:
    """The first completion marked correct whose thinking is closed, in r1's form."""
    for text, right in zip(generations, marks, strict=False):
        if right and text.count("<think>") == text.count("</think>") == 1:
            return in_form(text, gold)
    return None


def in_form(text: str, gold: str) -> str:
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
