"""What a user of W&B has set, the real client's commands, and what a W&B server holds in the record's terms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import SMALL
from fakewandb import Server
from fakewandb_state import Held

from r1.core import jsonl
from r1.core.paths import CONF

KEY = "local" + "0123456789abcdef0" * 2 + "f"  # an API key as W&B's look
Rows = list[dict[str, Any]]
TINY = [  # a run of r1.run in seconds
    *(option for option in SMALL if not option.startswith("trainer.max_steps=")),
    *("stage.group_size=4", "stage.micro_batch_size=4", "trainer.max_steps=2", "threads=1"),
]


def environment(server: Server, home: Path) -> dict[str, str]:
    """What a user of this server has set."""
    folders = {f"WANDB_{kind}_DIR": str(home / kind) for kind in ("CACHE", "CONFIG", "DATA")}
    known = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false"}
    return known | folders | {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "0.2"}


def shell(env: dict[str, str], cwd: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A command of a user's."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    rest |= {"PYTHONPATH": str(CONF.parent), "OMP_NUM_THREADS": "1"}
    rest["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(command, cwd=cwd, env=rest | env | more, capture_output=True, text=True, timeout=500)


def only(service: Server) -> Held:
    """The one run that the server has."""
    (run,) = service.state.runs.values()
    return run


def history(run: Held) -> Rows:
    """A run's rows in metrics.jsonl's terms: without W&B's own columns, timing and tables."""
    rows = [json.loads(row) for row in run["history"]]
    steps = [row["_step"] for row in rows]
    assert steps == list(range(len(rows))), steps
    return [{k: v for k, v in row.items() if k[0] != "_" and not k.startswith("time/")} for row in rows]


def metrics(folder: Path) -> Rows:
    return jsonl.read_rows(folder / "metrics.jsonl")


def check(service: Server, run: Held, folder: Path) -> None:
    """W&B has each row of the record once, and the completions of each validation."""
    rows = history(run)
    tables = {row["step"]: row.pop("completions") for row in rows if "completions" in row}
    assert rows == metrics(folder)
    samples = [row for row in jsonl.read_rows(folder / "samples.jsonl") if row["split"] == "val"]
    assert tables.keys() == {row["step"] for row in samples}
    for step, table in tables.items():
        held = json.loads(service.state.files[f"local/{run['project']}/{run['name']}/{table['path']}"])
        column = held["columns"].index("completion")
        assert [row[column] for row in held["data"]] == [row["completion"] for row in samples if row["step"] == step]
