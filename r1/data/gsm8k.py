"""Grade-school word problems (Cobbe et al., 2021, arXiv:2110.14168): a worked solution, then its answer."""

from __future__ import annotations

import re
from typing import Unpack

from r1.core.errors import DATA, UserError
from r1.data.base import Data
from r1.data.columns import Row, require_text
from r1.data.completion import format_completion
from r1.data.dataset import DatasetOptions, read_dataset

CALCULATOR = re.compile(r"<<[^<>]*>>")  # <<48/2=24>>: a tool's notes, not part of the text


def gsm8k(learns: bool, **options: Unpack[DatasetOptions]) -> Data:
    """Rows of GSM8K, or of any dataset written like it; further columns are kept.

    Raises:
        UserError: the dataset cannot be read, or a solution has no ``####``.
    """
    return read_dataset(options, learns, gsm8k_row, "gsm8k")


def gsm8k_row(row: Row, location: str) -> Row:
    """The solution without the calculator's notes as thinking, and the number behind ``####`` as the answer."""
    solution, mark, answer = require_text(row, "solution", location).rpartition("####")
    if not mark:
        raise UserError(
            f"{location}: the solution does not end in `#### answer`",
            key=".columns.solution",
            value=answer[-80:],
            hint="data=dataset for questions with plain answers",
            code=DATA,
        )
    answer = answer.strip().replace(",", "")
    thinking = CALCULATOR.sub("", solution).strip()
    return row | {"answer": answer, "completion": format_completion(f"\n{thinking}\n", answer)}
