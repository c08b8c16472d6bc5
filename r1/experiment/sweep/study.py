"""The points of a sweep in its Optuna study: which there are, who runs them, and what came of them.

A point is a trial, and a record in ``runs/<number>``. A trial that is marked as running and whose record no process
holds was left by a worker that was killed: the next one that is free goes on with it.
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
from r1.core.errors import UserError
from r1.core.files import lock_folder
from r1.experiment.sweep import storage
from r1.experiment.sweep.file import Sweep
from r1.experiment.sweep.space import Space

STARTUP = 10  # points that bayes draws at random before it learns from them
RUNNER = ".runner"  # the file in a record that its worker locks
STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped early",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "begun",
}


@dataclass(frozen=True)
class Point:
    """One point as the study has it.

    Attributes:
        number: of its trial.
        values: of all parameters, in the file's order.
        folder: its record.
        status: finished, stopped early, failed or begun.
        value: the objective; None unless it has finished.
        error: why it has failed.
        code: the exit code of one that has failed.
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
    """The study of a sweep.

    Args:
        folder: the sweep's.
        place: its storage.
        count: points at most, as the command line has it.
        retry_failed: run again what had failed before.

    Raises:
        UserError: it cannot be begun or gone on with.
    """

    def __init__(self, sweep: Sweep, folder: Path, place: str, count: int | None, retry_failed: bool) -> None:
        self.sweep, self.folder, self.space = sweep, folder, Space(sweep)
        caps = [cap for cap in (self.space.size, sweep.run_cap, count) if cap is not None]
        if not caps:
            message = f"a {sweep.method} search does not end by itself"
            raise UserError(message, key="run_cap", hint="--count N, or run_cap: N in the file")
        self.limit = min(caps)
        self.optuna = storage.begin(sweep, folder, place)
        self.to_retry = {point.folder for point in self.points() if point.status == "failed" and retry_failed}

    def points(self) -> list[Point]:
        """All points; one that was retried as it ended last."""
        return list({point.folder: point for point in map(self._point, self._trials())}.values())

    def is_complete(self) -> bool:
        """Whether nothing is left to do, here or elsewhere."""
        points = self.points()
        return len(points) >= self.limit and not self.to_retry and all(point.status != "begun" for point in points)

    def take(self) -> tuple[Point, TextIO] | None:
        """A point to run: one that was left, else one that had failed, else a new one; None: there is none.

        It is this process's until the file is closed.
        """
        with storage.exclusive_lock(self.folder):
            points = self.points()
            for point in points:
                if point.status == "begun" and (held := _try_lock(point.folder)):
                    return point, held
            for point in points:
                if point.folder in self.to_retry and (held := _try_lock(point.folder)):
                    self.to_retry.remove(point.folder)
                    return self._add(self._trials()[point.number].params, point.folder), held
            if len(points) >= self.limit:
                return None
            folder = self.folder / "runs" / f"{len(points):04}"
            held = lock_folder(folder, RUNNER)
            return self._add(self._choose(len(points)), folder), held

    def report(self, point: Point, history: dict[int, float]) -> None:
        """Add what is new of a point's metric."""
        known = self._trials()[point.number].intermediate_values
        if new := sorted(history.keys() - known.keys()):
            trial = self._trial(point)
            for step in new:
                trial.report(history[step], step)

    def finish(self, point: Point, value: float) -> None:
        self.optuna.tell(point.number, value)

    def stop(self, point: Point) -> None:
        """Early: its value is the last one that was reported."""
        self.optuna.tell(point.number, state=TrialState.PRUNED)

    def fail(self, point: Point, error: str, code: int) -> None:
        trial = self._trial(point)
        trial.set_user_attr("error", error)
        trial.set_user_attr("code", code)
        self.optuna.tell(point.number, state=TrialState.FAIL)

    def _choose(self, number: int) -> dict[str, Any]:
        """The parameters of a new point: by its number alone, until bayes has something to learn from."""
        if self.sweep.method == "grid":
            return dict(self.space.nth(number))
        ended = [trial for trial in self._trials() if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        if self.sweep.method == "random" or len(ended) < STARTUP:
            return dict(self.space.drawn(number))
        return dict(self.space.snapped(self._tpe_proposal(number)))

    def _tpe_proposal(self, number: int) -> dict[str, Any]:
        """What TPE proposes, in a copy of the study: a trial is added as a whole or not at all."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            seed = seeds.derive_seed(self.sweep.name, "sweep", number) % 2**32
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        copy = optuna.create_study(direction=self.sweep.goal, sampler=sampler)
        copy.add_trials(self._trials())
        return copy.ask(self.space.distributions).params

    def _add(self, params: dict[str, Any], folder: Path) -> Point:
        """Begin a trial; no other process adds one meanwhile."""
        record = str(folder.relative_to(self.folder))
        trial = create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions=self.space.distributions,
            user_attrs={"record": record, "constants": self.space.constants},
        )
        self.optuna.add_trial(trial)
        return self._point(self._trials()[-1])

    def _trials(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)

    def _trial(self, point: Point) -> Trial:
        return Trial(self.optuna, self._trials()[point.number]._trial_id)

    def _point(self, trial: FrozenTrial) -> Point:
        held = trial.user_attrs
        return Point(
            number=trial.number,
            values=self.space.values(trial.params),
            folder=self.folder / held["record"],
            status=STATES[trial.state],
            value=trial.value if trial.state == TrialState.COMPLETE else None,
            error=held.get("error", ""),
            code=held.get("code", 1),
            history=dict(sorted(trial.intermediate_values.items())),
        )


def _try_lock(folder: Path) -> TextIO | None:
    """The lock on a record, if no other worker has it."""
    with suppress(UserError):
        return lock_folder(folder, RUNNER)
    return None
