"""Your own questions: a .jsonl, .json, .csv or .parquet file with a question and an answer per row."""

from __future__ import annotations

import logging
from typing import Annotated, Literal, Unpack

from annotated_types import Ge, Interval

from r1.core.errors import DATA, UserError, suggest
from r1.data.base import Data, DataOptions, Row
from r1.data.columns import INTERNAL, RESERVED, TEXT_COLUMNS, check_row
from r1.data.conversation import is_messages, question_text, with_conversations
from r1.data.files import read_file
from r1.data.split import exclude_overlap, hold_out, subsample

log = logging.getLogger(__name__)
MAX_SKIPPED = 0.01  # of the rows: more bad ones than that are a wrong file, not a few slips
FORBIDDEN = RESERVED | INTERNAL
Columns = dict[str, str | None]  # r1's column -> the file's


def jsonl(
    *,
    path: str,
    prompt_column: str,
    answer_column: str | None,
    completion_column: str | None,
    val_path: str | None,
    num_val: Annotated[int, Ge(1)] | None,
    on_bad_row: Literal["error", "skip"],
    min_pass_rate: Annotated[float, Interval(ge=0, le=1)] | None,
    max_pass_rate: Annotated[float, Interval(ge=0, le=1)] | None,
    **shared: Unpack[DataOptions],
) -> Data:
    """Rows ``{prompt, answer?, completion?}`` and every other column of the file as it is.

    A row that names the reward ``terms`` that apply to it may leave its answer out.

    Args:
        answer_column: None: the questions have no gold answers; a column ``answer`` is not read.
        val_path: a file with the held-out rows; None takes ``num_val`` of ``path``, by the question's hash.
        num_val: held-out rows; None takes all of ``val_path``, or the share of ``path`` that ``hold_out`` has.
        on_bad_row: ``skip`` leaves unusable rows out, at most 1 % of a file.
        min_pass_rate, max_pass_rate: only rows whose ``pass_rate`` lies within are trained on; held-out rows all stay.

    Raises:
        UserError: no such file, or or a row that lacks a column or has a value of a wrong type (``columns.py``).
    """
    columns: Columns = {"prompt": prompt_column, "answer": answer_column}
    columns |= {"completion": completion_column} if completion_column else {}
    train = read_rows(path, columns, on_bad_row, ".path")
    if val_path is not None:
        val = read_rows(val_path, columns, on_bad_row, ".val_path")
        train_indices = exclude_overlap(prompts(train), prompts(val), ".val_path")
        held_out = [val[i] for i in subsample(prompts(val), num_val)]
    else:
        train_indices, val_indices = hold_out(prompts(train), num_val)
        held_out = [train[i] for i in val_indices]
    rows = filter_by_pass_rate([train[i] for i in train_indices], min_pass_rate, max_pass_rate)
    return Data(train=rows, val=held_out, **shared)


def filter_by_pass_rate(rows: list[Row], least: float | None, most: float | None) -> list[Row]:
    """Rows with ``least <= pass_rate <= most``, and those whose pass rate is null: they have no gold answer.

    Raises:
        UserError: a row has no column ``pass_rate``, or none is left.
    """
    if least is None and most is None:
        return rows
    key = ".max_pass_rate" if least is None else ".min_pass_rate"
    if lacking := sum("pass_rate" not in row for row in rows):
        message = f"{lacking} of {len(rows)} rows have no column `pass_rate`"
        raise UserError(message, key=key, hint="stage=rejection_sampling writes it: traces/questions.jsonl", code=DATA)
    low, high = least or 0.0, 1.0 if most is None else most
    in_range = [row for row in rows if row["pass_rate"] is None or low <= row["pass_rate"] <= high]
    if not in_range:
        message = f"none of {len(rows)} training rows has a pass rate of {low:g} to {high:g}"
        raise UserError(message, key=key, code=DATA)
    return in_range


def prompts(rows: list[Row]) -> list[str]:
    return [question_text(row["prompt"]) for row in rows]


def read_rows(
    path: str, columns: Columns, on_bad_row: Literal["error", "skip"], key: str, forbidden: frozenset[str] = FORBIDDEN
) -> list[Row]:
    """All rows of a file, with r1's columns.

    Args:
        key: config key of the path, for messages.
        forbidden: names that no column of the file may have.
    """
    rows: list[Row] = []
    errors: list[UserError] = []
    for location, source in read_file(path, key, text_columns(columns)):
        try:
            rows.append(make_row(source, columns, location, key, forbidden))
        except UserError as error:
            if on_bad_row == "error":
                raise
            errors.append(error)
    total = len(rows) + len(errors)
    if len(errors) > MAX_SKIPPED * total:
        message = f"{len(errors)} of {total} rows are bad, and at most 1 % are skipped; the first: {errors[0].message}"
        raise UserError(message, key=errors[0].key, value=errors[0].value, expected=errors[0].expected, code=DATA)
    if errors:
        log.warning("%s: left out %d bad rows of %d; the first: %s", path, len(errors), total, errors[0].message)
    if not rows:
        raise UserError(f"the file has no rows: {path}", key=key, value=path, code=DATA)
    return rows


def text_columns(columns: Columns) -> set[str]:
    """The file's columns that hold text, whatever it looks like."""
    return {columns.get(name) or name for name in TEXT_COLUMNS}


def make_row(source: Row | UserError, columns: Columns, location: str, key: str, forbidden: frozenset[str]) -> Row:
    """One row with r1's columns added; a number that is an answer becomes its decimal text."""
    if isinstance(source, UserError):
        raise source
    source = with_conversations(source)
    mapped = {name: column for name, column in columns.items() if column is not None}
    if "messages" in source or is_messages(source.get("chosen")):  # a conversation needs no answer, and has its prompt
        mapped = {name: column for name, column in mapped.items() if column in source}
    if source.get("terms") is not None and source.get(mapped.get("answer", "")) is None:
        mapped.pop("answer", None)  # an open-ended question
    values = {name: column_value(source, name, column, location) for name, column in mapped.items()}
    row = with_conversations(
        {name: value for name, value in source.items() if columns.get(name, name) is not None} | values
    )
    check_row(row, location, key, mapped, forbidden)
    return row if row.get("answer") is None else row | {"answer": str(row["answer"])}


def column_value(row: Row, name: str, column: str, location: str) -> object:
    if column in row:
        return row[column]
    message, hint = f"{location}: no column `{column}`", suggest(column, row)
    raise UserError(message, key=f".{name}_column", value=column, expected=list(row), hint=hint, code=DATA)
