"""What a point's record says of the metric: a run's own, or a pipeline's, whose figures are those of its result."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from r1.core import jsonl


def manifest(folder: Path) -> dict[str, Any]:
    """Empty where there is none yet."""
    try:
        held: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held


def is_finished(folder: Path) -> bool:
    return manifest(folder).get("status") == "finished"


def history(folder: Path, metric: str) -> dict[int, float]:
    """The metric by optimizer step, as far as the run has come; of a pipeline with several results nothing."""
    results = manifest(folder).get("results", [str(folder)])
    file = Path(results[0], "metrics.jsonl")
    if len(results) > 1 or not file.is_file():
        return {}
    return {row["step"]: row[metric] for row in jsonl.read_rows(file) if _is_figure(row.get(metric))}


def objective(folder: Path, metric: str) -> float | None:
    """The metric's final figure, else its last value; None: there is no finite one."""
    final = manifest(folder).get("metrics", {}).get("final", {}).get(metric)
    value = final["value"] if final else next(reversed(history(folder, metric).values()), None)
    return value if _is_figure(value) else None


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
