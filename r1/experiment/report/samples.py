"""Completions for the page's table: all there are, or as many as fit, evenly over the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from r1.core import jsonl
from r1.core.runs import RunRecord
from r1.experiment.report.variants import SeedGroup

MAX_TEXT = 8000  # characters of one completion
FIELDS = ("split", "step", "prompt", "answer", "completion", "correct", "truncated", "reward", "advantage", "rewards")


def samples(variants: Sequence[SeedGroup], budget: int) -> tuple[list[dict[str, Any]], int]:
    """Completions of each variant's first run, marked with its place ``v``; and how many there are altogether.

    Args:
        budget: characters over all completions.
    """
    shown: list[dict[str, Any]] = []
    total = 0
    for v, variant in enumerate(variants):
        rows = read(variant.runs[0])
        total += len(rows)
        shown += [{"v": v} | row for row in thinned(rows, budget // len(variants))]
    return shown, total


def read(run: RunRecord) -> list[dict[str, Any]]:
    """The lines of samples.jsonl, numbers that JSON has no word for left out, long texts cut."""
    file = run.dir / "samples.jsonl"
    rows = jsonl.read_rows(file) if file.is_file() else []
    return [{key: _plain(row[key]) for key in FIELDS if row.get(key) is not None} for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items() if _plain(part) is not None}
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"{value[:MAX_TEXT]}\n[{len(value) - MAX_TEXT} more characters]"
    return value


def thinned(rows: list[dict[str, Any]], budget: int) -> list[dict[str, Any]]:
    """Every k-th row, the last one too, with the smallest k that fits; rows of like steps lie beside each other."""
    sizes = [len(str(row)) for row in rows]
    stride = 1
    while sum(sizes[::stride]) > budget and stride < len(rows):
        stride = max(stride + 1, math.ceil(stride * sum(sizes[::stride]) / budget))
    kept = rows[::stride]
    return kept if not rows or kept[-1] is rows[-1] or budget < sizes[-1] else [*kept, rows[-1]]
