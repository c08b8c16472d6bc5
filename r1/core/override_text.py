"""Values as Hydra's grammar of overrides writes them: the one place where r1 quotes a part of a command line."""

from __future__ import annotations

import re
from typing import Any

PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")  # needs no quotes
OTHER_TYPE = re.compile(r"true|false|null|nan|inf", re.IGNORECASE)
IN_KEYS = re.compile(r"([\\()\[\]{}:=, \t])")  # what a key of a mapping, which has no quotes, escapes


def override_value(value: Any) -> str:
    """A value of an override. A text may hold interpolations; ``literal`` makes one that has none.

    Args:
        value: None, a bool, a number, a text, or nested lists and mappings of them.
    """
    if isinstance(value, list):
        return f"[{','.join(map(override_value, value))}]"
    if isinstance(value, dict):
        pairs = [IN_KEYS.sub(r"\\\1", str(key)) + ":" + override_value(part) for key, part in value.items()]
        return f"{{{','.join(pairs)}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _quoted(value) if isinstance(value, str) else repr(value)


def literal(text: str) -> str:
    """``text`` for a config in which ``${...}`` is no interpolation, as in the name of a folder."""
    return re.sub(r"(?<!\\)(\\*+)\$\{", r"\1\1\\${", text)


def path_value(path: object) -> str:
    """A path as the value of an override."""
    return override_value(literal(str(path)))


def _quoted(text: str) -> str:
    """A text in single quotes, where backslashes count before a quote only."""
    if PLAIN.fullmatch(text) and not OTHER_TYPE.fullmatch(text):
        return text
    return "'{}'".format(re.sub(r"(?<!\\)(\\*+)('|\Z)", lambda match: 2 * match[1] + (match[2] and r"\'"), text))
