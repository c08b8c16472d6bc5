"""The metric of a point, read from its record: a run's own, or of a pipeline that of its result."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from r1.core import jsonl
from r1.core.manifest import read_manifest


def is_finished(folder: Path) -> bool:
    return read_manifest(folder).get("status") == "finished"


def metric_history(folder: Path, metric: str) -> dict[int, float]:
    """The metric by optimizer step, as far as the run has come; empty for a pipeline with several results."""
    results = read_manifest(folder).get("results", [str(folder)])
    file = Path(results[0], "metrics.jsonl")
    if len(results) > 1 or not file.is_file():
        return {}
    return {row["step"]: row[metric] for row in jsonl.read_rows(file) if _is_finite_number(row.get(metric))}


def final_metric(folder: Path, metric: str) -> float | None:
    """The metric's final estimate, else its last logged value; None: there is no finite one."""
    estimate = read_manifest(folder).get("metrics", {}).get("final", {}).get(metric)
    value = estimate["value"] if estimate else next(reversed(metric_history(folder, metric).values()), None)
    return value if _is_finite_number(value) else None


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
