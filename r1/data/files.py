"""Rows of a file as a stream. Numbers keep their decimal text; NaN and infinity, no JSON, are missing values."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from r1.core.errors import DATA, UserError
from r1.core.yaml import HALF_PAIR
from r1.data.columns import CORRECT_IT, Row
from r1.data.decimal_float import DecimalFloat

FORMATS = (".arrow", ".csv", ".json", ".jsonl", ".parquet")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")  # of the text formats
SourceRow = tuple[str, Row | UserError]
"""``PATH:LINE`` and the row, or its error. Tables and a list in JSON have no lines: the number of the row."""
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,300})(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")  # JSON's: 007 and +1 are text
MISSING = re.compile(r"\s*|[-+]?(?:nan|inf|infinity)", re.IGNORECASE)  # a cell of a .csv file
ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
LIST_START, LIST_SEPARATOR = re.compile(r"\s*\[\s*"), re.compile(r"\s*(?:,\s*(?![\s\]])|(?=\]))")
LIST_END = re.compile(r"\s*\]\s*")
BLOCK = 1 << 20  # bytes that are read at once
LONGEST_ESCAPE = 12  # characters, of a surrogate pair


def format_of(name: str) -> str:
    """The format of a file, from its name: ``.jsonl`` of ``a.jsonl.gz``; another suffix as it is."""
    path = Path(name)
    return path.with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix


def read_file(
    path: str,
    key: str,
    text_columns: Collection[str] = (),
    name: str | None = None,
    columns: Collection[str] | None = None,
) -> Iterator[SourceRow]:
    """The rows of a file.

    Args:
        key: config key of the path, for errors.
        text_columns: columns of a .csv file that are text, also where they look like numbers.
        name: of the file, where it is not the path's: in messages, and for its format.
        columns: of a parquet file, whose other columns are left unread if it has all of these; None: all are read.

    Raises:
        UserError: the file as a whole cannot be read.
    """
    file, name = Path(path).expanduser(), name or path
    if not file.is_file():
        looked = f"looked in {file.absolute()}"
        raise UserError(f"data file not found: {name}", key=key, value=name, hint=looked, code=DATA)
    match format_of(name):
        case ".jsonl" | ".json" as suffix:
            return json_rows(file, name, key, may_be_list=suffix == ".json")
        case ".csv":
            return csv_rows(file, name, key, text_columns)
        case ".parquet" | ".arrow" as suffix:
            return table_file_rows(file, name, key, suffix, columns)
    raise UserError("a file of this type cannot be read", key=key, value=name, expected=FORMATS, code=DATA)


def open_bytes(file: Path, name: str) -> IO[bytes]:
    """The file's content, decompressed where the name says that it is compressed."""
    if Path(name).suffix not in COMPRESSED:
        return file.open("rb")
    import fsspec
    from fsspec.utils import infer_compression

    opened: IO[bytes] = fsspec.open(str(file), "rb", compression=infer_compression(name)).open()
    return opened


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


class InvalidJson(ValueError):
    """No JSON. ``may_continue``: with more text after it, it might be."""

    may_continue = False


def json_rows(file: Path, path: str, key: str, may_be_list: bool) -> Iterator[SourceRow]:
    """One object per line, blank lines left out; a .json file may also be one list of objects."""
    with open_bytes(file, path) as lines:
        if may_be_list and starts_with_bracket(lines):
            yield from json_list(Window(lines), path, key)
            return
        for number, line in enumerate(lines, 1):
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if line.strip():
                yield row_or_error(partial(parse_row, line), f"{path}:{number}", key)


def starts_with_bracket(file: IO[bytes]) -> bool:
    """Whether the first character that is no space is a bracket; the file is then at its start again."""
    start = file.read(1 << 16).removeprefix(codecs.BOM_UTF8).lstrip()
    file.seek(0)
    return start.startswith(b"[")


