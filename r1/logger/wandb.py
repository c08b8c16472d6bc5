"""Weights & Biases, at a distance: a process beside the run tells it what the record holds.

Whatever W&B does (does not answer, breaks, fills its disk), it does to that process (r1.logger.wandb_run.worker), never
to the run: the run waits for it at its end only, and not for long.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from threading import Lock, Thread
from typing import Annotated, Any, Literal

from annotated_types import Gt
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger

from r1.core.console import console, status_line
from r1.core.errors import one_line
from r1.core.provenance import flatten
from r1.core.secrets import redact
from r1.logger.base import Closable
from r1.logger.wandb_run import worker as courier
from r1.logger.wandb_run.worker import WandbJob

OFFLINE_S = 20.0  # enough to start W&B again without a network and to write a whole history
OLD_MODES = {"dryrun": "offline", "run": "online"}  # as WANDB_MODE may still have them
CLAIMED: set[str] = set()  # ids that runs of this process have taken from WANDB_RUN_ID


def wandb(
    folder: Path,
    config: dict[str, Any],
    *,
    project: str,
    entity: str | None,
    group: str | None,
    name: str | None,
    tags: list[str],
    mode: Literal["auto", "online", "offline", "disabled"],
    log_model: bool,
    start_timeout: Annotated[float, Gt(0)],
    finish_timeout: Annotated[float, Gt(0)],
) -> Logger:
    """A W&B run whose config is this one, flattened to dotted leaves, and whose history is metrics.jsonl, row for row.

    ``auto`` is what WANDB_MODE says; without it, online with an API key or under a sweep agent, offline otherwise.
    """
    if mode == "auto":
        online = os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_SWEEP_ID")
        asked = os.environ.get("WANDB_MODE") or ("online" if online else "offline")
        mode = OLD_MODES.get(asked, asked)  # type: ignore[assignment]
    if mode == "disabled":
        return DummyLogger()
    where = redact({"project": project, "entity": entity, "group": group, "name": name, "tags": tags})
    times = {"start_timeout": start_timeout, "finish_timeout": finish_timeout}
    run_id = take_run_id_from_env()
    job = WandbJob(str(folder), flatten(config), **where, **times, mode=mode, log_model=log_model, run_id=run_id)  # type: ignore[arg-type]
    return Wandb(job)


def take_run_id_from_env() -> str | None:
    """The run that a sweep agent (or the user) has named, once: a second run of this process is another one."""
    run_id = os.environ.get("WANDB_RUN_ID")
    if run_id is None or run_id in CLAIMED:
        return None
    CLAIMED.add(run_id)
    return run_id


class Wandb(Closable):
    """Keeps a courier at work; one that fails is replaced, once, by one that works offline."""

    def __init__(self, order: WandbJob) -> None:
        super().__init__()
        self.order = order
        self.ending: dict[str, Any] | None = None
        self._courier: subprocess.Popen[str] | None = None
        self._lock = Lock()  # around what both threads do: to name the courier, and to tell it the end
        self._given_up = False
        self._watch = Thread(target=self._keep, daemon=True)
        self._watch.start()

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The courier has the whole config."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """The courier reads them in the record."""

    def close(self, exit_code: int, error: BaseException | None) -> None:
        """Wait until W&B has everything, but no longer than ``finish_timeout`` and what it takes to go offline."""
        with self._lock:
            said = one_line(f"{type(error).__name__}: {error}") if error else None
            self.ending = {"exit_code": exit_code, "error": said}
            self._send_end()
        self._watch.join(self.order.finish_timeout + OFFLINE_S)
        if self._watch.is_alive():
            self._given_up = True
            self._kill()
            self._warn(f"did not come to an end in {self.order.finish_timeout + OFFLINE_S:g} s")

    def _keep(self) -> None:
        """The other thread: one courier, and another one if it fails."""
        trouble = self._send(self.order)
        if trouble and self.order.mode != "offline" and not self._given_up:
            trouble = self._send(replace(self.order, mode="offline", trouble=trouble))
        if trouble and not self._given_up:
            self._warn(trouble)

    def _send(self, order: WandbJob) -> str:
        """One courier from its start to its end: what went wrong, or nothing."""
        try:
            with self._lock:
                self._courier = subprocess.Popen(
                    [sys.executable, "-m", courier.__name__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    start_new_session=True,  # a terminal's ^C is not for it
                )
                self._write(asdict(order))
                self._send_end()
            last = self._relay()
        except OSError as error:
            return str(error)
        code = self._courier.wait()
        self._kill()  # W&B's own process may have outlived it
        for pipe in (self._courier.stdout, self._courier.stdin):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        return last or f"its process ended with {code}" if code else ""

    def _relay(self) -> str:
        """Say what the courier has to say; the last thing that W&B itself printed, in case it dies of it."""
        last = ""
        assert self._courier is not None
        assert self._courier.stdout
        for line in self._courier.stdout:
            kind, _, text = line.strip().partition(" ")
            if kind == courier.NOTE:
                console.print(status_line(f"W&B: {one_line(text)}"))
            elif kind == courier.WARNING:
                self._warn(text)
            else:
                last = text if kind == courier.ERROR else line.strip() or last
        return last

    def _send_end(self) -> None:
        if self.ending and self._courier:
            self._write(self.ending)

    def _write(self, line: dict[str, Any]) -> None:
        assert self._courier is not None
        assert self._courier.stdin
        with suppress(OSError, ValueError):  # it is dead, which the other thread sees
            print(json.dumps(line), file=self._courier.stdin, flush=True)

    def _kill(self) -> None:
        if self._courier:
            with suppress(ProcessLookupError):
                os.killpg(self._courier.pid, signal.SIGKILL)

    def _warn(self, what: str) -> None:
        console.print(status_line(f"warning: W&B: {one_line(what)}"))
