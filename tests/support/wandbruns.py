"""A W&B user's environment, commands of the real client, and comparison of a W&B run with its record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import SMALL
from fakewandb import Server
from fakewandb_state import Json

from r1.core import jsonl
from r1.core.paths import CONF

KEY = "local" + "0123456789abcdef0" * 2 + "f"  # an API key as W&B's look
Rows = list[dict[str, Any]]
TINY = [  # a run of r1.run in seconds
    *(option for option in SMALL if not option.startswith("trainer.max_steps=")),
    *("stage.group_size=4", "stage.micro_batch_size=4", "trainer.max_steps=2", "threads=1"),
]


def environment(server: Server, home: Path) -> dict[str, str]:
    """The environment variables of a user of this server."""
    folders = {f"WANDB_{kind}_DIR": str(home / kind) for kind in ("CACHE", "CONFIG", "DATA")}
    settings = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false"}
    return settings | folders | {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "0.2"}


def shell(env: dict[str, str], cwd: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A command typed by a user."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    rest |= {"PYTHONPATH": str(CONF.parent), "OMP_NUM_THREADS": "1"}
    rest["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(command, cwd=cwd, env=rest | env | more, capture_output=True, text=True, timeout=500)


def only(service: Server) -> Json:
    """The only run of the server."""
    (run,) = service.state.runs.values()
    return run


def history(run: Json) -> Rows:
    """The rows of a run as in metrics.jsonl: without W&B's own columns and timing."""
    rows = [json.loads(row) for row in run["history"]]
    steps = [row["_step"] for row in rows]
    assert steps == list(range(len(rows))), steps
    return [{k: v for k, v in row.items() if k[0] != "_" and not k.startswith("time/")} for row in rows]


def metrics(folder: Path) -> Rows:
    return jsonl.read_rows(folder / "metrics.jsonl")


def check(service: Server, run: Json, folder: Path) -> None:
    """W&B has each row of the record once, and the completions of each validation."""
    rows = history(run)
    tables = {row["step"]: row.pop("completions") for row in rows if "completions" in row}
    assert rows == metrics(folder)
    samples = [row for row in jsonl.read_rows(folder / "samples.jsonl") if row["split"] == "val"]
    assert tables.keys() == {row["step"] for row in samples}
    for step, table in tables.items():
        stored = json.loads(service.state.files[f"local/{run['project']}/{run['name']}/{table['path']}"])
        column = stored["columns"].index("completion")
        assert [row[column] for row in stored["data"]] == [row["completion"] for row in samples if row["step"] == step]
