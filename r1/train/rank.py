"""python -m r1.train.rank: one process of a run on several devices. The launcher starts it and sends the config."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    """The exit code of the task on stdin."""
    from r1.core.errors import STOP_SIGNALS

    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm signals every process; the launcher forwards it
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the run has a handler of its own
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # a sweep blocks some in its children
    return exit_code_of(json.loads(sys.stdin.buffer.read()))


def exit_code_of(task: dict[str, Any]) -> int:
    """Run it; an error is in the rendezvous store by then, and the launcher prints it."""
    from r1.core.errors import Interrupted, UserError

    try:
        run(**task)
    except UserError as error:
        return error.code
    except Interrupted as stop:
        return stop.code
    return 0


def run(config: dict[str, Any], overrides: list[str], command: str, folder: str) -> None:
    from r1.config.build import build
    from r1.core.rank_info import RankInfo, rank_info_from_env
    from r1.train import fit

    fit.silence_third_party_logging()
    fit.fit(config, build(config), overrides, command, rank_info_from_env() or RankInfo(), Path(folder))


if __name__ == "__main__":
    sys.exit(main())
