"""One value of a sweep file on its way to the config: ``wandb agent`` writes it as Python's ``str()``, unquoted, and
Hydra parses that text. Most values arrive as they were meant; those that would arrive as something else are refused.
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
    """The value that Hydra gets when ``wandb agent`` passes this on; ``UNREADABLE``: an error, or several values."""
    try:
        override = parse_override(f"x={value}")
        return UNREADABLE if override.is_sweep_override() else override.value()
    except Exception:  # the grammar raises many kinds
        return UNREADABLE


def intended_value(value: Any) -> Any:
    """The value that is meant: None for the text ``null``, and the content of a text with quotes of its own."""
    if not isinstance(value, str):
        return value
    if value == "null":
        return None
    quoted = QUOTED.fullmatch(value)
    return (quoted[1] or quoted[2] or "") if quoted else value


def value_error(value: Any, key: str) -> UserError | None:
    """Why a value would not arrive in the config as it is in the file, and how to write it; None: it arrives."""
    if value is None:
        message, hint = "W&B passes null on as the text None", 'write "null", in quotes'
    elif isinstance(value, dict):
        inner = next(iter(value), "KEY")
        name = re.sub(r"^parameters\.|\.values?(\[\d+\])?$", "", key)  # parameters.stage.lr.values[0] -> stage.lr
        message, hint = "a mapping cannot be passed on", f"a parameter for each of its keys: {name}.{inner}"
    elif not isinstance(value, bool | int | float | str | list):
        message, hint = f"YAML reads this as a {type(value).__name__}", 'write it in quotes if it is text: "..."'
    elif _is_same(read_by_hydra(value), intended_value(value)):
        return None
    else:
        message, hint = _explain_misread(value)
    return UserError(message, key=key, value=as_yaml_null(value), hint=hint)


def wrong_value(key: str, value: Any, expected: str) -> UserError:
    return UserError(f"wrong value for `{key}`", key=key, value=as_yaml_null(value), expected=expected)


def yaml_float(text: str) -> str:
    """A number in a form that YAML reads as one: ``1e-5`` -> ``1.0e-05``."""
    return str(yaml.safe_dump(float(text))).partition("\n")[0]


def _explain_misread(value: Any) -> tuple[str, str]:
    """The message and the hint for a list or text that Hydra reads as something else."""
    hydra_value = read_by_hydra(value)
    if isinstance(value, list):
        return "this list does not arrive as it is", "plain numbers and texts only"
    if NUMBER.fullmatch(value):
        number = value if re.fullmatch(r"[+-]?\d+", value) else yaml_float(value)
        return "YAML reads this as text, and Hydra as a number", f"write {number}"
    if isinstance(hydra_value, bool | list):
        return f"this is text, and Hydra reads {format_value(hydra_value)}", f"write {value} without the quotes"
    quoted = json.dumps(f"'{value}'", ensure_ascii=False)
    hint = f"quote it twice if it is text: {quoted}" if "'" not in value else "leave out what Hydra cannot read"
    if hydra_value is UNREADABLE:
        return "Hydra cannot read this as one value", hint
    return f"Hydra reads this as {format_value(as_yaml_null(hydra_value))}", hint


def _is_same(one: Any, other: Any) -> bool:
    """Equal values of equal types, also deep inside."""
    try:
        return json.dumps(one) == json.dumps(other)
    except TypeError:
        return False
