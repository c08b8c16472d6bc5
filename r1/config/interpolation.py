"""The length of a config once its interpolations are written out, without writing them out."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from r1.core.errors import UserError

MAX_SIZE = 10_000_000  # characters; the default config has some 10,000
REFERENCE_SIZE = 100  # of an interpolation itself: OmegaConf evaluates each as often as it is met
Path = tuple[str, ...]
KEY = re.compile(r"(\.*)([\w@/]+(?:[.\[\]]+[\w@/]+)*)")  # ${a.b}, ${a[0]}, and ${..b}, which counts levels upwards


def check_interpolations(config: dict[str, Any]) -> None:
    """Check that no chain of interpolations explodes, as ``a: ${b}${b}``, ``b: ${c}${c}``, ... does.

    Raises:
        UserError: a value is longer than ``MAX_SIZE`` once it is resolved.
    """
    for path, size in sorted(resolved_sizes(config).items(), key=lambda item: -len(item[0])):  # innermost key first
        if size > MAX_SIZE:
            message = f"its interpolations stand for more than {MAX_SIZE:,} characters"
            raise UserError(message, key=".".join(path))


def resolved_sizes(config: dict[str, Any]) -> dict[Path, int]:
    """Characters that each node stands for, and ``REFERENCE_SIZE`` for each interpolation; by the path of its keys."""
    nodes: dict[Path, Any] = {}
    _add_nodes(config, (), nodes)
    sizes: dict[Path, int] = {}
    for path in nodes:
        with suppress(RecursionError):  # OmegaConf has the same limit, and names the key
            _size(path, nodes, sizes)
    return sizes


def _add_nodes(node: Any, path: Path, nodes: dict[Path, Any]) -> None:
    nodes[path] = node
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        _add_nodes(value, (*path, str(key)), nodes)


def _size(path: Path, nodes: dict[Path, Any], sizes: dict[Path, int]) -> int:
    if path in sizes:
        return sizes[path]
    sizes[path] = 0  # of a cycle, which OmegaConf refuses
    node = nodes[path]
    if isinstance(node, dict | list):
        keys = node if isinstance(node, dict) else range(len(node))
        sizes[path] = sum(_size((*path, str(key)), nodes, sizes) for key in keys)
    elif isinstance(node, str):
        targets = _references(node, path) if "${" in node else []
        sizes[path] = len(node) + sum(REFERENCE_SIZE + _size(key, nodes, sizes) for key in targets if key in nodes)
    return sizes[path]


def _references(text: str, path: Path) -> list[Path]:
    """The paths that a text's interpolations may name; other words in it count if they are keys, too."""
    return [(*(path[: -len(dots)] if dots else ()), *re.split(r"[.\[\]]+", name)) for dots, name in KEY.findall(text)]
