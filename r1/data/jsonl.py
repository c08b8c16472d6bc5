"""Your own questions: a .jsonl or .parquet file with a question and an answer per row."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Unpack

from annotated_types import Ge, Interval

from r1.core.errors import DATA, UserError, suggest
from r1.data.base import Data, DataOptions, Row
from r1.data.split import exclude_overlap, hold_out, need_num_val, subsample

log = logging.getLogger(__name__)
MAX_SKIPPED = 0.01  # of the rows: more bad ones than that are a wrong file, not a few slips
Columns = dict[str, str]  # r1's column -> the file's


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
        answer_column: None: the questions have no gold answers.
        val_path: a file with the held-out rows; None takes ``num_val`` of ``path``, by the question's hash.
        num_val: held-out rows; None takes all of ``val_path``.
        on_bad_row: ``skip`` leaves unusable rows out, at most 1 % of a file.
        min_pass_rate, max_pass_rate: only rows whose ``pass_rate`` lies within are trained on; held-out rows all stay.

    Raises:
        UserError: no such file, or a row that is no JSON object, lacks a column or holds no text in it.
    """
    optional = {"answer": answer_column, "completion": completion_column}
    columns = {"prompt": prompt_column} | {name: column for name, column in optional.items() if column is not None}
    train = read_rows(path, columns, on_bad_row, ".path")
    if val_path is not None:
        val = read_rows(val_path, columns, on_bad_row, ".val_path")
        train_indices = exclude_overlap(prompts(train), prompts(val), ".val_path")
        held_out = [val[i] for i in subsample(prompts(val), num_val)]
    else:
        train_indices, val_indices = hold_out(prompts(train), need_num_val(num_val, "val_path"))
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
    return [row["prompt"] for row in rows]


def read_rows(path: str, columns: Columns, on_bad_row: Literal["error", "skip"], key: str) -> list[Row]:
    """All rows of a file. ``key`` is the config key of the path, for messages."""
    file = Path(path).expanduser()
    if not file.is_file():
        looked = f"looked in {file.absolute()}"
        raise UserError(f"data file not found: {path}", key=key, value=path, hint=looked, code=DATA)
    rows: list[Row] = []
    errors: list[UserError] = []
    for number, source in source_rows(file, key):
        try:
            rows.append(map_columns(source, columns, f"{path}:{number}", key))
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


def source_rows(file: Path, key: str) -> Iterator[tuple[int, bytes | Row]]:
    """(line number, line) of a .jsonl file, blank lines left out, or (row number, row) of a .parquet file."""
    if file.suffix == ".jsonl":
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line  # a byte order mark
                if line.strip():
                    yield number, line
    elif file.suffix == ".parquet":
        yield from enumerate(read_parquet(file, key), 1)
    else:
        message = "a file of this type cannot be read"
        raise UserError(message, key=key, value=str(file), expected=".jsonl, .parquet", code=DATA)


def read_parquet(file: Path, key: str) -> list[Row]:
    from pyarrow import ArrowException
    from pyarrow.parquet import read_table

    try:
        rows: list[Row] = read_table(file).to_pylist()
    except (ArrowException, OSError) as error:
        raise UserError(f"not a parquet file: {error}", key=key, value=str(file), code=DATA) from error
    return rows


def map_columns(source: bytes | Row, columns: Columns, location: str, key: str) -> Row:
    """One row with r1's columns added. ``location`` is ``PATH:LINE``."""
    row = source if isinstance(source, dict) else decode_row(source, location, key)
    open_ended = row.get("terms") is not None and row.get(columns.get("answer", "")) is None
    text_columns = {name: column for name, column in columns.items() if not (open_ended and name == "answer")}
    return row | {name: column_text(row, name, column, location) for name, column in text_columns.items()}


def decode_row(line: bytes, location: str, key: str) -> Row:
    def error_for(message: str) -> UserError:
        hint = "correct it, or set on_bad_row to skip, which leaves such rows out (at most 1 %)"
        return UserError(f"{location}: {message}", key=key, hint=hint, code=DATA)

    try:
        row = json.loads(line.rstrip().decode())
    except UnicodeDecodeError as error:
        raise error_for(f"not UTF-8 at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise error_for(f"invalid JSON at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise error_for(f"invalid JSON: {error}") from None
    if not isinstance(row, dict):
        raise error_for("a row must be a JSON object, {...}")
    return row


def column_text(row: Row, name: str, column: str, location: str) -> str:
    """One value as text; an answer may also be a number."""
    if column not in row:
        raise UserError(
            f"{location}: no column `{column}`",
            key=f".{name}_column",
            value=column,
            expected=list(row),
            hint=suggest(column, row),
            code=DATA,
        )
    value: Any = row[column]
    number = name == "answer" and isinstance(value, int | float) and not isinstance(value, bool)
    if not (number or (isinstance(value, str) and value.strip())):
        raise UserError(
            f"{location}: the column `{column}` holds no text",
            key=f".{name}_column",
            value=value,
            expected="text or a number" if name == "answer" else "text",
            code=DATA,
        )
    return str(value)
