"""The screen of a dry run: for each step whether its record exists, and if not, how it differs from the nearest one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from r1.core import provenance
from r1.core.console import console, status_line
from r1.core.errors import UserError, as_yaml_null, format_value
from r1.core.runs import RunRecord, read_run
from r1.core.secrets import redact
from r1.experiment.pipeline.node import PipelineNode, PipelinePlan

MAX_REASONS = 6  # differences shown per step


def print_plan(plan: PipelinePlan) -> None:
    """One line for each run, and below it the reasons why it is not cached."""
    done = sum(node.done for node in plan.nodes)
    console.print(status_line(f"dry run: {len(plan.nodes)} runs, {done} of them cached; nothing was written"))
    width = max(len(str(node)) for node in plan.nodes)
    for node in plan.nodes:
        console.print(status_line(f"{node!s:{width}}  {cache_status(node):13}  {node.folder}"))
        for line in [] if node.done else reasons_to_run(node):
            console.print(status_line(f"{'':{width}}    {line}"))


def cache_status(node: PipelineNode) -> str:
    """``cached``, ``will continue`` (its folder holds an unfinished run) or ``will run``."""
    return "cached" if node.done else "will continue" if node.manifest else "will run"


def reasons_to_run(node: PipelineNode) -> list[str]:
    """Why a node has no finished record: the differences from the most similar record of its step."""
    if damaged := node.damaged:
        return [f"{name} is damaged" for name in damaged]
    if manifest := node.manifest:
        return [f"its record is {manifest['status']}"]
    differences = [config_changes(run, node) for run in _records_of_step(node)]
    if not differences:
        return ["there is no record of this step"]
    lines = min(differences, key=len) or ["its record has another fingerprint"]
    rest = len(lines) - MAX_REASONS
    return lines[:MAX_REASONS] + ([f"and {rest} more differences"] if rest > 0 else [])


def _records_of_step(node: PipelineNode) -> Iterator[RunRecord]:
    for manifest in sorted(node.folder.parent.glob("*/manifest.json")):
        try:
            yield read_run(str(manifest.parent))
        except (UserError, OSError, ValueError):  # a record that another process is writing, or was killed writing
            continue


def config_changes(run: RunRecord, node: PipelineNode) -> list[str]:
    """One line for each difference in config, code and data between a record and a planned run."""
    then = provenance.replace_paths_by_fingerprint(
        provenance.fingerprinted_config(run.config), run.manifest.get("parents", [])
    )
    now = provenance.replace_paths_by_fingerprint(provenance.fingerprinted_config(redact(node.config)), node.parents)
    lines = [_change_line(node, key, *values) for key, *values in provenance.differences(then, now)]
    if run.manifest.get("code") != provenance.code_hash(*node.config["extensions"]):
        lines.append("the code has changed")
    if node.data and run.manifest.get("data") != node.data:
        lines.append("the data have changed")
    return lines


def _change_line(node: PipelineNode, key: str, then: Any, now: Any) -> str:
    for needed in node.needs:
        if isinstance(now, str) and now.startswith(needed.fingerprint):
            return f"{key}: {needed} has changed"
    return f"{key}: {format_value(as_yaml_null(then), key)} -> {format_value(as_yaml_null(now), key)}"
