"""What a plan says of each step: whether its record is there, and if not, what differs from the nearest one that is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from r1.core import provenance
from r1.core.console import console, status_line
from r1.core.errors import UserError, as_yaml_null, format_value
from r1.core.runs import RunRecord, read_run
from r1.core.secrets import redact
from r1.experiment.pipeline.node import PipelineNode, PipelinePlan

MAX_REASONS = 6  # differences shown


def print_plan(plan: PipelinePlan) -> None:
    """The plan, one line for each run, and below it why it is not there already."""
    done = sum(node.done for node in plan.nodes)
    console.print(status_line(f"dry run: {len(plan.nodes)} runs, {done} of them cached; nothing was written"))
    width = max(len(str(node)) for node in plan.nodes)
    for node in plan.nodes:
        console.print(status_line(f"{node!s:{width}}  {cache_status(node):13}  {node.folder}"))
        for line in [] if node.done else reasons_to_run(node):
            console.print(status_line(f"{'':{width}}    {line}"))


def cache_status(node: PipelineNode) -> str:
    """``cached``, ``will continue`` (its folder holds a run that has not finished) or ``will run``."""
    return "cached" if node.done else "will continue" if node.manifest else "will run"


def reasons_to_run(node: PipelineNode) -> list[str]:
    """Why there is no finished record of a node: what differs from the record of its step that is nearest to it."""
    if held := node.manifest:
        return [f"its record is {held['status']}"]
    earlier = [config_changes(run, node) for run in _records(node)]
    if not earlier:
        return ["there is no record of this step"]
    lines = min(earlier, key=len) or ["its record has another fingerprint"]
    rest = len(lines) - MAX_REASONS
    return lines[:MAX_REASONS] + ([f"and {rest} more differences"] if rest > 0 else [])


def _records(node: PipelineNode) -> Iterator[RunRecord]:
    for manifest in sorted(node.folder.parent.glob("*/manifest.json")):
        try:
            yield read_run(str(manifest.parent))
        except (UserError, OSError, ValueError):  # killed while it was being made
            continue


def config_changes(run: RunRecord, node: PipelineNode) -> list[str]:
    """One line for each thing that keeps ``run`` from being the run that ``node`` asks for."""
    then = provenance.replace_paths_by_fingerprint(provenance.fingerprinted_config(run.config), run.manifest["parents"])
    now = provenance.replace_paths_by_fingerprint(provenance.fingerprinted_config(redact(node.config)), node.parents)
    lines = [_line(node, key, *values) for key, *values in provenance.differences(then, now)]
    if run.manifest["code"] != provenance.code_hash(*node.config["extensions"]):
        lines.append("the code has changed")
    if node.data and run.manifest["data"] != node.data:
        lines.append("the data have changed")
    return lines


def _line(node: PipelineNode, key: str, then: Any, now: Any) -> str:
    for needed in node.needs:
        if isinstance(now, str) and now.startswith(needed.fingerprint):
            return f"{key}: {needed} is not the run that it was"
    return f"{key}: {format_value(as_yaml_null(then), key)} -> {format_value(as_yaml_null(now), key)}"
