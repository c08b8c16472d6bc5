"""Competition mathematics (Hendrycks et al., 2021, arXiv:2103.03874): MATH, MATH-500 and their like."""

from __future__ import annotations

from typing import Unpack

from r1.core.errors import UserError
from r1.data.base import Data
from r1.data.columns import Row, require_text
from r1.data.completion import boxed, format_completion
from r1.data.dataset import DatasetOptions, read_dataset


def math(learns: bool, **options: Unpack[DatasetOptions]) -> Data:
    """Rows whose answer is the column ``answer``, or else the solution's last ``\\boxed{}``; others are left out.

    The completion is the solution as thinking, then the answer; without ``columns.solution`` there is none.
    Further columns (subject, level) are kept.

    Raises:
        UserError: both columns are null, the dataset cannot be read, or no row has an answer.
    """
    columns = options["columns"]
    if columns.get("solution") is None and columns.get("answer") is None:
        raise UserError(
            "the answers come from a column or from the solutions: both are null",
            key=".columns.answer",
            hint="set columns.answer, for example to answer, or columns.solution to solution",
        )
    return read_dataset(options, learns, math_row, "math")


def math_row(row: Row, location: str) -> Row | str:
    """One row, or why it is left out."""
    solution = require_text(row, "solution", location) if "solution" in row else ""
    gold = row.get("answer")
    answer = (boxed(solution) or "") if "answer" not in row else "" if gold is None else gold
    answer = answer.strip() if isinstance(answer, str) else answer
    if answer == "":
        return "without an answer"
    completion = {"completion": format_completion(f"\n{solution.strip()}\n", str(answer))} if solution else {}
    return row | {"answer": answer} | completion
