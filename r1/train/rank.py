"""python -m r1.train.rank: one rank of a run on several devices. The launcher sends the config on stdin."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

from r1.core.types import Config


def main() -> int:
    """Run the task on stdin; returns the exit code."""
    from r1.core.errors import STOP_SIGNALS
    from r1.core.screens import keep_screens

    keep_screens()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm sends it to every process; only the launcher handles it
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until r1.train.fit installs its handlers
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # children of a sweep inherit a mask that blocks some
    return exit_code_of(json.loads(sys.stdin.buffer.read()))


def exit_code_of(task: dict[str, Any]) -> int:
    """Run a task and return its exit code. Errors are not printed here: the launcher reads them from the store."""
    from r1.core.errors import Interrupted, UserError
    from r1.core.storage import storage_errors

    try:
        with storage_errors():
            run(**task)
    except UserError as error:
        return error.code
    except Interrupted as stop:
        return stop.code
    return 0


def run(config: Config, overrides: list[str], command: str, folder: str) -> None:
    """``r1.train.fit.fit`` on this rank."""
    from r1.config.build import build
    from r1.core.rank_info import RankInfo, rank_info_from_env
    from r1.train import fit

    fit.silence_third_party_logging()
    fit.fit(config, build(config), overrides, command, rank_info_from_env() or RankInfo(), Path(folder))


if __name__ == "__main__":
    sys.exit(main())
