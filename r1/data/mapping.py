"""Where a row's columns come from: a column of the source, a dotted path into one, or a template over several."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from r1.core.errors import DATA, UserError, suggest
from r1.data.columns import TEXT_COLUMNS, Row

Columns = dict[str, str | None]
"""r1's column -> where it comes from; None: it is not read. Of ``prompt: prompt`` nothing is required; any other origin
must be there in every row."""
FIELD = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")  # \boxed{} has none
INDEX = re.compile(r"-?\d+")


def text_columns(columns: Columns) -> set[str]:
    """The source's columns that hold text, whatever it looks like."""
    origins = {name: columns.get(name, name) for name in {*TEXT_COLUMNS, *columns} - {"answer", "pass_rate"}}
    return {field for origin in origins.values() if origin for field in (origin, *fields(origin))}


def fields(origin: str) -> list[str]:
    """The columns in a template; of anything else none."""
    return [match[1] for match in FIELD.finditer(origin) if match[1]]


def map_columns(source: Row, columns: Columns, location: str) -> Row:
    """The source's columns as they are, with those of ``columns`` in their places.

    Raises:
        UserError: one is not there.
    """
    row = {name: value for name, value in source.items() if columns.get(name, name) is not None}
    for name, origin in columns.items():
        if name == "answer" and source.get("terms") is not None and origin not in source:
            continue  # an open-ended question
        if origin is not None and origin != name:
            row[name] = value_at(source, origin, partial(missing, name, origin, source, location))
    return row


def value_at(source: Row, origin: str, fail: Callable[[str], UserError]) -> Any:
    """The value of a column, a dotted path or a template; ``fail`` is the error of a part that is not there."""
    if origin in source:
        return source[origin]
    if names := fields(origin):
        values = {name: text_at(source, name, fail) for name in names}
        return FIELD.sub(lambda match: values[match[1]] if match[1] else match[0][0], origin)
    value: Any = source
    for part in origin.split("."):
        value = read_json(value) if isinstance(value, str) else value
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and INDEX.fullmatch(part) and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        else:
            raise fail(part)
    return value


def read_json(text: str) -> Any:
    """The list or object that a text is in JSON, as many sets store them; other text as it is."""
    try:
        return json.loads(text) if text.lstrip()[:1] in ("[", "{") else text
    except ValueError:
        return text


def text_at(source: Row, name: str, fail: Callable[[str], UserError]) -> str:
    """A value in a template: text, a number, a list of numbers, or of texts as the lines ``A. ...``, ``B. ...``."""
    value = value_at(source, name, fail) if name in source or not fields(name) else None
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return lettered(value)
    if isinstance(value, list) and all(isinstance(item, int | float) for item in value):
        return f"[{', '.join(map(str, value))}]"
    if value is None or isinstance(value, list | dict):
        error = fail(name)
        error.message = error.message.replace(": no column", ": no text in the column")
        raise error
    return str(value)


def lettered(options: Sequence[str]) -> str:
    """Options as the lines ``A. ...``, ``B. ...``."""
    return "\n".join(f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(options))


USUAL = {  # r1's column -> names of it in published datasets
    "prompt": ("question", "problem", "instruction", "query", "input"),
    "answer": ("target", "label", "final_answer", "solution", "output"),
    "completion": ("response", "output", "solution", "generation"),
}


def missing(name: str, origin: str, source: Row, location: str, part: str = "") -> UserError:
    """The error of a column that is not there; ``part``: of its path or template, the one that is not."""
    part = part or origin
    where = "" if part == origin else f" (of {origin!r})"
    return UserError(
        f"{location}: no column `{part}`{where}: the columns are {', '.join(source)}",
        key=f".columns.{name}",
        value=origin,
        expected="a column, a dotted path into one (reward_model.ground_truth), or a template ('{question} {input}')",
        hint=suggest(part, source) or _column_hint(name, source),
        code=DATA,
    )


def _column_hint(name: str, source: Row) -> str:
    """The override that names another column: one that holds conversations, of a usual name, or the first one."""
    lists = {column: value for column, value in source.items() if isinstance(value, list)}
    for column, value in lists.items():
        if value and isinstance(value[0], dict) and {"role", "from"} & value[0].keys():
            return f"data.columns.messages={column} reads its conversations"
    usual = [column for column in USUAL.get(name, ()) if column in source]
    return f"data.columns.{name}={(usual or list(source) or ['NAME'])[0]}, if that is the column that has it"
