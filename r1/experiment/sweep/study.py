"""The points of a sweep in its Optuna study: their values, which process runs them, and how they ended.

A point is a trial, and a record in ``runs/<number>``. A running trial whose record no process has locked was left by a
worker that was killed or stopped: the next free worker resumes it.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from r1.core import seeds
from r1.core.errors import STORAGE, UserError
from r1.core.files import lock_folder
from r1.core.manifest import FILE as MANIFEST
from r1.experiment.sweep.file import Sweep
from r1.experiment.sweep.points import num_points
from r1.experiment.sweep.space import SearchSpace
from r1.experiment.sweep.storage import errors_of_storage, exclusive_lock, file_of, open_study

NUM_RANDOM_STARTUP = 10  # points that bayes draws at random before TPE proposes
LOCK_FILE = ".runner"  # the file in a record that its worker locks
STATUS_BY_STATE = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


@dataclass(frozen=True)
class SweepPoint:
    """One point of a sweep, as its study has it.

    Attributes:
        number: of its trial.
        values: of all parameters, in the file's order.
        folder: its record.
        status: running, finished, pruned or failed.
        value: the objective; None unless it has finished.
        error: why it failed.
        code: the exit code if it failed.
        history: the metric by optimizer step.
    """

    number: int
    values: dict[str, Any]
    folder: Path
    status: str
    value: float | None
    error: str
    code: int
    history: dict[int, float]


class Study:
    """The study of a sweep; several processes may work on it at once.

    Args:
        folder: the sweep's.
        url: its storage.
        count: points at most, from the command line.
        retry_failed: run all failed points again; without it only those that a fault of the disk has ended.

    Raises:
        UserError: it cannot be started or resumed.
    """

    def __init__(self, sweep: Sweep, folder: Path, url: str, count: int | None, retry_failed: bool) -> None:
        self.sweep, self.folder, self.space = sweep, folder, SearchSpace(sweep)
        caps = [cap for cap in (num_points(sweep), count) if cap is not None]
        if not caps:
            message = f"a {sweep.method} search does not end by itself"
            raise UserError(message, key="run_cap", hint="--count N, or run_cap: N in the file")
        self.limit = min(caps)
        self.file, self.optuna = file_of(url), open_study(sweep, folder, url)
        points = self.points()
        gone = {
            point.folder for point in points if point.status == "finished" and not (point.folder / MANIFEST).is_file()
        }
        failed = [point for point in points if point.status == "failed"]
        self.to_retry = gone | {point.folder for point in failed if retry_failed or point.code == STORAGE}

    def points(self) -> list[SweepPoint]:
        """All points; one that was retried is a second trial in the same folder, and the last trial counts."""
        with errors_of_storage(self.file):
            return list({point.folder: point for point in map(self._to_point, self._trials())}.values())

    def is_complete(self) -> bool:
        """Whether nothing is left to do, here or in another process."""
        points = self.points()
        return len(points) >= self.limit and not self.to_retry and all(point.status != "running" for point in points)

    def take_point(self) -> tuple[SweepPoint, TextIO] | None:
        """A point to run, and its lock, which keeps other workers off until it is closed.

        First an interrupted point, then one to retry, then a new one; None: there is none.
        """
        with exclusive_lock(self.folder):
            points = self.points()
            for point in points:
                if point.status == "running" and (lock := _try_lock(point.folder)):
                    return point, lock
            for point in points:
                if point.folder in self.to_retry and (lock := _try_lock(point.folder)):
                    self.to_retry.remove(point.folder)
                    return self._add_trial(self._trials()[point.number].params, point.folder), lock
            if len(points) >= self.limit:
                return None
            folder = self.folder / "runs" / f"{len(points):04}"
            lock = lock_folder(folder, LOCK_FILE)
            return self._add_trial(self._choose_values(len(points)), folder), lock

    def report_history(self, point: SweepPoint, history: dict[int, float]) -> None:
        """Store the steps of a point's metric that are not in the study yet."""
        known = self._trials()[point.number].intermediate_values
        if new_steps := sorted(history.keys() - known.keys()):
            trial = self._trial(point)
            for step in new_steps:
                trial.report(history[step], step)

    def finish_point(self, point: SweepPoint, value: float) -> None:
        self.optuna.tell(point.number, value)

    def prune_point(self, point: SweepPoint) -> None:
        """End a point early: its value is the last one that was reported."""
        self.optuna.tell(point.number, state=TrialState.PRUNED)

    def fail_point(self, point: SweepPoint, error: str, code: int) -> None:
        trial = self._trial(point)
        trial.set_user_attr("error", error)
        trial.set_user_attr("code", code)
        self.optuna.tell(point.number, state=TrialState.FAIL)

    def _choose_values(self, number: int) -> dict[str, Any]:
        """The values of a new point: a function of its number alone, until bayes has trials to learn from."""
        if self.sweep.method == "grid":
            return dict(self.space.grid_point(number))
        ended = [trial for trial in self._trials() if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        if self.sweep.method == "random" or len(ended) < NUM_RANDOM_STARTUP:
            return dict(self.space.random_point(number))
        return dict(self.space.snap_point(self._tpe_proposal(number)))

    def _tpe_proposal(self, number: int) -> dict[str, Any]:
        """TPE's proposal, made in a copy of the study: ``ask`` stores a trial before its values, a crash between them
        would leave it incomplete.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            seed = seeds.derive_seed(self.sweep.name, "sweep", number) % 2**32
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        copy = optuna.create_study(direction=self.sweep.goal, sampler=sampler)
        copy.add_trials(self._trials())
        return copy.ask(self.space.distributions).params

    def _add_trial(self, params: dict[str, Any], folder: Path) -> SweepPoint:
        """Add a running trial. The caller holds the study's lock, so the last trial is the new one."""
        trial = create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions=self.space.distributions,
            user_attrs={"record": str(folder.relative_to(self.folder)), "constants": self.space.constants},
        )
        self.optuna.add_trial(trial)
        return self._to_point(self._trials()[-1])

    def _trials(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)

    def _trial(self, point: SweepPoint) -> Trial:
        return Trial(self.optuna, self._trials()[point.number]._trial_id)

    def _to_point(self, trial: FrozenTrial) -> SweepPoint:
        return SweepPoint(
            number=trial.number,
            values=self.space.values(trial.params),
            folder=self.folder / trial.user_attrs["record"],
            status=STATUS_BY_STATE[trial.state],
            value=trial.value if trial.state == TrialState.COMPLETE else None,
            error=trial.user_attrs.get("error", ""),
            code=trial.user_attrs.get("code", 1),
            history=dict(sorted(trial.intermediate_values.items())),
        )


def _try_lock(folder: Path) -> TextIO | None:
    """The lock of a record; None: another worker has it."""
    with suppress(UserError):
        return lock_folder(folder, LOCK_FILE)
    return None
