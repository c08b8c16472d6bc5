"""Competition mathematics (Hendrycks et al., 2021, arXiv:2103.03874): MATH, MATH-500 and their like."""

from __future__ import annotations

from typing import Annotated, Any, Unpack

from annotated_types import Ge

from r1.core.errors import UserError
from r1.data.arithmetic import tagged
from r1.data.base import Data, DataOptions, Row
from r1.data.completion import boxed
from r1.data.hub import drop_invalid_rows, splits, text


def math(
    *,
    path: str,
    name: str | None,
    train_split: str,
    val_split: str | None,
    num_val: Annotated[int, Ge(1)] | None,
    limit_train: Annotated[int, Ge(1)] | None,
    prompt_column: str,
    solution_column: str | None,
    answer_column: str | None,
    **shared: Unpack[DataOptions],
) -> Data:
    """Rows whose answer is ``answer_column``, or else the solution's last ``\\boxed{}``; others are left out.

    The completion is the solution as thinking, then the answer; without ``solution_column`` there is none.
    Further columns (subject, level) are kept.

    Raises:
        UserError: both columns are null, the dataset cannot be read, or no row has an answer.
    """
    columns = {
        "prompt_column": prompt_column,
        "solution_column": solution_column,
        "answer_column": answer_column,
    }
    if solution_column is None and answer_column is None:
        raise UserError(
            "the answers come from a column or from the solutions: both are null",
            key=".answer_column",
            hint="set answer_column, for example to answer, or solution_column to solution",
        )
    wanted = {knob: column for knob, column in columns.items() if column is not None}
    train, val = splits(path, name, train_split, val_split, num_val, limit_train, wanted)

    def rows(sources: Any) -> list[Row]:
        return drop_invalid_rows(
            (row(source, prompt_column, solution_column, answer_column) for source in sources), path
        )

    return Data(train=rows(train), val=rows(val), **shared)


def row(
    source: dict[str, Any], prompt_column: str, solution_column: str | None, answer_column: str | None
) -> Row | str:
    """One row, or why it is left out."""
    solution = text(source, solution_column, "solution_column") if solution_column else ""
    answer = source[answer_column] if answer_column else boxed(solution)
    answer = "" if answer is None else str(answer).strip()
    if not answer:
        return "without an answer"
    found = {**source, "prompt": source[prompt_column], "answer": answer}
    return found | ({"completion": tagged(f"\n{solution.strip()}\n", answer)} if solution else {})
