"""Competition mathematics (Hendrycks et al., 2021, arXiv:2103.03874): MATH, MATH-500 and their like."""

from __future__ import annotations

from functools import partial
from typing import Unpack

from r1.core.errors import UserError
from r1.data.base import Data, Row
from r1.data.completion import boxed, format_completion
from r1.data.hub import HubOptions, answer_text, hub_data, text_value


def math(*, solution_column: str | None, answer_column: str | None, **options: Unpack[HubOptions]) -> Data:
    """Rows whose answer is ``answer_column``, or else the solution's last ``\\boxed{}``; others are left out.

    The completion is the solution as thinking, then the answer; without ``solution_column`` there is none.
    Further columns (subject, level) are kept.

    Raises:
        UserError: both columns are null, the dataset cannot be read, or no row has an answer.
    """
    if solution_column is None and answer_column is None:
        raise UserError(
            "the answers come from a column or from the solutions: both are null",
            key=".answer_column",
            hint="set answer_column, for example to answer, or solution_column to solution",
        )
    columns = {"solution_column": solution_column, "answer_column": answer_column}
    make_row = partial(math_row, options["prompt_column"], solution_column, answer_column)
    return hub_data(options, {knob: column for knob, column in columns.items() if column is not None}, make_row)


def math_row(
    prompt_column: str, solution_column: str | None, answer_column: str | None, source: Row, location: str
) -> Row | str:
    """One row, or why it is left out."""
    solution = text_value(source, solution_column, "solution_column", location) if solution_column else ""
    answer = answer_text(source, answer_column, location) if answer_column else (boxed(solution) or "").strip()
    if not answer:
        return "without an answer"
    row = {**source, "prompt": source[prompt_column], "answer": answer}
    return row | ({"completion": format_completion(f"\n{solution.strip()}\n", answer)} if solution else {})
