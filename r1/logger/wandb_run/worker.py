"""python -m r1.logger.wandb_run.worker: reads a run's record and sends it to W&B.

A process of its own, because W&B may hang or break and must not stop the run. It reads a ``WandbJob`` and later a
``RunEnd`` on stdin (see job.py); a stdin that ends before means that the run was killed. It exits with 0 when W&B, or
its folder on this machine, has everything.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import string
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

from r1.core.secrets import redact
from r1.logger.wandb_run.job import ERROR, INFO, KILLED, WARNING, RunEnd, WandbJob

IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
POLL_S = 1.0
ID_CHARS = string.ascii_lowercase + string.digits


def main() -> None:
    keep_stdout()
    for number in IGNORED_SIGNALS:  # schedulers signal every process of a job; the run sends its end itself
        signal.signal(number, signal.SIG_IGN)
    job = WandbJob(**json.loads(sys.stdin.readline()))
    try:
        run(job)
    except Exception as error:  # W&B raises many kinds; none may reach the run
        send(ERROR, f"{type(error).__name__}: {error}")
        os._exit(1)  # a normal exit would wait for W&B's own process, which may hang


def run(job: WandbJob) -> None:
    from r1.logger.wandb_run.session import Session

    with run_id_lock(Path(job.folder), job.run_id) as run_id:
        session = Session(job, run_id)
        session.send_new_rows()
        if job.previous_error:
            send(WARNING, f"the run continues offline; {session.sync_hint} ({job.previous_error})")
        else:
            send(INFO, session.location)
        for message in session.artifact_errors:
            send(INFO, message)
        for run_end in wait_for_end(job.finish_timeout):
            session.send_new_rows()
            if run_end:
                session.finish(run_end)
                return


def wait_for_end(finish_timeout: float) -> Iterator[RunEnd | None]:
    """Yield None once per ``POLL_S``, and the ``RunEnd`` last. Then this process has ``finish_timeout`` s to exit."""
    messages: Queue[RunEnd] = Queue()

    def read_run_end() -> None:
        line = sys.stdin.readline()
        messages.put(RunEnd(**json.loads(line)) if line else KILLED)
        time.sleep(finish_timeout)  # W&B's own timeouts do not cover every request
        send(ERROR, f"W&B has not received everything within {finish_timeout:g} s after the end of the run")
        os._exit(1)

    Thread(target=read_run_end, daemon=True).start()
    while True:
        try:
            yield messages.get(timeout=POLL_S)
        except Empty:
            yield None


@contextmanager
def run_id_lock(folder: Path, requested_id: str | None) -> Iterator[str]:
    """The W&B run id, stored in the record's ``wandb_id``; excludes other worker processes of the same record."""
    with (folder / "wandb_id").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        stored_id = file.read()
        run_id = requested_id or stored_id or "".join(secrets.choice(ID_CHARS) for _ in range(8))
        if run_id != stored_id:
            file.truncate(0)
            file.write(run_id)
            file.flush()
        yield run_id


def keep_stdout() -> None:
    """Keep the pipe to the run out of W&B's own process, which would hold it open after this process has ended."""
    sys.stdout = os.fdopen(os.dup(1), "w")
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)


def send(kind: str, text: str) -> None:
    with suppress(OSError):  # the run was killed
        print(kind, " ".join(redact(text).split()), flush=True)


if __name__ == "__main__":
    main()