class Window:
    """The part of a long text that is being read, and the position in it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.decoder = file, codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.position = "", 0
        self.column = 0  # characters of its line before the window
        self.num_bytes = 0

    def more(self) -> bool:
        """Read on, at least as much as is left here, and forget what is behind; whether anything came.

        Raises:
            ValueError: it is not UTF-8.
        """
        pending, block = len(self.decoder.getstate()[0]), self.file.read(max(BLOCK, len(self.text) - self.position))
        try:
            text = self.decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 at byte {self.num_bytes - pending + error.start + 1}") from None
        if block:
            newline = self.text.rfind("\n", 0, self.position)
            self.column = self.position - newline - 1 if newline >= 0 else self.column + self.position
            self.text, self.position = self.text[self.position :] + text, 0
            self.num_bytes += len(block)
        return bool(block)

    def take(self, pattern: re.Pattern[str]) -> bool:
        """Go behind what matches here; whether something does."""
        while (match := pattern.match(self.text, self.position)) is None or match.end() == len(self.text):
            if not self.more():
                break
        self.position = match.end() if match else self.position
        return match is not None

    def take_value(self) -> Any:
        """Go behind the JSON value here. Raises: ValueError: as ``parse_value``."""
        while True:
            try:
                value, end = parse_value(self.text, self.position, self.column)
                if end < len(self.text) or not self.more():
                    self.position = end
                    return value
            except InvalidJson as error:
                if not error.may_continue or not self.more():
                    raise

    def next_character(self) -> str:
        return self.text[self.position : self.position + 1]


def json_list(window: Window, path: str, key: str) -> Iterator[SourceRow]:
    """Raises: UserError: the list is not read further, because its next row cannot be told from this one."""
    number = 1
    try:
        window.take(LIST_START)
        while window.next_character() not in ("]", ""):
            yield row_or_error(partial(require_object, window.take_value()), f"{path}:{number}", key)
            if not window.take(LIST_SEPARATOR):
                raise ValueError("invalid JSON: no comma or closing bracket after this row")
            number += 1
        if not window.take(LIST_END) or window.next_character():
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


def parse_value(text: str, start: int, column: int = 0) -> tuple[Any, int]:
    """The JSON value that begins at ``start``, and the index of its end.

    Args:
        column: characters of the first line before ``text``, for messages.

    Raises:
        ValueError: no JSON, a key that occurs twice in one object, or half of a surrogate pair.
    """
    try:
        value, end = DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        invalid = InvalidJson(f"invalid JSON at column {error.colno + (column if error.lineno == 1 else 0)}")
        invalid.may_continue = error.pos + LONGEST_ESCAPE >= len(text) or error.msg.startswith("Unterminated string")
        raise invalid from None
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
    names, numeric = csv_header(file, path, key, text_columns)

    def read(cells: list[str]) -> Row:
        if len(cells) != len(names):
            raise ValueError(f"{len(cells)} cells for {len(names)} columns")
        return {
            name: None if MISSING.fullmatch(cell) else parse_value(cell, 0)[0] if name in numeric else cell
            for name, cell in zip(names, cells, strict=True)
        }

    lines = csv_lines(file, path, key)
    next(lines, None)
    for number, cells in lines:
        yield row_or_error(partial(read, cells), f"{path}:{number}", key)


def csv_header(file: Path, path: str, key: str, text_columns: Collection[str]) -> tuple[list[str], set[str]]:
    """The names of the columns, and of those whose cells are all numbers: a pass over the file."""
    lines = csv_lines(file, path, key)
    _, names = next(lines, (1, []))
    if repeated := duplicates(names):
        raise UserError(f"{path}: more than one column {repeated}", key=key, value=path, code=DATA)
    numeric = set(names) - {*text_columns}
    for _, cells in lines:
        if len(cells) == len(names):
            numeric -= {
                name
                for name, cell in zip(names, cells, strict=True)
                if name in numeric and not NUMBER.fullmatch(cell) and not MISSING.fullmatch(cell)
            }
        if not numeric:
            break
    return names, numeric


def csv_lines(file: Path, path: str, key: str) -> Iterator[tuple[int, list[str]]]:
    """The number of its first line, and the cells, of every row; blank lines are left out."""
    csv.field_size_limit(sys.maxsize)  # the default, 128 KiB, is shorter than a long answer
    number = 1
    try:
        with io.TextIOWrapper(open_bytes(file, path), encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            for cells in reader:
                if cells:
                    yield number, cells
                number = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: not UTF-8: {error.reason}", key=key, value=path, code=DATA) from None
    except csv.Error as error:
        raise UserError(f"{path}:{number}: {error}", key=key, value=path, code=DATA) from None


# ---- parquet and Arrow ----


def table_file_rows(
    file: Path, path: str, key: str, suffix: str, columns: Collection[str] | None
) -> Iterator[SourceRow]:
    from pyarrow import ArrowException

    from r1.data.arrow import arrow_tables, parquet_tables, table_rows

    number = 0
    try:
        for table in parquet_tables(file, columns) if suffix == ".parquet" else arrow_tables(file):
            table.validate(full=True)  # text that is no UTF-8
            if repeated := duplicates(table.column_names):
                raise ValueError(f"more than one column {repeated}")
            for row in table_rows(table):
                number += 1
                yield f"{path}:{number}", row
    except (ArrowException, OSError, ValueError, KeyError) as error:
        kind = suffix.removeprefix(".")
        at = f" after row {number}" if number else ""
        message = f"not {'an' if kind == 'arrow' else 'a'} {kind} file that can be read{at}: {error}"
        raise UserError(message, key=key, value=path, code=DATA) from error
