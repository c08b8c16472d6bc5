"""One value of a sweep file on its way to the config: ``wandb agent`` writes it as Python's ``str()``, unquoted, and
Hydra reads that text. Most values arrive as they were meant; what would arrive as something else is refused here.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml  # type: ignore[import-untyped]

from r1.config.hydra_adapter import parse_override
from r1.core.errors import UserError, as_yaml_null, format_value

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
QUOTED = re.compile(r"'(.*)'|\"(.*)\"", re.DOTALL)
UNREADABLE = object()


def read_by_hydra(value: Any) -> Any:
    """What Hydra makes of a value that ``wandb agent`` hands over; ``UNREADABLE``: nothing, or several values."""
    try:
        override = parse_override(f"x={value}")
        return UNREADABLE if override.is_sweep_override() else override.value()
    except Exception:  # the grammar raises many kinds
        return UNREADABLE


def intended_value(value: Any) -> Any:
    """The value that is meant: None for the text ``null``, and the content of a text with quotes of its own."""
    if not isinstance(value, str):
        return value
    quoted = QUOTED.fullmatch(value)
    return None if value == "null" else (quoted[1] or quoted[2] or "") if quoted else value


def problem(value: Any, where: str) -> UserError | None:
    """Why a value would not arrive in the config as it stands in the file, and how to write it."""
    if value is None:
        message, hint = "W&B hands null over as the text None", 'write "null", in quotes'
    elif isinstance(value, dict):
        key = next(iter(value), "KEY")
        message, hint = "a mapping cannot be handed over", f"a parameter for each of its keys: {_name(where)}.{key}"
    elif not isinstance(value, bool | int | float | str | list):
        message, hint = f"YAML reads this as a {type(value).__name__}", 'write it in quotes if it is text: "..."'
    elif _same(read_by_hydra(value), intended_value(value)):
        return None
    else:
        message, hint = _misread(value)
    return UserError(message, key=where, value=as_yaml_null(value), hint=hint)


def yaml_float(text: str) -> str:
    """A number that YAML reads as one: ``1e-5`` -> ``1.0e-05``."""
    return str(yaml.safe_dump(float(text))).partition("\n")[0]


def _name(where: str) -> str:
    return re.sub(r"^parameters\.|\.values?(\[\d+\])?$", "", where)


def _misread(value: Any) -> tuple[str, str]:
    got = read_by_hydra(value)
    if isinstance(value, list):
        return "this list does not arrive as it is", "plain numbers and texts only"
    if NUMBER.fullmatch(value):
        return "YAML reads this as text, and Hydra as a number", f"write {_number(value)}"
    if isinstance(got, bool | list):
        return f"this is text, and Hydra reads {format_value(got)}", f"write {value} without the quotes"
    twice = json.dumps(f"'{value}'", ensure_ascii=False)
    do = f"quote it twice if it is text: {twice}" if "'" not in value else "leave out what Hydra cannot read"
    if got is UNREADABLE:
        return "Hydra cannot read this as one value", do
    return f"Hydra reads this as {format_value(as_yaml_null(got))}", do


def _number(text: str) -> str:
    return text if re.fullmatch(r"[+-]?\d+", text) else yaml_float(text)


def _same(one: Any, other: Any) -> bool:
    """Equal values of equal types, also deep inside."""
    try:
        return json.dumps(one) == json.dumps(other)
    except TypeError:
        return False
