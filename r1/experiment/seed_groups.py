"""Grouping of runs that differ in nothing but their seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def group_by_values(items: Iterable[T], values: Callable[[T], Any]) -> list[list[T]]:
    """Items with equal values, which must leave the seed out; groups are in the order of their first item."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(json.dumps(values(item), sort_keys=True, default=str), []).append(item)
    return list(groups.values())
