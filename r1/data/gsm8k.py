"""Grade-school word problems (Cobbe et al., 2021, arXiv:2110.14168): a worked solution, then its answer."""

from __future__ import annotations

import re
from typing import Annotated, Any, Unpack

from annotated_types import Ge

from r1.core.errors import DATA, UserError
from r1.data.arithmetic import tagged
from r1.data.base import Data, DataOptions, Row
from r1.data.hub import splits, text

CALCULATOR = re.compile(r"<<[^<>]*>>")  # <<48/2=24>>: a tool's notes, not part of the text


def gsm8k(
    *,
    path: str,
    name: str | None,
    train_split: str,
    val_split: str | None,
    num_val: Annotated[int, Ge(1)] | None,
    limit_train: Annotated[int, Ge(1)] | None,
    prompt_column: str,
    answer_column: str,
    **shared: Unpack[DataOptions],
) -> Data:
    """Rows of GSM8K, or of any dataset written like it; further columns are kept.

    Raises:
        UserError: the dataset cannot be read, or an answer has no ``####``.
    """
    columns = {"prompt_column": prompt_column, "answer_column": answer_column}
    train, val = splits(path, name, train_split, val_split, num_val, limit_train, columns)
    return Data(
        train=[row(source, prompt_column, answer_column) for source in train],
        val=[row(source, prompt_column, answer_column) for source in val],
        **shared,
    )


def row(source: dict[str, Any], prompt_column: str, answer_column: str) -> Row:
    solution, mark, answer = text(source, answer_column, "answer_column").rpartition("####")
    if not mark:
        raise UserError(
            "a solution does not end in `#### answer`",
            key=".answer_column",
            value=answer[-80:],
            hint="data=jsonl for questions with plain answers",
            code=DATA,
        )
    answer = answer.strip().replace(",", "")
    thinking = CALCULATOR.sub("", solution).strip()
    completion = tagged(f"\n{thinking}\n", answer)
    return {**source, "prompt": source[prompt_column], "answer": answer, "completion": completion}
