"""The preview of a sweep: its points, the compute of each, and how long all of them will take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Column, Table

from r1.core import budget
from r1.core.console import console, format_duration, status_line
from r1.experiment.sweep.compose import ComposedPoint, PointRun, distinct_values, format_values
from r1.experiment.sweep.cost import REFERENCE_SECONDS, REFERENCE_TOKENS, RunCost, estimate_cost, recorded_times
from r1.experiment.sweep.file import Sweep
from r1.experiment.sweep.points import Values, grid_size, num_points

RECORDS_DIR = Path("outputs")
MAX_ROWS = 16
CostByRun = dict[str, RunCost]  # by the run's fingerprint


def print_preview(sweep: Sweep, points: list[ComposedPoint], workers: int) -> None:
    """Print the preview of a sweep.

    Args:
        points: those that were checked.
        workers: points that run at the same time.
    """
    runs = [run for point in points for run in point.runs]
    measured = recorded_times(RECORDS_DIR)
    costs = {run.fingerprint: estimate_cost(run.config, measured) for run in runs}
    early_stop = ", hyperband stops runs early" if sweep.early_terminate else ""
    searched = f"{sweep.name}: {sweep.method} over {', '.join(sweep.parameters)}"
    console.print(status_line(f"{searched}; {sweep.goal} {sweep.metric}{early_stop}"))
    budgets = ", ".join(dict.fromkeys(str(run.config["budget"]) for run in runs))
    console.print(status_line(f"{_point_count(sweep)}, budget={budgets}; {_checked_count(sweep, len(points))}"))
    console.print(_table(points, costs))
    for line in (_total_cost(sweep, points, costs, workers), *_notes(sweep)):
        console.print(status_line(line))


def _point_count(sweep: Sweep) -> str:
    if sweep.method != "grid":
        return _plural(sweep.run_cap, "point") if sweep.run_cap else "points without end"
    points, settings = grid_size(sweep, seeds=True), grid_size(sweep, seeds=False)
    seeds = f" = {_plural(settings, 'setting')} x {points // settings} seeds" if points > settings else ""
    return f"{_plural(points, 'point')}{seeds}"


def _checked_count(sweep: Sweep, checked: int) -> str:
    if sweep.method != "grid":
        return f"{_plural(checked, 'point')} checked, at the ends of each range"
    if checked == grid_size(sweep, seeds=False):
        return f"{'each' if checked > 1 else 'it'} checked"
    return f"{checked} of the settings checked"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"


def _table(points: Sequence[ComposedPoint], costs: CostByRun) -> Table:
    """The runs of all points; those with equal compute and time share a row."""
    names = ("point", "completions per step", "in total", "steps", "time")
    table = Table(*(Column(name, justify="left" if name == "point" else "right") for name in names), box=SIMPLE_HEAD)
    rows = dict[tuple[str, tuple[str, str, str, str]], list[Values]]()
    for point in points:
        for run in point.runs:
            cells = (*_compute_cells(run), _format_seconds(costs[run.fingerprint]))
            rows.setdefault((run.step, cells), []).append(point.values)
    for (step, cells), values_in_row in list(rows.items())[:MAX_ROWS]:
        values = distinct_values(values_in_row, [point.values for point in points])
        label = f"{step} {format_values(values)}".strip() or "every point"
        table.add_row(*map(escape, (label, *cells)))
    return table


def _compute_cells(run: PointRun) -> tuple[str, str, str]:
    """Completions per step, in total, and steps; empty for a stage that samples no groups."""
    compute = budget.compute_budget(run.config)
    if compute is None:
        return "", "", ""
    if compute.steps is None:
        return f"{compute.sequences_per_step}", "", f"{run.config['trainer']['max_epochs']:g} epochs"
    per_step = f"{compute.prompts_per_step} x {compute.group_size} = {compute.sequences_per_step}"
    total = f"{compute.sequences:,}" if compute.tokens is None else f"{compute.tokens:,} tokens"
    return per_step, total, f"{compute.steps:,}"


def _format_seconds(cost: RunCost) -> str:
    return "unknown" if cost.seconds is None else ("" if cost.records else "~") + format_duration(cost.seconds)


def _total_cost(sweep: Sweep, points: Sequence[ComposedPoint], costs: CostByRun, workers: int) -> str:
    """All points at the mean of the checked ones; a pipeline's step that is the same in all of them runs once."""
    if any(cost.seconds is None for cost in costs.values()):
        return "cost: unknown, nothing like it has run under outputs/"
    in_all = set.intersection(*({run.fingerprint for run in point.runs} for point in points))
    shared = in_all if len(points) > 1 else set[str]()
    seconds = {fingerprint: cost.seconds or 0.0 for fingerprint, cost in costs.items()}
    not_shared = [run.fingerprint for point in points for run in point.runs if run.fingerprint not in shared]
    mean = sum(seconds[fingerprint] for fingerprint in not_shared) / len(points)
    once = sum(seconds[fingerprint] for fingerprint in shared)
    source = "measured: the median of finished runs of the same kind under outputs/"
    if not all(cost.records for cost in costs.values()):
        reference = f"{REFERENCE_SECONDS:.0f} s for the {REFERENCE_TOKENS:,} tokens that the default run may sample"
        source = f"a rough estimate, from {reference}"
    count = num_points(sweep)
    if count is None:
        return f"cost: {format_duration(mean)} for each point; {source}"
    sequential = once + count * mean
    parallel = once + -(-count // workers) * mean
    several = f", {format_duration(parallel)} with {workers} workers" if workers > 1 else ""
    total = f"{count} x {format_duration(mean)} = {format_duration(sequential)} one after the other"
    return f"cost: {total}{several}; {source}"


def _notes(sweep: Sweep) -> Iterator[str]:
    count = num_points(sweep)
    if count is None:
        yield "note: W&B runs until it is stopped; run_cap: N ends it after N runs, and r1.sweep takes --count N"
    if sweep.method == "grid" and (count or 0) < grid_size(sweep, seeds=True):
        yield f"note: run_cap ends this grid after {sweep.run_cap} of its points"
    if groups := [name for name in sweep.parameters if not name.replace(".", "").replace("-", "").isidentifier()]:
        yield f"note: W&B's own schema has no {groups[0]!r}: it warns of a malformed config, and runs it"
