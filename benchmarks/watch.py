"""A real ``python -m r1.run``, watched from outside: when each of its optimizer steps was seen to end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

POLL_S = 0.002
TAIL = 2000  # characters shown of a run that failed


def environment(threads: int) -> dict[str, str]:
    """For a run whose config names code of this folder."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path}


def watched(
    argv: list[str], folder: Path, threads: int, note: Callable[[], int] = lambda: 0
) -> list[tuple[float, int]]:
    """The run's optimizer steps: seconds on one clock, and what ``note()`` said then.

    Args:
        argv: overrides; among them ``output_dir=FOLDER``.

    Raises:
        SystemExit: the run failed; with the end of what it printed.
    """
    log = folder.with_name(f"{folder.name}.log")
    with log.open("w") as out:
        run = subprocess.Popen(
            [sys.executable, "-m", "r1.run", *argv], env=environment(threads), stdout=out, stderr=out
        )
        seen: list[tuple[float, int]] = []
        while run.poll() is None:
            time.sleep(POLL_S)
            while len(seen) < num_steps(folder / "metrics.jsonl"):
                seen.append((time.monotonic(), note()))
    if run.returncode:
        sys.exit(log.read_text()[-TAIL:])
    return seen


def num_steps(file: Path) -> int:
    return file.read_bytes().count(b'"train/loss"') if file.is_file() else 0
