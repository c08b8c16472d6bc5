"""Collects the runs of a report: the runs under some paths, their pipelines, and their parent runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from r1.core.errors import DATA, UserError
from r1.core.manifest import read_manifest
from r1.core.runs import RunRecord, read_run

FinalMetrics = dict[str, dict[str, float]]


@dataclass(frozen=True)
class LineageNode:
    """One box of the lineage graph: a run or a pipeline's step."""

    name: str
    status: str
    needs: list[str]  # names of other nodes
    metrics: FinalMetrics
    wall_s: float | None = None


@dataclass
class CollectedRuns:
    """The runs of a report and their lineage.

    Attributes:
        runs: without duplicates.
        names: a pipeline's step name of a run, by the run's folder.
        nodes: the lineage graph in topological order.
        unreadable: one line for every record that cannot be read.
        folder: the folder with all of the runs; None: several paths.
    """

    title: str
    runs: list[RunRecord] = field(default_factory=list)
    names: dict[Path, str] = field(default_factory=dict)
    nodes: list[LineageNode] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    folder: Path | None = None


def gather(paths: Sequence[str]) -> CollectedRuns:
    """Read every record under ``paths``.

    Raises:
        UserError: a path does not exist or has no run, or no run can be read.
    """
    collected = CollectedRuns(_last_two_parts(Path(paths[0]).absolute()) if len(paths) == 1 else f"{len(paths)} runs")
    collected.folder = Path(paths[0]).absolute() if len(paths) == 1 else None
    for path in paths:
        records = list(_records(path))
        pipelines = sum("steps" in read_manifest(folder) for folder in records)
        # in a sweep over pipelines each of them counts as one run, with its result
        add = _add_run if pipelines > 1 else _add_record
        for folder in records:
            try:
                add(collected, folder)
            except UserError as error:
                collected.unreadable.append(f"{folder}: {error.message}")
    if not collected.runs and not collected.nodes:
        raise UserError("no run here can be read", key="RUN", value=collected.unreadable[0], code=DATA)
    collected.nodes = collected.nodes or lineage(collected.runs)
    return collected


def _records(path: str) -> Iterator[Path]:
    """The folders with a manifest: the path itself, or all below it; of a sweep, its points and not their steps."""
    top = Path(path).absolute()
    if (top / "sweep.yaml").is_file() and (top / "runs").is_dir():
        top = top / "runs"
    if not top.is_dir():
        raise UserError("there is no such folder", key="RUN", value=path, code=DATA)
    if (top / "manifest.json").is_file():
        yield top
        return
    count = 0
    for folder, inner, files in os.walk(top):
        if "manifest.json" in files:
            inner.clear()  # files inside a record are part of it
            yield Path(folder)
            count += 1
        inner.sort()
    if not count:
        hint = "give a run's folder, or one that holds runs"
        raise UserError("there is no run here: no manifest.json", key="RUN", value=path, hint=hint, code=DATA)


def _add_record(collected: CollectedRuns, folder: Path) -> None:
    manifest = read_manifest(folder)
    if "steps" not in manifest:
        _add_run(collected, folder)
        return
    nodes, records = pipeline_steps(manifest)
    collected.nodes += nodes
    for name, record in records.items():
        if (record / "manifest.json").is_file():
            _add_run(collected, record)
            collected.names[record] = name


def _add_run(collected: CollectedRuns, folder: Path) -> None:
    if any(run.dir == folder for run in collected.runs):
        return
    collected.runs.append(read_run(str(folder)))


def pipeline_steps(manifest: dict[str, Any]) -> tuple[list[LineageNode], dict[str, Path]]:
    """The steps of a pipeline's record as nodes, and the folder of each step's run. The only reader of its keys."""
    steps = {s["name"] if s["seed"] is None else f"{s['name']}[{s['seed']}]": s for s in manifest["steps"]}
    nodes = {}
    for name, step in steps.items():
        needs = [need for need in step["needs"] if need in steps]
        metrics = (step["metrics"] or {}).get("final", {})
        nodes[name] = LineageNode(name, step["status"], needs, metrics, step["wall_s"] or None)
    return topological_order(nodes), {name: Path(step["path"]) for name, step in steps.items()}


def lineage(runs: Sequence[RunRecord]) -> list[LineageNode]:
    """Runs and their ancestors, as far back as there are manifests; empty if no run has a parent."""
    nodes: dict[str, LineageNode] = {}
    queue = [(str(run.dir), run.manifest) for run in runs if run.manifest.get("parents")]
    while queue:
        path, manifest = queue.pop()
        if path in nodes:
            continue
        needs = [str(parent["path"]) for parent in manifest.get("parents") or []]
        final = (manifest.get("metrics") or {}).get("final", {})
        status = manifest.get("status", "not here any more")
        nodes[path] = LineageNode(path, status, needs, final, manifest.get("wall_s"))
        queue += [(need, read_manifest(Path(need))) for need in needs]
    short = {path: _last_two_parts(Path(path)) for path in nodes}
    return [
        replace(node, name=short[node.name], needs=[short[need] for need in node.needs])
        for node in topological_order(nodes)
    ]


def topological_order(nodes: dict[str, LineageNode]) -> list[LineageNode]:
    """Every node after the nodes it needs; nodes of a cycle come last, in their order."""
    done: dict[str, LineageNode] = {}
    while ready := [n for name, n in nodes.items() if name not in done and all(x in done for x in n.needs)]:
        done |= {node.name: node for node in ready}
    return [*done.values(), *(node for name, node in nodes.items() if name not in done)]


def _last_two_parts(path: Path) -> str:
    return "/".join(path.parts[-2:])
