"""What a .wandb file holds: config, history and exit code of its run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

from r1.logger.wandb_run.run_file import records


def wandb_runs(folder: Path) -> list[dict[str, Any]]:
    """Every W&B run below a folder, in order."""
    return [_run(file) for file in sorted(folder.rglob("*.wandb"), key=lambda f: f.stat().st_mtime_ns)]


def _run(file: Path) -> dict[str, Any]:
    run: dict[str, Any] = {"config": {}, "history": [], "exit_code": None}
    for record in map(Record.FromString, records(file.read_bytes())):
        match record.WhichOneof("record_type"):
            case "run" | "config" as kind:
                update = record.run.config.update if kind == "run" else record.config.update
                run["config"] |= {u.key: json.loads(u.value_json) for u in update}
            case "history":
                items = record.history.item
                run["history"].append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items})
            case "exit":
                run["exit_code"] = record.exit.exit_code
    return run
