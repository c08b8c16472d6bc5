"""What a sweep comes to: its points, the compute of each, and how long all of them will take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Column, Table

from r1.core import budget
from r1.core.console import console, format_duration, status_line
from r1.experiment.sweep.compose import Part, Point, label
from r1.experiment.sweep.cost import SECONDS, TOKENS, Cost, cost, recorded_times
from r1.experiment.sweep.file import Sweep
from r1.experiment.sweep.points import SEED, number, size

RECORDS = Path("outputs")
MAX_ROWS = 16
Costs = dict[str, Cost]  # of the runs that were looked at, by their fingerprint


def show(sweep: Sweep, points: list[Point], workers: int) -> None:
    """Print it."""
    known = recorded_times(RECORDS)
    costs = {part.fingerprint: cost(part.config, known) for part in _parts(points)}
    console.print(status_line(_headline(sweep)))
    console.print(status_line(f"{_counted(sweep)}, budget={_budgets(points)}; {_checked(sweep, points)}"))
    console.print(_table(points, costs))
    for line in (_total(sweep, points, costs, workers), *_notes(sweep)):
        console.print(status_line(line))


def _parts(points: Sequence[Point]) -> list[Part]:
    return [part for point in points for part in point.parts]


def _headline(sweep: Sweep) -> str:
    stopped = ", hyperband stops runs early" if sweep.early_terminate else ""
    return f"{sweep.name}: {sweep.method} over {', '.join(sweep.parameters)}; {sweep.goal} {sweep.metric}{stopped}"


def _budgets(points: Sequence[Point]) -> str:
    return ", ".join(dict.fromkeys(str(part.config["budget"]) for part in _parts(points)))


def _counted(sweep: Sweep) -> str:
    if sweep.method != "grid":
        return _plural(sweep.run_cap, "point") if sweep.run_cap else "points without end"
    points, settings = size(sweep, seeds=True), size(sweep, seeds=False)
    seeds = f" = {_plural(settings, 'setting')} x {points // settings} seeds" if points > settings else ""
    return f"{_plural(points, 'point')}{seeds}"


def _checked(sweep: Sweep, points: Sequence[Point]) -> str:
    if sweep.method != "grid":
        return f"{_plural(len(points), 'point')} checked, at the ends of each range"
    if len(points) == size(sweep, seeds=False):
        return f"{'each' if len(points) > 1 else 'it'} checked"
    return f"{len(points)} of the settings checked"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"


def _table(points: Sequence[Point], costs: Costs) -> Table:
    """The runs, those alike in compute and time in one row."""
    names = ("point", "completions per step", "in total", "steps", "time")
    table = Table(*(Column(name, justify="left" if name == "point" else "right") for name in names), box=SIMPLE_HEAD)
    rows = dict[tuple[str, tuple[str, ...]], list[Point]]()
    for point in points:
        for part in point.parts:
            row = (*_compute(part), _seconds(costs[part.fingerprint]))
            rows.setdefault((part.step, row), []).append(point)
    for (step, held), alike in list(rows.items())[:MAX_ROWS]:
        table.add_row(*map(escape, (f"{step} {_what(alike, points)}".strip() or "every point", *held)))
    return table


def _compute(part: Part) -> tuple[str, str, str]:
    """Per step and in total, of a stage that samples groups of completions."""
    made = budget.compute_budget(part.config)
    if made is None:
        return "", "", ""
    per_step = f"{made.prompts_per_step} x {made.group_size} = {made.sequences_per_step}"
    return per_step, f"{made.sequences:,}" if made.tokens is None else f"{made.tokens:,} tokens", f"{made.steps:,}"


def _what(alike: Sequence[Point], points: Sequence[Point]) -> str:
    """What some points have in common and others do not."""
    first = {name: value for name, value in alike[0].values.items() if name != SEED}
    same = {name: value for name, value in first.items() if all(point.values[name] == value for point in alike)}
    return label({n: v for n, v in same.items() if any(point.values[n] != v for point in points)})


def _seconds(one: Cost) -> str:
    return "unknown" if one.seconds is None else ("" if one.records else "~") + format_duration(one.seconds)


def _total(sweep: Sweep, points: Sequence[Point], costs: Costs, workers: int) -> str:
    """All points at the mean of those looked at; a step of a pipeline that is the same in all of them is run once."""
    in_all = set.intersection(*({part.fingerprint for part in point.parts} for point in points))
    shared = in_all if len(points) > 1 else set[str]()
    if any(one.seconds is None for one in costs.values()):
        return "cost: unknown, nothing like it has run under outputs/"
    own = [costs[part.fingerprint].seconds or 0.0 for part in _parts(points) if part.fingerprint not in shared]
    mean, once, count = sum(own) / len(points), sum(costs[name].seconds or 0.0 for name in shared), number(sweep)
    source = "measured: the median of finished runs of the same kind under outputs/"
    if not all(one.records for one in costs.values()):
        source = f"a rough estimate, from {SECONDS:.0f} s for the {TOKENS:,} tokens that the default run may sample"
    if count is None:
        return f"cost: {format_duration(mean)} for each point; {source}"
    alone = once + count * mean
    split = once + -(-count // workers) * mean
    several = f", {format_duration(split)} with {workers} workers" if workers > 1 else ""
    return f"cost: {count} x {format_duration(mean)} = {format_duration(alone)} one after the other{several}; {source}"


def _notes(sweep: Sweep) -> Iterator[str]:
    if number(sweep) is None:
        yield "note: W&B goes on until it is stopped; run_cap: N ends it after N runs, and r1.sweep takes --count N"
    if sweep.method == "grid" and (number(sweep) or 0) < size(sweep, seeds=True):
        yield f"note: run_cap ends this grid after {sweep.run_cap} of its points"
    if groups := [name for name in sweep.parameters if not name.replace(".", "").replace("-", "").isidentifier()]:
        yield f"note: W&B's own schema has no {groups[0]!r}: it warns of a malformed config, and runs it"
