"""A sweep whose runs are stand-ins (fakerun.py): its file, its command, and what its study holds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import yaml

from r1.experiment.sweep import storage
from r1.experiment.sweep.file import Sweep, read_sweep
from r1.experiment.sweep.study import Study

LOCKS: list[TextIO] = []  # the locks of the points that a test has taken
HERE = Path(__file__).parent
FAKE = [sys.executable, "-S", str(HERE / "fakerun.py")]
COMMAND = ["${env}", "${interpreter}", "-m", "r1.run", "${args_no_hyphens}"]
SWEEP: dict[str, Any] = {
    "name": "tried",
    "method": "grid",
    "metric": {"name": "val/pass@1", "goal": "maximize"},
    "parameters": {"x": {"values": [1, 2, 3]}},
    "command": COMMAND,
}
DRIVER = f"import r1.distributed.process; r1.distributed.process.RUN = {FAKE}; "
DRIVER += "from r1.experiment.sweep import runner; runner.READ_RECORDS_S = 0.05; "
DRIVER += "from r1.sweep import main; main()"


def write(folder: Path, **keys: Any) -> Path:
    file = folder / "tried.yaml"
    file.write_text(yaml.safe_dump(SWEEP | keys, sort_keys=False))
    return file


def sweep(folder: Path, **keys: Any) -> Sweep:
    return read_sweep(str(write(folder, **keys)))


def study(folder: Path, count: int | None = None, retry: bool = False, place: str | None = None, **keys: Any) -> Study:
    """The study of a sweep with these keys; nothing is run."""
    home = folder / "outputs" / "sweeps" / "tried"
    return Study(sweep(folder, **keys), home, storage.storage_url(home, place), count, retry)


def start(folder: Path, *argv: str, **keys: Any) -> subprocess.Popen[str]:
    """``python -m r1.sweep`` as a process of its own, in ``folder``."""
    write(folder, **keys)
    env = os.environ | {"PYTHONPATH": str(HERE.parents[2]), "COLUMNS": "200"}
    command = [sys.executable, "-c", DRIVER, "tried.yaml", "--storage", "tried.log", *argv]
    return subprocess.Popen(
        command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def starts(folder: Path) -> list[str]:
    """The points whose runs were started, in order; ``+`` behind one that went on with what it found."""
    file = folder / "starts"
    return file.read_text().split() if file.is_file() else []


def wait_until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
