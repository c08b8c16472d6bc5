"""Run the points of a sweep, several at once: each is a child process, watched through its record."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from r1.config.overrides import parse_command_line
from r1.core import jsonl
from r1.core.errors import UserError, one_line
from r1.core.manifest import read_manifest
from r1.core.override_text import path_value
from r1.distributed.process import ChildProcess, shared_cores, start_run
from r1.distributed.supervisor import Supervisor
from r1.experiment.pipeline.parse import parse_pipelines, split_step_overrides
from r1.experiment.sweep.display import SweepDisplay
from r1.experiment.sweep.hyperband import Hyperband
from r1.experiment.sweep.study import Study, SweepPoint

READ_RECORDS_S = 0.5
KILL_DELAY_S = 30.0  # W&B's agent gives a run as long to save and end


@dataclass
class Running:
    """A point that is being run.

    Attributes:
        lock: on the point's folder; closed once the study has its result.
        is_pruned: hyperband has asked it to end.
    """

    point: SweepPoint
    lock: TextIO
    is_pruned: bool = False


class Runner:
    """Works on a study until it is complete, or until a stop signal.

    Args:
        workers: points at once.
    """

    def __init__(self, study: Study, workers: int, display: SweepDisplay) -> None:
        self.study, self.workers, self.display = study, workers, display
        self.sweep = study.sweep
        rule = self.sweep.early_terminate
        self.hyperband = Hyperband(rule, self.sweep.goal) if rule else None
        self.supervisor = Supervisor[Running](READ_RECORDS_S)

    def run(self) -> int | None:
        """Run the remaining points; returns the signal that stopped it, if any."""
        running = self.supervisor.running
        with self.supervisor.session():
            while running or (self.supervisor.stop_signal is None and not self.study.is_complete()):
                if self.supervisor.stop_signal is None:
                    self._fill()
                self.display.update([run.point for run in running.values()])
                for child, run in self.supervisor.poll():
                    self._finish(run, child)
                for child, run in running.items():
                    self._check_run(child, run)
        return self.supervisor.stop_signal

    def _fill(self) -> None:
        while len(self.supervisor.running) < self.workers and (taken := self.study.take_point()):
            point, lock = taken
            if _is_finished(point.folder):  # its worker was killed before it could report the result
                self._finish(Running(point, lock))
                continue
            try:
                self._start(point, lock)
            except UserError as error:
                self.study.fail_point(point, one_line(error.message), error.code)
                self._print_result(point.number)
                lock.close()

    def _start(self, point: SweepPoint, lock: TextIO) -> None:
        overrides = self.sweep.overrides(point.values)
        if is_pipeline(overrides):  # all points share the records of their steps
            overrides = [*overrides, f"steps_dir={path_value(self.study.folder / 'steps')}"]
        event = "resumes" if read_manifest(point.folder) else "starts"
        child = start_run(overrides, point.folder, self._env())
        self.supervisor.running[child] = Running(point, lock)
        self.display.print_event(point, event)

    def _env(self) -> dict[str, str]:
        defaults = {"R1_SWEEP": self.sweep.name, "WANDB_RUN_GROUP": self.sweep.name}
        defaults |= shared_cores(self.workers) if self.workers > 1 else {}
        return defaults | {name: value for name, value in os.environ.items() if name != "WANDB_RUN_ID"}

    def _report(self, point: SweepPoint) -> list[float]:
        """The metric so far, which the study has now, too."""
        history = metric_history(point.folder, self.sweep.metric)
        self.study.report_history(point, history)
        return list(history.values())

    def _check_run(self, child: ChildProcess, run: Running) -> None:
        """Report a run's metric, and ask the run to end if hyperband finds that it cannot win."""
        history = self._report(run.point)
        if run.is_pruned or self.hyperband is None or not history:
            return
        if self.hyperband.should_stop(history, [list(point.history.values()) for point in self.study.points()]):
            run.is_pruned = True
            self.supervisor.stop(child, KILL_DELAY_S)

    def _finish(self, run: Running, child: ChildProcess | None = None) -> None:
        """Give the study a point's result; an interrupted point stays open, and the next worker resumes it.

        Args:
            child: its process, which has ended, so that the record holds the last row.
        """
        point = run.point
        self._report(point)
        with run.lock:
            if _is_finished(point.folder):
                value = final_metric(point.folder, self.sweep.metric)
                if value is None:
                    self.study.fail_point(point, f"the run has finished without a finite {self.sweep.metric}", 1)
                else:
                    self.study.finish_point(point, value)
            elif run.is_pruned:
                self.study.prune_point(point)
            elif child and self.supervisor.stop_signal is None:
                self.study.fail_point(point, child.last_error_line(), child.exit_code or 1)
        self._print_result(point.number)

    def _print_result(self, number: int) -> None:
        point = next(point for point in self.study.points() if point.number == number)
        self.display.print_event(point, "interrupted" if point.status == "running" else point.status)


def is_pipeline(overrides: list[str]) -> bool:
    """Whether a command line asks for a pipeline.

    Raises:
        UserError: an error of the command line that can be seen without composing a run.
    """
    argv, of_step = split_step_overrides(overrides)
    args, parsed = parse_command_line(argv)
    return bool(parse_pipelines(args, parsed, of_step))


def _is_finished(folder: Path) -> bool:
    return read_manifest(folder).get("status") == "finished"


def metric_history(folder: Path, metric: str) -> dict[int, float]:
    """The metric by optimizer step, as far as the run has come; empty for a pipeline with several results."""
    results = read_manifest(folder).get("results", [str(folder)])
    file = Path(results[0], "metrics.jsonl")
    if len(results) > 1 or not file.is_file():
        return {}
    return {row["step"]: row[metric] for row in jsonl.read_rows(file) if _is_finite_number(row.get(metric))}


def final_metric(folder: Path, metric: str) -> float | None:
    """The metric's final estimate, else its last logged value; None: there is no finite one."""
    estimate = read_manifest(folder).get("metrics", {}).get("final", {}).get(metric)
    value = estimate["value"] if estimate else next(reversed(metric_history(folder, metric).values()), None)
    return value if _is_finite_number(value) else None


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
