"""python -m r1.logger.wandb_run.worker: the process between a run and W&B. It reads the record and sends it.

Its orders come on stdin, a line of JSON each: first a ``WandbJob``, at the end ``{exit_code, error}``. If stdin ends
before that, the run was killed. Messages to the run go to stdout, a line each. It exits with 0 when W&B, or its folder
on this machine, has everything.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from r1.core.secrets import redact

NOTE, WARNING, ERROR = "note:", "warning:", "trouble:"
FOR_THE_RUN = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)  # sent to every process
POLL_S = 1.0
KILLED = {"exit_code": 1, "error": "the run was killed"}


@dataclass(frozen=True)
class WandbJob:
    """What a courier is to do.

    Attributes:
        folder: the record.
        config: dotted leaves, without secrets.
        run_id: None: the one that the record has, or a new one.
        start_timeout: seconds that W&B has to answer at the start.
        finish_timeout: seconds that it has to take the rest at the end.
        log_model: whether the model goes up as an artifact.
        trouble: what became of the courier before.
    """

    folder: str
    config: dict[str, Any]
    project: str
    entity: str | None
    group: str | None
    name: str | None
    tags: list[str]
    mode: str
    log_model: bool
    run_id: str | None
    start_timeout: float
    finish_timeout: float
    trouble: str = ""


def main() -> None:
    keep_stdout()
    for number in FOR_THE_RUN:
        signal.signal(number, signal.SIG_IGN)  # it says when it ends
    order = WandbJob(**json.loads(sys.stdin.readline()))
    try:
        run(order)
    except Exception as error:  # whatever it is: it must not be the run's
        send(ERROR, f"{type(error).__name__}: {error}")
        os._exit(1)  # W&B would wait for its own process here


def run(order: WandbJob) -> None:
    from r1.logger.wandb_run.session import Session

    with run_id_lock(Path(order.folder), order.run_id) as run_id:
        session = Session(order, run_id)
        session.send()
        if order.trouble:
            send(WARNING, f"the run goes on without it; {session.sync_hint} ({order.trouble})")
        else:
            send(NOTE, session.place)
        for what in session.refused:
            send(NOTE, what)
        for ending in wait_for_end(order.finish_timeout):
            session.send()
            if ending:
                session.finish(**ending)
                return


def wait_for_end(finish_timeout: float) -> Iterator[dict[str, Any] | None]:
    """None every now and then, and at last how the run has ended; from then on this process has ``finish_timeout``."""
    lines: Queue[dict[str, Any]] = Queue()

    def listen() -> None:
        lines.put(json.loads(sys.stdin.readline() or json.dumps(KILLED)))
        time.sleep(finish_timeout)  # whatever W&B waits for: its own limits do not hold everywhere
        send(ERROR, f"it has not taken everything within {finish_timeout:g} s of the run's end")
        os._exit(1)

    Thread(target=listen, daemon=True).start()
    while True:
        try:
            yield lines.get(timeout=POLL_S)
        except Empty:
            yield None


@contextmanager
def run_id_lock(folder: Path, given: str | None) -> Iterator[str]:
    """The id of the record's W&B run, kept in ``wandb_id``; no other courier of this record is at work meanwhile."""
    from wandb.sdk.lib.runid import generate_id

    with (folder / "wandb_id").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        held = file.read()
        run_id = given or held or generate_id()
        if run_id != held:
            file.truncate(0)
            file.write(run_id)
            file.flush()
        yield run_id


def keep_stdout() -> None:
    """What W&B's own process inherits must not be what the run reads from, which would not end with this process."""
    sys.stdout = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def send(kind: str, text: str) -> None:
    with suppress(OSError):  # the run is gone
        print(kind, " ".join(redact(text).split()), flush=True)


if __name__ == "__main__":
    main()
