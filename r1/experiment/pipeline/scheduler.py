"""The steps of a plan, as many at once as allowed: started when what they need is there, and stopped when asked to.

An interrupted step resumes from its last checkpoint. A signal is passed on to the running steps, which save.
"""

from __future__ import annotations

import os
import time

from rich.markup import escape

from r1.core.console import console, format_duration, status_line
from r1.core.errors import LOCKED, SWEEPS, Interrupted, UserError, one_line
from r1.core.files import is_locked
from r1.distributed.process import LOG, Process, output_overrides, signals
from r1.experiment.pipeline.node import PipelineNode
from r1.experiment.pipeline.record import HEADLINE_METRIC, NodeState, PipelineRecord

POLL_S = 0.05
AGENT = (*SWEEPS, "WANDB_RUN_ID")  # of a sweep: its one run is the step with the result


class Steps:
    """Runs the nodes of a record's plan.

    Args:
        flags: of the command line, for every step (``--config-dir``).
    """

    def __init__(self, record: PipelineRecord, flags: list[str]) -> None:
        self.record, self.flags = record, flags
        self.nodes = record.plan.nodes
        self.running: list[tuple[PipelineNode, Process]] = []
        self.signals: list[int] = []
        self.stop_signal: int | None = None
        self.failed: UserError | None = None
        self.told = set[str]()  # fingerprints of those that are known to wait

    def run(self) -> None:
        """Run all that can be run.

        Raises:
            Interrupted: a signal asked for a stop.
            UserError: a step failed, with its exit code; what does not need it has been run.
        """
        with signals() as self.signals:
            try:
                self._run()
            finally:
                for _, process in self.running:  # none, unless this process itself went wrong
                    process.kill()
        if self.stop_signal is not None and any(not node.done for node in self.nodes):
            raise Interrupted(self.stop_signal)
        if self.failed:
            raise self.failed

    def _run(self) -> None:
        self._start_ready()
        while self.running or self._waits():
            time.sleep(POLL_S)
            self._pass_on()
            for node, process in [(node, process) for node, process in self.running if process.ended]:
                self.running.remove((node, process))
                self._ended(node, process)
            self._start_ready()

    def _waits(self) -> bool:
        """Whether a step could start, if another pipeline were not running it."""
        return not self.signals and self.stop_signal is None and any(map(self._is_ready, self.nodes))

    def _pass_on(self) -> None:
        while self.signals:
            number = self.signals.pop(0)
            self.stop_signal = self.stop_signal or number
            for _, process in self.running:
                process.send(number)

    def _start_ready(self) -> None:
        for node in self.nodes:
            free = len(self.running) < self.record.plan.pipeline.config["workers"]
            if free and not self.signals and self.stop_signal is None and self._is_ready(node):
                self._start(node)

    def _is_ready(self, node: PipelineNode) -> bool:
        there = all(self._state(needed).status in ("cached", "finished") for needed in node.needs)
        return there and self._state(node).status == "waiting"

    def _state(self, node: PipelineNode) -> NodeState:
        return self.record.states[node.fingerprint]

    def _start(self, node: PipelineNode) -> None:
        """Start a step, unless another pipeline has made it meanwhile, or is making it."""
        if node.done:
            self._state(node).status = "cached"
            self._say(node, f"was made by another pipeline{metric_change(node)}")
            self.record.write("running")
            return
        if is_locked(node.folder):
            if node.fingerprint not in self.told:
                self._say(node, "waits: another pipeline is making it")
            self.told.add(node.fingerprint)
            return
        event = "resumes" if node.manifest else "starts"
        is_result = node is self.record.plan.results[0]  # of several seeds the first: an agent has one run
        self.running.append((node, start(node, self.flags, is_result)))
        self._state(node).status = "running"
        self._say(node, f"{event}: {' '.join(node.own_overrides)}")
        self.record.write("running")

    def _ended(self, node: PipelineNode, process: Process) -> None:
        state = self._state(node)
        state.wall_s = process.wall_s
        if node.done:
            state.status = "finished"
        elif process.code == LOCKED and self.stop_signal is None:
            state.status = "waiting"
            return
        else:
            state.status = "failed" if self.stop_signal is None else "interrupted"
            state.error = process.last_words()
        self._say(node, f"{state.status} after {format_duration(state.wall_s)}{metric_change(node)}")
        if state.status == "failed":
            self._fail(node, process.code, state.error or "")
        self.record.write("running")

    def _fail(self, node: PipelineNode, code: int, error: str) -> None:
        console.print(f"   {escape(error)}")
        blocked = self._block(node)
        for other in blocked:
            self._say(other, f"blocked: it needs {node}")
        message = f"step `{node}` failed" + (f", so {', '.join(map(str, blocked))} could not run" if blocked else "")
        hint = f"all that it said is in {node.folder / LOG}; the same command resumes; finished steps are cached"
        failed = UserError(message, key=f"steps.{node.step}", value=error, hint=hint, code=code)
        self.failed = self.failed or failed

    def _block(self, failed: PipelineNode) -> list[PipelineNode]:
        """Everything that needs it, and what needs that: the nodes are in order."""
        lost = [failed]
        for node in self.nodes:
            if self._state(node).status == "waiting" and any(needed in lost for needed in node.needs):
                self._state(node).status, self._state(node).error = "blocked", f"it needs {failed}, which failed"
                lost.append(node)
        return lost[1:]

    def _say(self, node: PipelineNode, what: str) -> None:
        width = max(len(str(other)) for other in self.nodes)
        console.print(status_line(f"{node!s:{width}}  {one_line(what)}"))


def start(node: PipelineNode, flags: list[str], is_result: bool) -> Process:
    """A step's own process; a sweep that runs the pipeline is to see the figures of the result's step alone."""
    env = {name: value for name, value in os.environ.items() if is_result or name not in AGENT}
    return Process([*flags, *node.overrides, *output_overrides(node.folder)], node.folder, env)


def metric_change(node: PipelineNode) -> str:
    """``, pass@1 0.371 -> 0.920`` of a node that has finished."""
    held = node.manifest if node.done else None
    found = [held["metrics"][when].get(HEADLINE_METRIC) for when in ("start", "final")] if held else []
    values = [f"{figure['value']:.3f}" for figure in found if figure]
    return f", pass@1 {' -> '.join(dict.fromkeys(values))}" if values else ""
