"""The points of a sweep, several at once: each a run as a process of its own, watched through its record."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import TextIO

from r1.config.overrides import read
from r1.core.errors import UserError, one_line
from r1.distributed.process import Process, escape_hydra, output_overrides, shared_cores, signals
from r1.experiment.pipeline.parse import parse_pipelines, split_step_overrides
from r1.experiment.sweep import results as outcome
from r1.experiment.sweep.display import SweepDisplay
from r1.experiment.sweep.hyperband import Hyperband
from r1.experiment.sweep.study import Study, SweepPoint

POLL_S = 0.5
KILL_DELAY_S = 30.0  # W&B's agent gives a run as long to save and end


@dataclass
class Running:
    """A point that is being run.

    Attributes:
        held: its lock; closed when it is told how it ended.
        stopped_at: when hyperband asked it to end; None: it has not.
    """

    point: SweepPoint
    process: Process
    held: TextIO
    stopped_at: float | None = None


class Runner:
    """Works on a study until nothing of it is left, or until a signal asks for a stop.

    Args:
        workers: points at once.
    """

    def __init__(self, study: Study, workers: int, board: SweepDisplay) -> None:
        self.study, self.workers, self.board = study, workers, board
        self.sweep = study.sweep
        rule = self.sweep.early_terminate
        self.hyperband = Hyperband(rule, self.sweep.goal) if rule else None
        self.running: list[Running] = []
        self.stop_signal: int | None = None
        self.passed_on = 0  # signals

    def run(self) -> None:
        """``stop_signal`` says afterwards whether it was stopped."""
        with signals() as received:
            try:
                while self.running or not (received or self.study.is_complete()):
                    if not received:
                        self._fill()
                    self.board.show([running.point for running in self.running])
                    time.sleep(POLL_S)
                    self._pass_on(received)
                    for running in list(self.running):
                        self._check_run(running)
            finally:
                for running in self.running:  # none, unless this process itself went wrong
                    running.process.kill()

    def _fill(self) -> None:
        while len(self.running) < self.workers and (taken := self.study.take_point()):
            point, held = taken
            if outcome.is_finished(point.folder):  # its worker was killed before it could say so
                self.study.report_history(point, outcome.history(point.folder, self.sweep.metric))
                self._finish(point, held, None)
                continue
            try:
                self._start(point, held)
            except UserError as error:
                self.study.fail_point(point, one_line(error.message), error.code)
                self._tell(point.number)
                held.close()

    def _start(self, point: SweepPoint, held: TextIO) -> None:
        overrides = self.sweep.overrides(point.values)
        shared = [f"steps_dir={escape_hydra(str(self.study.folder / 'steps'))}"] if is_pipeline(overrides) else []
        event = "resumes" if outcome.manifest(point.folder) else "starts"
        process = Process([*overrides, *shared, *output_overrides(point.folder)], point.folder, self._env())
        self.running.append(Running(point, process, held))
        self.board.print_event(point, event)

    def _env(self) -> dict[str, str]:
        own = {"R1_SWEEP": self.sweep.name, "WANDB_RUN_GROUP": self.sweep.name}
        own |= shared_cores(self.workers) if self.workers > 1 else {}
        return own | {name: value for name, value in os.environ.items() if name != "WANDB_RUN_ID"}

    def _pass_on(self, received: list[int]) -> None:
        for number in received[self.passed_on :]:
            self.stop_signal = self.stop_signal or number
            for running in self.running:
                running.process.send(number)
        self.passed_on = len(received)

    def _check_run(self, running: Running) -> None:
        """See how a run is doing, and whether it is to go on."""
        has_ended = running.process.ended  # asked first: what it wrote before is then seen
        history = outcome.history(running.point.folder, self.sweep.metric)
        self.study.report_history(running.point, history)
        if has_ended:
            self.running.remove(running)
            self._finish(running.point, running.held, running)
        elif running.stopped_at is None and self._should_stop_early(list(history.values())):
            running.stopped_at = time.monotonic()
            running.process.send(signal.SIGTERM)
        elif running.stopped_at is not None and time.monotonic() - running.stopped_at > KILL_DELAY_S:
            running.process.kill()

    def _should_stop_early(self, own: list[float]) -> bool:
        if self.hyperband is None or not own:
            return False
        return self.hyperband.should_stop(own, [list(point.history.values()) for point in self.study.points()])

    def _finish(self, point: SweepPoint, held: TextIO, running: Running | None) -> None:
        """Tell the study how a point ended; one that was interrupted is left to whoever comes next."""
        with held:
            if outcome.is_finished(point.folder):
                value = outcome.objective(point.folder, self.sweep.metric)
                if value is None:
                    self.study.fail_point(point, f"the run has finished without a finite {self.sweep.metric}", 1)
                else:
                    self.study.finish_point(point, value)
            elif running and running.stopped_at is not None:
                self.study.prune_point(point)
            elif running and self.stop_signal is None:
                self.study.fail_point(point, running.process.last_words(), running.process.code)
        self._tell(point.number)

    def _tell(self, number: int) -> None:
        point = next(point for point in self.study.points() if point.number == number)
        self.board.print_event(point, "interrupted" if point.status == "running" else point.status)


def is_pipeline(overrides: list[str]) -> bool:
    """Whether a command line asks for a pipeline.

    Raises:
        UserError: what can be seen to be wrong with it without composing a run.
    """
    argv, of_step = split_step_overrides(overrides)
    args, parsed = read(argv)
    return bool(parse_pipelines(args, parsed, of_step))
