"""The data of a sweep's section of the page, for its template and for its script."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from typing import Any

from r1.core.statistics import Estimate
from r1.experiment.report.sweep.analysis import Analysis, Comparison
from r1.experiment.report.sweep.conclusions import (
    compute_cells,
    conclusion,
    estimate_text,
    gap_to_best,
    scope,
    warnings,
)
from r1.experiment.report.sweep.effects import Response, coordinate, is_number, order, scale
from r1.experiment.report.sweep.points import TrialGroup, labels, value_text
from r1.experiment.report.sweep.trials import Trial, Value

MAX_FAILED = 100  # runs that are listed with their error


def section_data(analysis: Analysis, max_rows: int) -> dict[str, Any]:
    """The data of sweep.html; no more than ``max_rows`` points in the table."""
    comparisons = {id(comparison.point): comparison for comparison in analysis.comparisons}
    unfinished = [trial for trial in analysis.trials if trial.outcome != "finished"]
    return {
        "info": analysis.info,
        "names": analysis.names,
        "labels": labels(analysis.names),
        "conclusion": conclusion(analysis),
        "warnings": warnings(analysis),
        "scope": scope(analysis),
        "ends": Counter(trial.outcome for trial in analysis.trials),
        "unfinished": [unfinished_row(analysis, trial) for trial in unfinished[:MAX_FAILED]],
        "num_unfinished": len(unfinished),
        "points": [
            point_row(analysis, point, comparisons.get(id(point)), rank)
            for rank, point in enumerate(analysis.points[:max_rows], 1)
        ],
        "num_points": len(analysis.points),
        "importance": analysis.importance,
        "num_counted": sum(trial.is_counted for trial in analysis.trials),
        "binned": any(response.binned for response in analysis.responses),
        "several": analysis.several_seeds,
        "command": rerun_command(analysis.winner.counted[0]) if analysis.winner else "",
    }


def rerun_command(trial: Trial) -> str:
    """The command that starts one run again, without the sweep."""
    recorded = trial.run.manifest.get("overrides") or []
    overrides = [text for text in recorded if not text.startswith(("output_dir=", "resume=", "steps_dir="))]
    return shlex.join(["python", "-m", "r1.run", *overrides])


def unfinished_row(analysis: Analysis, trial: Trial) -> dict[str, Any]:
    at = f"{trial.estimate.text} when it was last validated" if trial.estimate else ""
    error = trial.run.manifest.get("error") or ""
    return {
        "dir": trial.run.dir.name,
        "point": analysis.name(trial.values),
        "seed": trial.seed,
        "outcome": trial.outcome,
        "at": at,
        "error": error,
    }


def point_row(analysis: Analysis, point: TrialGroup, comparison: Comparison | None, rank: int) -> dict[str, Any]:
    """One point: each cell's text with what it is sorted by."""
    compute = point.compute
    amounts = (compute.sequences, compute.per_step, compute.tokens, compute.wall_s)
    return {
        "best": point is analysis.winner,
        "tied": bool(comparison and comparison.tied),
        "default": analysis.default is not None and point.values == analysis.default,
        "values": [(value_text(value), value if is_number(value) else -1e99) for value in point.values.values()],
        "estimate": (estimate_text(point.estimate), _sortable(point.estimate)),
        "seeds": len(point.by_seed),
        "runs": len(point.trials),
        "gap": (gap_to_best(comparison, point is analysis.winner), rank),
        "used": list(zip(compute_cells(compute), (value or 0 for value in amounts), strict=True)),
    }


def _sortable(estimate: Estimate | None) -> float:
    return estimate.value if estimate else -1e99


# ---- for the script ----


def plot_data(analysis: Analysis) -> dict[str, Any]:
    """The data of sweep.js: response curves, importance, parallel coordinates."""
    return {
        "metric": analysis.info.metric,
        "maximize": analysis.info.maximize,
        "responses": [_response(analysis, response) for response in analysis.responses],
        "importance": [
            {
                "name": labels(analysis.names).get(share.name, share.name),
                "share": _round(share.share),
                "noise": _round(share.noise),
                "main": share.is_parameter,
            }
            for share in (analysis.importance.shares if analysis.importance else ())
        ],
        "parallel": _parallel(analysis),
    }


def _response(analysis: Analysis, response: Response) -> dict[str, Any]:
    low_high = [(level.estimate.low, level.estimate.high) for level in response.levels]
    return {
        "name": response.name,
        "scale": response.scale,
        "places": [value_text(value) for value in order([trial.values[response.name] for trial in analysis.trials])],
        "levels": [
            {"x": level.x, "label": level.label, "y": _round(level.estimate.value), "lo": _round(low),
             "hi": _round(high), "runs": level.num_runs, "seeds": level.num_seeds}
            for level, (low, high) in zip(response.levels, low_high, strict=True)
        ],
        "dots": [
            {"x": coordinate(trial.values[response.name], response.scale), "y": _round(trial.estimate.value),
             "done": trial.is_counted, "name": f"{trial.run.dir.name}, seed {trial.seed}"}
            for trial in analysis.trials
            if trial.estimate
        ],
    }  # fmt: skip


def _parallel(analysis: Analysis) -> dict[str, Any]:
    """Each run as a line over the parameters; every axis has its ticks in [0, 1]."""
    axes = {name: _axis([trial.values[name] for trial in analysis.trials]) for name in analysis.names}
    lines = [
        {"at": [axes[name][1][value_text(trial.values[name])] for name in analysis.names],
         "y": _round(trial.estimate.value), "name": f"{analysis.name(trial.values)}, seed {trial.seed}"}
        for trial in analysis.trials
        if trial.is_counted and trial.estimate
    ]  # fmt: skip
    short = labels(analysis.names)
    return {"axes": [{"name": short[name], "ticks": axes[name][0]} for name in analysis.names], "lines": lines}


def _axis(values: list[Value]) -> tuple[list[tuple[float, str]], dict[str, float]]:
    """Ticks, and the height of every value: numbers by their scale, texts evenly spaced."""
    kind, ordered = scale(values), order(values)
    if kind == "ordinal" or len(ordered) <= 2:
        at = [i / max(1, len(ordered) - 1) for i in range(len(ordered))]
    else:
        numbers = [math.log(float(v)) if kind == "log" else float(v) for v in ordered]  # type: ignore[arg-type]
        at = [(number - numbers[0]) / (numbers[-1] - numbers[0]) for number in numbers]
    heights = {value_text(value): round(height, 4) for value, height in zip(ordered, at, strict=True)}
    shown = ordered if len(ordered) <= 8 else [ordered[round(i * (len(ordered) - 1) / 4)] for i in range(5)]
    return [(heights[value_text(value)], _tick(value)) for value in shown], heights


def _tick(value: Value) -> str:
    return f"{value:.2g}" if isinstance(value, float) else value_text(value)


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
