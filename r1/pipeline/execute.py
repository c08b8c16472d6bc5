"""The steps of a plan as runs of their own, each ``python -m r1.run`` in its own process, as many at once as allowed.

A step that was begun goes on from its last checkpoint. A signal is passed on to the running steps, which save; if this
process dies, its steps die with it, so that the same command may go on at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from r1.checkpoint import STOP_SIGNALS
from r1.errors import Interrupted, UserError, one_line
from r1.pipeline.plan import Node, escaped
from r1.pipeline.record import SHOWN, PipelineRecord, State, duration
from r1.progress import console, sentence

LOG = "output.log"
POLL_S = 0.05
PR_SET_PDEATHSIG = 1
AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID")  # whose run a sweep's is: only the step with the result may have them


@dataclass
class Running:
    """A step's process."""

    node: Node
    process: subprocess.Popen[bytes]
    started: float
    log_size: int


class Steps:
    """Runs the nodes of a record's plan.

    Args:
        flags: of the command line, for every step (``--config-dir``).
    """

    def __init__(self, record: PipelineRecord, flags: list[str]) -> None:
        self.record, self.flags = record, flags
        self.nodes, self.states = record.plan.nodes, record.states
        self.running: list[Running] = []
        self.signals: list[int] = []
        self.stop_signal: int | None = None
        self.failed: UserError | None = None

    def run(self) -> None:
        """Run all that can be run.

        Raises:
            Interrupted: a signal asked for a stop.
            UserError: a step failed, with its exit code; what does not need it has been run.
        """
        with self._listening():
            while self._start_some() or self.running:
                self._pass_on()
                for step in [step for step in self.running if step.process.poll() is not None]:
                    self.running.remove(step)
                    self._ended(step)
                time.sleep(POLL_S)
        if self.stop_signal is not None and any(state.status != "finished" for state in self._unfinished()):
            raise Interrupted(self.stop_signal)
        if self.failed:
            raise self.failed

    def _unfinished(self) -> list[State]:
        return [state for state in self.states.values() if state.status != "cached"]

    @contextmanager
    def _listening(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._asked_to_stop) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for step in self.running:  # an error of ours
                step.process.kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked_to_stop(self, number: int, frame: Any) -> None:
        self.signals.append(number)

    def _pass_on(self) -> None:
        while self.signals:
            number = self.signals.pop(0)
            self.stop_signal = self.stop_signal or number
            for step in self.running:
                step.process.send_signal(number)

    def _start_some(self) -> bool:
        """Start what is ready, as far as there are workers; whether anything was."""
        workers = self.record.plan.pipeline.config["workers"]
        started = False
        for node in self.nodes:
            if len(self.running) < workers and not self.signals and self.stop_signal is None and self._ready(node):
                self._start(node)
                started = True
        return started

    def _ready(self, node: Node) -> bool:
        needs = [self._state(needed).status for needed in node.needs]
        return self._state(node).status == "waiting" and all(status in ("cached", "finished") for status in needs)

    def _state(self, node: Node) -> State:
        return self.states[node.fingerprint]

    def _start(self, node: Node) -> None:
        node.folder.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()
        with (node.folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "r1.run", *self.flags, *command(node)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(node),
                process_group=0,  # a terminal's ^C comes to this process alone, and is passed on once
                preexec_fn=lambda: die_with(parent),
            )
            self.running.append(Running(node, process, time.monotonic(), log.tell()))
        self._state(node).status = "running"
        goes_on = "goes on" if node.manifest else "starts"
        self._say(node, f"{goes_on}: {' '.join(node.essentials)}")
        self.record.write("running")

    def _environment(self, node: Node) -> dict[str, str]:
        kept = any(node is result for result in self.record.plan.results)
        return {name: value for name, value in os.environ.items() if kept or name not in AGENT}

    def _ended(self, step: Running) -> None:
        node, code = step.node, step.process.returncode
        state = self._state(node)
        state.wall_s = round(time.monotonic() - step.started, 3)
        if node.done:
            state.status = "finished"
        else:
            state.status = "failed" if self.stop_signal is None else "interrupted"
            state.error = last_words(node.folder / LOG, step.log_size)
        self._say(node, f"{state.status} after {duration(state.wall_s)}{gain(node)}")
        if state.status == "failed":
            self._fail(node, code)
        self.record.write("running")

    def _fail(self, node: Node, code: int) -> None:
        error = self._state(node).error or ""
        blocked = self._block(node)
        console.print(f"   {escape(error)}")
        for other in blocked:
            self._say(other, f"blocked: it needs {node}")
        do = f"the whole story is in {node.folder / LOG}; the same command goes on, what has finished is kept"
        what = f"step `{node}` failed" + (f", so {', '.join(map(str, blocked))} could not run" if blocked else "")
        code = 128 - code if code < 0 else code or 1
        self.failed = self.failed or UserError(what, where=f"steps.{node.step}", given=error, do=do, code=code)

    def _block(self, failed: Node) -> list[Node]:
        lost = [failed]
        for node in self.nodes:  # in order: what a node needs comes before it
            if self._state(node).status == "waiting" and any(needed in lost for needed in node.needs):
                self._state(node).status, self._state(node).error = "blocked", f"it needs {failed}, which failed"
                lost.append(node)
        return lost[1:]

    def _say(self, node: Node, what: str) -> None:
        width = max(len(str(other)) for other in self.nodes)
        console.print(sentence(f"{node!s:{width}}  {one_line(what)}"))


def command(node: Node) -> list[str]:
    """The overrides of a node's own process, which anyone may type as well."""
    return [*node.overrides, f"output_dir={escaped(str(node.folder))}", "resume=auto"]


def die_with(parent: int) -> None:
    """Between fork and exec: be killed when the parent is (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def last_words(log: Path, start: int) -> str:
    """The error that ends what a step has printed since ``start``."""
    with log.open("rb") as source:
        source.seek(start)
        text = source.read().decode(errors="replace")
    lines = text.rpartition("\nr1: ")[2] if "\nr1: " in f"\n{text}" else text.strip().rpartition("\n")[2]
    return one_line(lines.removeprefix("r1: ").strip().partition("\n")[0])


def gain(node: Node) -> str:
    """``, pass@1 0.371 -> 0.920`` of a node that has finished."""
    held = node.manifest if node.done else None
    found = [held["metrics"][when].get(SHOWN) for when in ("start", "final")] if held else []
    values = [f"{figure['value']:.3f}" for figure in found if figure]
    return f", pass@1 {' -> '.join(dict.fromkeys(values))}" if values else ""
