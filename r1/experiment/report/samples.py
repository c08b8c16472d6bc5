"""Completions for the page's table: all of them, or as many as fit, evenly over the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from r1.core import jsonl
from r1.core.runs import RunRecord, published
from r1.experiment.report.variants import SeedGroup

MAX_TEXT = 8000  # characters of one completion
FIELDS = ("split", "step", "prompt", "answer", "completion", "correct", "truncated", "reward", "advantage", "rewards")


def samples(variants: Sequence[SeedGroup], budget: int) -> tuple[list[dict[str, Any]], int]:
    """Completions of each variant's first run, marked with its index ``v``; and their total number.

    Args:
        budget: characters over all completions.
    """
    shown: list[dict[str, Any]] = []
    total = 0
    for v, variant in enumerate(variants):
        rows = read_samples(variant.runs[0])
        total += len(rows)
        shown += [{"v": v} | row for row in thin_out(rows, budget // len(variants))]
    return shown, total


def read_samples(run: RunRecord) -> list[dict[str, Any]]:
    """The rows of samples.jsonl, without numbers that are not finite, long texts cut."""
    file = run.dir / "samples.jsonl"
    rows = [published(row) for row in jsonl.read_rows(file)] if file.is_file() else []
    return [{key: _jsonable(row[key]) for key in FIELDS if row.get(key) is not None} for row in rows]


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(part) for key, part in value.items() if _jsonable(part) is not None}
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"{value[:MAX_TEXT]}\n[{len(value) - MAX_TEXT} more characters]"
    return value


def thin_out(rows: list[dict[str, Any]], budget: int) -> list[dict[str, Any]]:
    """Every k-th row and the last one, with the smallest k that fits; the order of the rows is unchanged."""
    sizes = [len(str(row)) for row in rows]
    stride = 1
    while sum(sizes[::stride]) > budget and stride < len(rows):
        stride = max(stride + 1, math.ceil(stride * sum(sizes[::stride]) / budget))
    thinned = rows[::stride]
    return thinned if not rows or thinned[-1] is rows[-1] or budget < sizes[-1] else [*thinned, rows[-1]]
