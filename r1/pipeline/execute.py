"""The steps of a plan, as many at once as allowed: started when what they need is there, and stopped when asked to.

A step that was begun goes on from its last checkpoint. A signal is passed on to the running steps, which save.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.markup import escape

from r1.checkpoint import STOP_SIGNALS
from r1.errors import Interrupted, UserError, one_line
from r1.pipeline.node import Node
from r1.pipeline.process import LOG, Process
from r1.pipeline.record import SHOWN, PipelineRecord, State, duration
from r1.progress import console, sentence

POLL_S = 0.05


class Steps:
    """Runs the nodes of a record's plan.

    Args:
        flags: of the command line, for every step (``--config-dir``).
    """

    def __init__(self, record: PipelineRecord, flags: list[str]) -> None:
        self.record, self.flags = record, flags
        self.nodes = record.plan.nodes
        self.running: list[Process] = []
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
            self._start_ready()
            while self.running:
                time.sleep(POLL_S)
                self._pass_on()
                for process in [process for process in self.running if process.ended]:
                    self.running.remove(process)
                    self._ended(process)
                self._start_ready()
        if self.stop_signal is not None and any(not node.done for node in self.nodes):
            raise Interrupted(self.stop_signal)
        if self.failed:
            raise self.failed

    @contextmanager
    def _listening(self) -> Iterator[None]:
        def ask_to_stop(number: int, _: Any) -> None:
            self.signals.append(number)

        before = {number: signal.signal(number, ask_to_stop) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for process in self.running:  # none, unless this process itself went wrong
                process.kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self) -> None:
        while self.signals:
            number = self.signals.pop(0)
            self.stop_signal = self.stop_signal or number
            for process in self.running:
                process.send(number)

    def _start_ready(self) -> None:
        for node in self.nodes:
            free = len(self.running) < self.record.plan.pipeline.config["workers"]
            if free and not self.signals and self.stop_signal is None and self._is_ready(node):
                self._start(node)

    def _is_ready(self, node: Node) -> bool:
        there = all(self._state(needed).status in ("cached", "finished") for needed in node.needs)
        return there and self._state(node).status == "waiting"

    def _state(self, node: Node) -> State:
        return self.record.states[node.fingerprint]

    def _start(self, node: Node) -> None:
        begun = "goes on" if node.manifest else "starts"
        is_result = any(node is result for result in self.record.plan.results)
        self.running.append(Process(node, self.flags, is_result))
        self._state(node).status = "running"
        self._say(node, f"{begun}: {' '.join(node.essentials)}")
        self.record.write("running")

    def _ended(self, process: Process) -> None:
        node = process.node
        state = self._state(node)
        state.wall_s = process.wall_s
        if node.done:
            state.status = "finished"
        else:
            state.status = "failed" if self.stop_signal is None else "interrupted"
            state.error = process.last_words()
        self._say(node, f"{state.status} after {duration(state.wall_s)}{gain(node)}")
        if state.status == "failed":
            self._fail(process, state.error or "")
        self.record.write("running")

    def _fail(self, process: Process, error: str) -> None:
        node = process.node
        console.print(f"   {escape(error)}")
        blocked = self._block(node)
        for other in blocked:
            self._say(other, f"blocked: it needs {node}")
        what = f"step `{node}` failed" + (f", so {', '.join(map(str, blocked))} could not run" if blocked else "")
        do = f"all that it said is in {node.folder / LOG}; the same command goes on, what has finished is kept"
        failed = UserError(what, where=f"steps.{node.step}", given=error, do=do, code=process.code)
        self.failed = self.failed or failed

    def _block(self, failed: Node) -> list[Node]:
        """Everything that needs it, and what needs that: the nodes are in order."""
        lost = [failed]
        for node in self.nodes:
            if self._state(node).status == "waiting" and any(needed in lost for needed in node.needs):
                self._state(node).status, self._state(node).error = "blocked", f"it needs {failed}, which failed"
                lost.append(node)
        return lost[1:]

    def _say(self, node: Node, what: str) -> None:
        width = max(len(str(other)) for other in self.nodes)
        console.print(sentence(f"{node!s:{width}}  {one_line(what)}"))


def gain(node: Node) -> str:
    """``, pass@1 0.371 -> 0.920`` of a node that has finished."""
    held = node.manifest if node.done else None
    found = [held["metrics"][when].get(SHOWN) for when in ("start", "final")] if held else []
    values = [f"{figure['value']:.3f}" for figure in found if figure]
    return f", pass@1 {' -> '.join(dict.fromkeys(values))}" if values else ""
