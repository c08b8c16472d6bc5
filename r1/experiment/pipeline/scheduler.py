"""Run the steps of a plan, several at once if allowed: each starts when the steps that it needs have finished.

An interrupted step resumes from its last checkpoint. A stop signal is forwarded to the running steps, which save.
"""

from __future__ import annotations

import os

from rich.markup import escape

from r1.core.console import console, format_duration, status_line
from r1.core.errors import LOCKED, SWEEPS, Interrupted, UserError, one_line
from r1.core.files import is_locked, lock_folder
from r1.core.runs import discard_progress
from r1.distributed.process import LOG, ChildProcess, start_run
from r1.distributed.supervisor import Supervisor
from r1.experiment.pipeline.node import PipelineNode
from r1.experiment.pipeline.record import HEADLINE_METRIC, PipelineRecord

AGENT = (*SWEEPS, "WANDB_RUN_ID")  # of a sweep: its one run is the step with the result


class Steps:
    """Runs the nodes of a record's plan.

    Args:
        flags: of the command line, for every step (``--config-dir``).
    """

    def __init__(self, record: PipelineRecord, flags: list[str]) -> None:
        self.record, self.flags = record, flags
        self.nodes = record.plan.nodes
        self.supervisor = Supervisor[PipelineNode]()
        self.error: UserError | None = None  # of the first step that failed
        self._announced = set[str]()  # fingerprints of steps that wait for another pipeline

    def run(self) -> None:
        """Run every step that can run.

        Raises:
            Interrupted: a stop signal came.
            UserError: a step failed, with its exit code; the steps that do not need it have been run.
        """
        with self.supervisor.session():
            self._start_ready()
            # a step that is ready, but was not started, is run by another pipeline
            while self.supervisor.running or (self.supervisor.stop_signal is None and any(map(_is_ready, self.nodes))):
                for process, node in self.supervisor.poll():
                    self._finish(node, process)
                self._start_ready()
        if self.supervisor.stop_signal is not None and any(not node.done for node in self.nodes):
            raise Interrupted(self.supervisor.stop_signal)
        if self.error:
            raise self.error

    def _start_ready(self) -> None:
        for node in self.nodes:
            is_free = len(self.supervisor.running) < self.record.plan.pipeline.config["workers"]
            if is_free and self.supervisor.stop_signal is None and _is_ready(node):
                self._start(node)

    def _start(self, node: PipelineNode) -> None:
        """Start a step, unless another pipeline has finished it since the plan was made, or runs it."""
        if node.done:
            node.status = "cached"
            self._print(node, f"was finished by another pipeline{metric_change(node)}")
            self.record.write("running")
            return
        if is_locked(node.folder):
            if node.fingerprint not in self._announced:
                self._print(node, "waits: another pipeline is running it")
            self._announced.add(node.fingerprint)
            return
        # no checkpoint can make it again
        if any(name.startswith("best/") or not node.config["keep_checkpoints"] for name in node.damaged):
            with lock_folder(node.folder):
                discard_progress(node.folder)
        event = "resumes" if node.manifest else "starts"
        is_result = node is self.record.plan.results[0]  # of several seeds the first: an agent has one run
        self.supervisor.running[start(node, self.flags, is_result)] = node
        node.status = "running"
        self._print(node, f"{event}: {' '.join(node.own_overrides)}")
        self.record.write("running")

    def _finish(self, node: PipelineNode, process: ChildProcess) -> None:
        code = process.exit_code or 1  # without a finished record it has failed
        is_stopping = self.supervisor.stop_signal is not None
        node.wall_s = process.wall_s
        if node.done:
            node.status = "finished"
        elif code == LOCKED and not is_stopping:  # another pipeline locked the record after ``_start`` had looked
            node.status = "waiting"
            return
        else:
            node.status = "interrupted" if is_stopping else "failed"
            node.error = process.last_error_line()
        self._print(node, f"{node.status} after {format_duration(node.wall_s)}{metric_change(node)}")
        if node.status == "failed":
            self._fail(node, code, node.error or "")
        self.record.write("running")

    def _fail(self, node: PipelineNode, code: int, error: str) -> None:
        console.print(f"   {escape(error)}")
        blocked = self._block(node)
        for other in blocked:
            self._print(other, f"blocked: it needs {node}")
        message = f"step `{node}` failed" + (f", so {', '.join(map(str, blocked))} could not run" if blocked else "")
        hint = f"its output is in {node.folder / LOG}; the same command resumes; finished steps are cached"
        self.error = self.error or UserError(message, key=f"steps.{node.step}", value=error, hint=hint, code=code)

    def _block(self, failed: PipelineNode) -> list[PipelineNode]:
        """Mark every step that needs it, directly or through others, as blocked: the nodes are in order."""
        unavailable = [failed]
        for node in self.nodes:
            if node.status == "waiting" and any(needed in unavailable for needed in node.needs):
                node.status, node.error = "blocked", f"it needs {failed}, which failed"
                unavailable.append(node)
        return unavailable[1:]

    def _print(self, node: PipelineNode, event: str) -> None:
        width = max(len(str(other)) for other in self.nodes)
        console.print(status_line(f"{node!s:{width}}  {one_line(event)}"))


def _is_ready(node: PipelineNode) -> bool:
    return node.status == "waiting" and all(needed.status in ("cached", "finished") for needed in node.needs)


def start(node: PipelineNode, flags: list[str], is_result: bool) -> ChildProcess:
    """A step's process; a sweep that runs the pipeline sees the metrics of the result's step alone."""
    env = {name: value for name, value in os.environ.items() if is_result or name not in AGENT}
    return start_run([*flags, *node.overrides], node.folder, env)


def metric_change(node: PipelineNode) -> str:
    """``, pass@1 0.371 -> 0.920`` of a node that has finished."""
    manifest = node.manifest if node.done else None
    estimates = [manifest["metrics"][when].get(HEADLINE_METRIC) for when in ("start", "final")] if manifest else []
    values = [f"{estimate['value']:.3f}" for estimate in estimates if estimate]
    return f", pass@1 {' -> '.join(dict.fromkeys(values))}" if values else ""
