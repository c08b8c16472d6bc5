"""The curves of the page: mean and range over seeds of the rows of metrics.jsonl, at most so many points."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from r1.core.metrics import SHARE, display_order, meaning, metric_named
from r1.core.runs import RunRecord
from r1.experiment.report.variants import SeedGroup

MAX_POINTS, MIN_POINTS = 300, 20  # of one curve
Series = dict[str, Any]


def charts(variants: Sequence[SeedGroup], budget: int) -> list[dict[str, Any]]:
    """Every metric as ``{name, meaning, main, share, series: [{v, x, y, lo, hi, ci}]}``; ``v`` is the variant's index.

    Args:
        budget: approximate number of points over all curves of the page.
    """
    rows = [by_metric(variant.runs) for variant in variants]
    names = sorted({name for metrics in rows for name in metrics if not name.endswith("_weighted")}, key=_main_first)
    points = min(MAX_POINTS, max(MIN_POINTS, budget // max(1, len(names) * len(variants))))
    return [
        {
            "name": name,
            "meaning": meaning(name),
            "main": metric_named(name).main_chart,
            "share": metric_named(name).axis == SHARE,
            "smooth": not name.startswith("val/"),
            "series": [
                {"v": v, **series(metrics[name], points)} | {"ci": _intervals(variants[v], name)}
                for v, metrics in enumerate(rows)
                if name in metrics
            ],
        }
        for name in names
    ]


def stacks(variants: Sequence[SeedGroup], budget: int) -> list[dict[str, Any]]:
    """The weighted reward terms of each variant: ``{v, terms: {name: {x, y}}}``."""
    charts = []
    for v, variant in enumerate(variants):
        metrics = by_metric(variant.runs)
        terms = [name for name in metrics if name.startswith("reward/") and name.endswith("_weighted")]
        points = min(MAX_POINTS, max(MIN_POINTS, budget // max(1, len(terms) * len(variants))))
        if terms:
            parts = {name[len("reward/") : -len("_weighted")]: series(metrics[name], points) for name in terms}
            charts.append({"v": v, "terms": {term: {"x": s["x"], "y": s["y"]} for term, s in parts.items()}})
    return charts


def by_metric(runs: Sequence[RunRecord]) -> dict[str, dict[int, list[float]]]:
    """metric -> step -> the values of the runs that logged it there; values that are not finite are left out."""
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for row in run.metrics:
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                    values[name][int(row.get("step") or 0)].append(float(value))
    return values


def series(values: dict[int, list[float]], points: int) -> Series:
    """Mean and range over seeds at each step; with more than ``points`` steps, neighbouring steps are averaged."""
    steps = sorted(values)
    size = math.ceil(len(steps) / points)
    bins = [steps[i : i + size] for i in range(0, len(steps), size)]
    means = {step: statistics.fmean(values[step]) for step in steps}
    curve: Series = {
        "x": [_round(statistics.fmean(b)) for b in bins],
        "y": [_round(statistics.fmean(means[step] for step in b)) for b in bins],
    }
    if max(map(len, values.values())) > 1:
        curve["lo"] = [_round(min(min(values[step]) for step in b)) for b in bins]
        curve["hi"] = [_round(max(max(values[step]) for step in b)) for b in bins]
    return curve


def _intervals(variant: SeedGroup, name: str) -> list[tuple[float, float, float]]:
    """(step, low, high) of a single run's first and last validation."""
    if len(variant.runs) > 1:
        return []
    steps = [int(row["step"]) for row in variant.runs[0].metrics if name in row]
    ends = [(steps[0], variant.start.get(name)), (steps[-1], variant.final.get(name))] if steps else []
    return [(step, _round(e.low), _round(e.high)) for step, e in ends if e and e.low is not None and e.high is not None]


def _round(value: float) -> float:
    return float(f"{value:.4g}") if abs(value) < 1e4 else round(value, 1)


def _main_first(name: str) -> tuple[bool, int, str]:
    return not metric_named(name).main_chart, *display_order(name)
