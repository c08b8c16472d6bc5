"""Rows of a file. Numbers keep their decimal text; NaN and infinity, which are no JSON, are missing values."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from r1.core.errors import DATA, UserError
from r1.core.yaml import HALF_PAIR
from r1.data.base import Row
from r1.data.columns import CORRECT_IT
from r1.data.decimal_float import DecimalFloat

FORMATS = (".csv", ".json", ".jsonl", ".parquet")
SourceRow = tuple[str, Row | UserError]
"""``PATH:LINE`` and the row, or its error. A parquet file and a list in JSON have no lines: the number of the row."""
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,300})(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")  # JSON's: 007 and +1 are text
MISSING = re.compile(r"\s*|[-+]?(?:nan|inf|infinity)", re.IGNORECASE)  # a cell of a .csv file
ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
LIST_START, LIST_SEPARATOR = re.compile(r"\s*\[\s*"), re.compile(r"\s*(?:,\s*(?![\s\]])|(?=\]))")


def read_file(path: str, key: str, text_columns: Collection[str] = ()) -> Iterator[SourceRow]:
    """The rows of a file.

    Args:
        key: config key of the path, for errors.
        text_columns: columns of a .csv file that are text, also where they look like numbers.

    Raises:
        UserError: the file as a whole cannot be read.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        looked = f"looked in {file.absolute()}"
        raise UserError(f"data file not found: {path}", key=key, value=path, hint=looked, code=DATA)
    match file.suffix:
        case ".jsonl" | ".json":
            return json_rows(file, path, key)
        case ".csv":
            return csv_rows(file, path, key, text_columns)
        case ".parquet":
            return parquet_rows(file, path, key)
    raise UserError("a file of this type cannot be read", key=key, value=path, expected=FORMATS, code=DATA)


def row_or_error(read: Callable[[], Row], location: str, key: str) -> SourceRow:
    """The row that ``read`` returns; a ValueError becomes the row's error."""
    try:
        return location, read()
    except ValueError as error:
        return location, UserError(f"{location}: {error}", key=key, hint=CORRECT_IT, code=DATA)


def duplicates(names: Iterable[str]) -> str:
    """The names that occur more than once, as they are quoted in a message; empty if there are none."""
    return ", ".join(f"`{name}`" for name, count in Counter(names).items() if count > 1)


# ---- JSON ----


def json_rows(file: Path, path: str, key: str) -> Iterator[SourceRow]:
    """One object per line, blank lines left out; a .json file may also be one list of objects."""
    is_first = True
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line  # a byte order mark
            if is_first and file.suffix == ".json" and line.lstrip().startswith(b"["):
                yield from json_list(line + lines.read(), path, key)
            elif line.strip():
                is_first = False
                yield row_or_error(partial(parse_row, line), f"{path}:{number}", key)


def json_list(content: bytes, path: str, key: str) -> Iterator[SourceRow]:
    """Raises: UserError: the list is not read further, because its next row cannot be told from this one."""
    number = 1
    try:
        text = decode_utf8(content)
        position = LIST_START.match(text).end()  # type: ignore[union-attr]  # json_rows has seen the bracket
        while text[position : position + 1] not in ("]", ""):
            row, end = parse_value(text, position)
            yield row_or_error(partial(require_object, row), f"{path}:{number}", key)
            if not (separator := LIST_SEPARATOR.match(text, end)):
                raise ValueError("invalid JSON: no comma or closing bracket after this row")
            position, number = separator.end(), number + 1
        if text[position:].strip() != "]":
            raise ValueError("invalid JSON: the list has no end, or more follows it")
    except ValueError as error:
        raise UserError(f"{path}:{number}: {error}", key=key, value=path, code=DATA) from None


def parse_row(line: bytes) -> Row:
    """The row of a line. Raises: ValueError: as ``parse_value``, or it is no single object."""
    text = decode_utf8(line.strip())
    value, end = parse_value(text, 0)
    if end < len(text):
        raise ValueError(f"invalid JSON at column {end + 1}")
    return require_object(value)


def require_object(value: Any) -> Row:
    """Raises: ValueError: another kind of JSON."""
    if isinstance(value, dict):
        return value
    raise ValueError("a row must be a JSON object, {...}")


def parse_value(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at ``start``, and the index of its end.

    Raises:
        ValueError: no JSON, a key that occurs twice in one object, or half of a surrogate pair.
    """
    try:
        value, end = DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise ValueError(f"invalid JSON at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a number beyond all bounds, brackets thousands deep
        raise ValueError(f"invalid JSON: {error}") from None
    if ESCAPED_HALF.search(text, start, end) and HALF_PAIR.search(json.dumps(value, ensure_ascii=False)):
        raise ValueError("half of a surrogate pair, \\ud800 to \\udfff, is no character")
    return value, end


def decode_utf8(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1}") from None


def object_of_pairs(pairs: list[tuple[str, Any]]) -> Row:
    """Raises: ValueError: a key occurs twice; Python would take the last value in silence."""
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError(f"more than one value for {duplicates(name for name, _ in pairs)}")
    return row


DECODER = json.JSONDecoder(
    object_pairs_hook=object_of_pairs,
    parse_float=DecimalFloat,
    parse_constant=lambda _: None,  # NaN, Infinity, -Infinity
)


# ---- CSV ----


def csv_rows(file: Path, path: str, key: str, text_columns: Collection[str]) -> Iterator[SourceRow]:
    """The first line names the columns. A column is read as numbers if all its cells are, and as text otherwise."""
    (_, names), *lines = csv_lines(file, path, key)
    if repeated := duplicates(names):
        raise UserError(f"{path}: more than one column {repeated}", key=key, value=path, code=DATA)
    complete = [cells for _, cells in lines if len(cells) == len(names)]
    numeric = {
        name
        for name, *cells in zip(names, *complete, strict=True)
        if name not in text_columns and all(NUMBER.fullmatch(cell) or MISSING.fullmatch(cell) for cell in cells)
    }

    def read(cells: list[str]) -> Row:
        if len(cells) != len(names):
            raise ValueError(f"{len(cells)} cells for {len(names)} columns")
        return {
            name: None if MISSING.fullmatch(cell) else parse_value(cell, 0)[0] if name in numeric else cell
            for name, cell in zip(names, cells, strict=True)
        }

    for number, cells in lines:
        yield row_or_error(partial(read, cells), f"{path}:{number}", key)


def csv_lines(file: Path, path: str, key: str) -> list[tuple[int, list[str]]]:
    """The number of its first line, and the cells, of every row; blank lines are left out."""
    csv.field_size_limit(sys.maxsize)  # the default, 128 KiB, is shorter than a long answer
    rows, number = [], 1
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            for cells in reader:
                rows += [(number, cells)] if cells else []
                number = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start + 1}", key=key, value=path, code=DATA) from None
    except csv.Error as error:
        raise UserError(f"{path}:{number}: {error}", key=key, value=path, code=DATA) from None
    return rows or [(1, [])]


# ---- parquet ----


def parquet_rows(file: Path, path: str, key: str) -> Iterator[SourceRow]:
    from pyarrow import ArrowException
    from pyarrow.parquet import read_table

    from r1.data.arrow import table_rows

    try:
        table = read_table(file)
        table.validate(full=True)  # text that is no UTF-8
        rows = list(table_rows(table))
    except (ArrowException, OSError, ValueError, KeyError) as error:
        raise UserError(f"not a parquet file that can be read: {error}", key=key, value=path, code=DATA) from error
    for number, row in enumerate(rows, 1):
        yield f"{path}:{number}", row
