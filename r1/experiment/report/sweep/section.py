"""A sweep's section of the page: what its template reads, and what its script draws."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from typing import Any

from r1.core.statistics import Estimate
from r1.experiment.report.sweep.analysis import Analysis, Comparison
from r1.experiment.report.sweep.conclusions import facts, standing, text, used, verdict, warnings
from r1.experiment.report.sweep.effects import Response, is_number, order, scale
from r1.experiment.report.sweep.points import Point, labels, shown
from r1.experiment.report.sweep.trials import Trial, Value

MAX_FAILED = 100  # runs that are listed with their error


def section(found: Analysis, max_rows: int) -> dict[str, Any]:
    """What sweep.html reads; no more than ``max_rows`` points in the table."""
    compared = {id(one.point): one for one in found.comparisons}
    unfinished = [trial for trial in found.trials if trial.ended != "finished"]
    return {
        "asked": found.asked,
        "names": found.names,
        "labels": labels(found.names),
        "verdict": verdict(found),
        "warnings": warnings(found),
        "facts": facts(found),
        "ends": Counter(trial.ended for trial in found.trials),
        "unfinished": [unfinished_row(found, trial) for trial in unfinished[:MAX_FAILED]],
        "num_unfinished": len(unfinished),
        "points": [
            row(found, point, compared.get(id(point)), rank) for rank, point in enumerate(found.points[:max_rows], 1)
        ],
        "num_points": len(found.points),
        "importance": found.importance,
        "num_counted": sum(trial.counts for trial in found.trials),
        "binned": any(one.binned for one in found.responses),
        "several": found.several_seeds,
        "command": again(found.winner.counted[0]) if found.winner else "",
    }


def again(trial: Trial) -> str:
    """The command of one run, whatever started it."""
    typed = trial.run.manifest.get("overrides") or []
    kept = [text for text in typed if not text.startswith(("output_dir=", "resume=", "steps_dir="))]
    return shlex.join(["python", "-m", "r1.run", *kept])


def unfinished_row(found: Analysis, trial: Trial) -> dict[str, Any]:
    at = f"{trial.figure.text} when it was last validated" if trial.figure else ""
    error = trial.run.manifest.get("error") or ""
    return {
        "dir": trial.run.dir.name,
        "point": found.name(trial.values),
        "seed": trial.seed,
        "ended": trial.ended,
        "at": at,
        "error": error,
    }


def row(found: Analysis, point: Point, one: Comparison | None, rank: int) -> dict[str, Any]:
    """One point: each cell's text with what it is sorted by."""
    compute = point.compute
    amounts = (compute.sequences, compute.per_step, compute.tokens, compute.wall_s)
    return {
        "best": point is found.winner,
        "tied": bool(one and one.tied),
        "default": found.default is not None and point.values == found.default,
        "values": [(shown(value), value if is_number(value) else -1e99) for value in point.values.values()],
        "figure": (text(point.figure), _sortable(point.figure)),
        "seeds": len(point.by_seed),
        "runs": len(point.trials),
        "standing": (standing(one, point is found.winner), rank),
        "used": list(zip(used(compute), (value or 0 for value in amounts), strict=True)),
    }


def _sortable(figure: Estimate | None) -> float:
    return figure.value if figure else -1e99


# ---- for the script ----


def drawing(found: Analysis) -> dict[str, Any]:
    """What sweep.js draws: response curves, importance, parallel coordinates."""
    return {
        "metric": found.asked.metric,
        "maximize": found.asked.maximize,
        "responses": [_response(found, one) for one in found.responses],
        "importance": [
            {
                "name": labels(found.names).get(share.name, share.name),
                "share": _short(share.share),
                "noise": _short(share.noise),
                "main": share.is_parameter,
            }
            for share in (found.importance.shares if found.importance else ())
        ],
        "parallel": _parallel(found),
    }


def _response(found: Analysis, made: Response) -> dict[str, Any]:
    low_high = [(level.figure.low, level.figure.high) for level in made.levels]
    return {
        "name": made.name,
        "scale": made.scale,
        "places": [shown(value) for value in order([trial.values[made.name] for trial in found.trials])],
        "levels": [
            {"x": level.place, "label": level.label, "y": _short(level.figure.value), "lo": _short(low),
             "hi": _short(high), "runs": level.num_runs, "seeds": level.num_seeds}
            for level, (low, high) in zip(made.levels, low_high, strict=True)
        ],
        "dots": [
            {"x": _place(trial.values[made.name], made.scale), "y": _short(trial.figure.value), "done": trial.counts,
             "name": f"{trial.run.dir.name}, seed {trial.seed}"}
            for trial in found.trials
            if trial.figure
        ],
    }  # fmt: skip


def _place(value: Value, kind: str) -> float | str:
    return float(value) if kind != "ordinal" and is_number(value) else shown(value)  # type: ignore[arg-type]


def _parallel(found: Analysis) -> dict[str, Any]:
    """Each run as a line over the parameters; every axis has its places in [0, 1] and the labels there."""
    axes = {name: _axis([trial.values[name] for trial in found.trials]) for name in found.names}
    lines = [
        {"at": [axes[name][1][shown(trial.values[name])] for name in found.names], "y": _short(trial.figure.value),
         "name": f"{found.name(trial.values)}, seed {trial.seed}"}
        for trial in found.trials
        if trial.counts and trial.figure
    ]  # fmt: skip
    short = labels(found.names)
    return {"axes": [{"name": short[name], "ticks": axes[name][0]} for name in found.names], "lines": lines}


def _axis(values: list[Value]) -> tuple[list[tuple[float, str]], dict[str, float]]:
    """Ticks, and the place of every value: numbers by their scale, words one above the other."""
    kind, ordered = scale(values), order(values)
    if kind == "ordinal" or len(ordered) <= 2:
        at = [i / max(1, len(ordered) - 1) for i in range(len(ordered))]
    else:
        numbers = [math.log(float(v)) if kind == "log" else float(v) for v in ordered]  # type: ignore[arg-type]
        at = [(number - numbers[0]) / (numbers[-1] - numbers[0]) for number in numbers]
    places = {shown(value): round(place, 4) for value, place in zip(ordered, at, strict=True)}
    chosen = ordered if len(ordered) <= 8 else [ordered[round(i * (len(ordered) - 1) / 4)] for i in range(5)]
    return [(places[shown(value)], _tick(value)) for value in chosen], places


def _tick(value: Value) -> str:
    return f"{value:.2g}" if isinstance(value, float) else shown(value)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
