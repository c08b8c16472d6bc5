"""From paths to what the page shows: runs, the pipelines they are steps of, and the runs they start from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1.core.errors import DATA, UserError
from r1.core.runs import RunRecord, read_run

Figures = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Node:
    """One box of the lineage graph: a run or a pipeline's step."""

    name: str
    status: str
    needs: list[str]  # names of other nodes
    figures: Figures
    wall_s: float | None = None


@dataclass
class CollectedRuns:
    """Everything that was found.

    Attributes:
        runs: the runs, each once.
        names: what a pipeline calls its runs, by their folder.
        nodes: the lineage graph, every node behind those it needs.
        unreadable: one line for every record that cannot be read.
        folder: the one folder that holds all of the runs.
    """

    title: str
    runs: list[RunRecord] = field(default_factory=list)
    names: dict[Path, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    folder: Path | None = None


def gather(paths: Sequence[str]) -> CollectedRuns:
    """Read every record under ``paths``.

    Raises:
        UserError: a path is not there or holds no run, or none of the runs can be read.
    """
    found = CollectedRuns(_short(Path(paths[0]).absolute()) if len(paths) == 1 else f"{len(paths)} runs")
    found.folder = Path(paths[0]).absolute() if len(paths) == 1 else None
    for path in paths:
        records = list(_records(path))
        pipelines = sum("steps" in _json(folder / "manifest.json") for folder in records)
        add = _add_run if pipelines > 1 else _add  # a sweep over pipelines: each is one run, with its result
        for folder in records:
            try:
                add(found, folder)
            except UserError as error:
                found.unreadable.append(f"{folder}: {error.message}")
    if not found.runs and not found.nodes:
        raise UserError("no run here can be read", key="RUN", value=found.unreadable[0], code=DATA)
    found.nodes = found.nodes or lineage(found.runs)
    return found


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
            inner.clear()  # what lies inside a record belongs to it
            yield Path(folder)
            count += 1
        inner.sort()
    if not count:
        hint = "give a run's folder, or one that holds runs"
        raise UserError("there is no run here: no manifest.json", key="RUN", value=path, hint=hint, code=DATA)


def _add(found: CollectedRuns, folder: Path) -> None:
    manifest = _json(folder / "manifest.json")
    if "steps" not in manifest:
        _add_run(found, folder)
        return
    nodes, records = pipeline(manifest)
    found.nodes += nodes
    for name, record in records.items():
        if (record / "manifest.json").is_file():
            _add_run(found, record)
            found.names[record] = name


def _add_run(found: CollectedRuns, folder: Path) -> None:
    if any(run.dir == folder for run in found.runs):
        return
    if not isinstance(_json(folder / "manifest.json").get("metrics"), dict):
        raise UserError("its manifest.json is not a run's")
    try:
        found.runs.append(read_run(str(folder)))
    except (OSError, ValueError, AssertionError) as error:
        raise UserError(f"the record is damaged: {type(error).__name__}") from None


def pipeline(manifest: dict[str, Any]) -> tuple[list[Node], dict[str, Path]]:
    """The steps of a pipeline's record as nodes, and where the run of each lies. The only reader of its keys."""
    nodes, records = {}, {}
    for step in manifest["steps"]:
        name = step["name"] if step["seed"] is None else f"{step['name']}[{step['seed']}]"
        figures = (step["metrics"] or {}).get("final", {})
        nodes[name] = Node(name, step["status"], step["needs"], figures, step["wall_s"] or None)
        records[name] = Path(step["path"])
    return ordered(nodes), records


def lineage(runs: Sequence[RunRecord]) -> list[Node]:
    """Runs and the runs they start from, as far back as there are manifests; none if no run has a parent."""
    nodes: dict[str, Node] = {}
    waiting = [(str(run.dir), run.manifest) for run in runs if run.manifest.get("parents")]
    while waiting:
        path, manifest = waiting.pop()
        if path in nodes:
            continue
        needs = [str(parent["path"]) for parent in manifest.get("parents", [])]
        final = (manifest.get("metrics") or {}).get("final", {})
        nodes[path] = Node(path, manifest.get("status", "not here any more"), needs, final, manifest.get("wall_s"))
        waiting += [(need, _json(Path(need) / "manifest.json")) for need in needs]
    short = {path: _short(Path(path)) for path in nodes}
    return [
        Node(short[n.name], n.status, [short[need] for need in n.needs], n.figures, n.wall_s) for n in ordered(nodes)
    ]


def ordered(nodes: dict[str, Node]) -> list[Node]:
    """Every node behind those it needs; what needs itself through others comes last, as it was."""
    done: dict[str, Node] = {}
    while ready := [n for name, n in nodes.items() if name not in done and all(x in done for x in n.needs)]:
        done |= {node.name: node for node in ready}
    return [*done.values(), *(node for name, node in nodes.items() if name not in done)]


def _short(path: Path) -> str:
    return "/".join(path.parts[-2:])


def _json(file: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is none that can be read."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}
