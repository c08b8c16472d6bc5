"""Who runs which point: limits, locks, what was left, what is retried, and what a folder holds already."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, TextIO

import pytest
import swept
from optuna.trial import TrialState
from swept import study, write

from r1.core.errors import STORAGE, UserError
from r1.experiment.sweep import storage
from r1.experiment.sweep.file import read_sweep
from r1.experiment.sweep.study import Study, SweepPoint

UNIFORM = {"x": {"min": 0.0, "max": 1.0}}
SECRET = "sk-" + "a1b2c3d4" * 4


JOURNAL = "journal.log"  # faster than SQLite


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TextIO]]:
    """The locks of the points that are taken, open until the test has ended."""
    monkeypatch.chdir(tmp_path)
    files: list[TextIO] = []
    monkeypatch.setattr(swept, "LOCKS", files)
    yield files
    for file in files:
        file.close()


def take(study: Study) -> SweepPoint:
    taken = study.take_point()
    assert taken
    swept.LOCKS.append(taken[1])
    return taken[0]


@pytest.mark.parametrize("place", [None, JOURNAL])
def test_study_hands_out_points_in_order_to_all_workers(tmp_path: Path, place: str | None) -> None:
    one, two = (study(tmp_path, place=place) for _ in range(2))
    taken = [take(one), take(two), take(one)]
    assert [point.values["x"] for point in taken] == [1, 2, 3]
    assert [point.folder.name for point in taken] == ["0000", "0001", "0002"]
    assert two.take_point() is None
    assert not two.is_complete()
    for point in taken:
        one.finish_point(point, 0.5)
    assert two.is_complete()
    assert [(point.status, point.value) for point in two.points()] == [("finished", 0.5)] * 3


def test_study_hands_out_the_points_of_a_killed_worker_again(tmp_path: Path, locks: list[TextIO]) -> None:
    one, two = study(tmp_path, place=JOURNAL), study(tmp_path, place=JOURNAL)
    first = take(one)
    assert take(two).number == 1
    locks[0].close()  # as the kernel does for a process that has died
    again = take(two)
    assert (again.number, again.folder) == (0, first.folder)
    assert take(one).number == 2


def test_study_limit_is_the_lowest_cap(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a random search does not end by itself"):
        study(tmp_path, method="random", parameters=UNIFORM)
    assert study(tmp_path, method="random", parameters=UNIFORM, run_cap=7, place=JOURNAL).limit == 7
    assert study(tmp_path, 5, method="random", parameters=UNIFORM, run_cap=7, place=JOURNAL).limit == 5
    assert study(tmp_path / "outputs", 5, place="b.log").limit == 3, "the grid's"


def test_study_runs_a_point_again_that_failed_for_the_disk(tmp_path: Path, locks: list[TextIO]) -> None:
    one = study(tmp_path, 2, place=JOURNAL)
    first, second = take(one), take(one)
    one.fail_point(first, "No space left on device", STORAGE)
    one.fail_point(second, "it broke", 3)
    for lock in locks:
        lock.close()
    two = study(tmp_path, 2, place=JOURNAL)
    assert not two.is_complete()
    assert take(two).folder == first.folder
    assert two.take_point() is None


def test_study_retries_failed_points_once_with_the_option(tmp_path: Path, locks: list[TextIO]) -> None:
    one = study(tmp_path, 1, place=JOURNAL)
    one.fail_point(take(one), "it broke", 3)
    locks[0].close()
    (point,) = one.points()
    assert (point.status, point.error, point.code) == ("failed", "it broke", 3)
    assert one.is_complete()
    again = study(tmp_path, 1, retry=True, place=JOURNAL)
    assert not again.is_complete()
    retried = take(again)
    assert (retried.number, retried.folder, retried.values) == (1, point.folder, point.values)
    again.fail_point(retried, "again", 3)
    assert again.take_point() is None
    assert [(point.number, point.error) for point in again.points()] == [(1, "again")]
    assert [trial.state for trial in again.optuna.trials] == [TrialState.FAIL] * 2


def test_random_search_is_the_same_in_every_worker(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"method": "random", "parameters": UNIFORM}
    for name in "ab":
        (tmp_path / name).mkdir()
    alone = study(tmp_path / "a", 4, place="a.log", **keys)
    expected = [take(alone).values["x"] for _ in range(4)]
    pair = [study(tmp_path / "b", 4, place="b.log", **keys) for _ in range(2)]
    assert [take(pair[i % 2]).values["x"] for i in range(4)] == expected
    assert len(set(expected)) == 4


def test_bayes_approaches_the_optimum(tmp_path: Path) -> None:
    """The best x is 0.7: after ten draws at random the proposals lie near it, and history alone decides them."""
    opened = study(tmp_path, 24, method="bayes", parameters=UNIFORM, place=JOURNAL)
    xs = []
    for _ in range(24):
        point = take(opened)
        xs.append(point.values["x"])
        opened.finish_point(point, -abs(xs[-1] - 0.7))
    early, late = (fmean(abs(x - 0.7) for x in part) for part in (xs[:10], xs[16:]))
    assert late < 0.7 * early
    assert [
        study(tmp_path, 25, method="bayes", parameters=UNIFORM, place=JOURNAL)._choose_values(24) for _ in range(2)
    ] == [opened._choose_values(24)] * 2


def test_report_history_adds_each_step_once(tmp_path: Path) -> None:
    opened = study(tmp_path, place=JOURNAL)
    point = take(opened)
    opened.report_history(point, {0: 0.1, 5: 0.2})
    opened.report_history(point, {0: 0.1, 5: 0.2, 10: 0.4})
    assert opened.points()[0].history == {0: 0.1, 5: 0.2, 10: 0.4}
    opened.prune_point(point)
    (trial,) = opened.optuna.trials
    assert (trial.state, trial.value) == (TrialState.PRUNED, 0.4)
    assert (opened.points()[0].status, opened.points()[0].value) == ("pruned", None)


def test_resume_rejects_a_different_file_but_not_a_higher_cap(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"method": "random", "parameters": UNIFORM}
    study(tmp_path, run_cap=2, **keys)
    assert study(tmp_path, run_cap=4, **keys).limit == 4
    copy = tmp_path / "outputs" / "sweeps" / "tried" / "sweep.yaml"
    assert "run_cap: 4" in copy.read_text()
    opened = study(tmp_path, run_cap=4, **keys)
    opened.finish_point(take(opened), 0.5)
    with pytest.raises(UserError, match="started with a different file") as caught:
        study(tmp_path, run_cap=4, method="random", parameters={"x": {"min": 0.0, "max": 2.0}})
    assert "parameters.x.max: 1.0 -> 2.0" in str(caught.value)
    assert "--name" in str(caught.value)


def test_resume_without_the_study_is_rejected(tmp_path: Path) -> None:
    place = f"sqlite:///{tmp_path}/mine.db"
    take(study(tmp_path, place=place))
    with pytest.raises(UserError, match="there is no study"):
        study(tmp_path)
    assert len(study(tmp_path, place=place).points()) == 1


def test_storage_url_rejects_storages_that_workers_cannot_share(tmp_path: Path) -> None:
    for option in ("mysql://root@host/x", "redis://x.log", "study.db"):
        with pytest.raises(UserError, match="SQLite or in a journal"):
            storage.storage_url(tmp_path, option)


@pytest.mark.parametrize(
    "keys",
    [
        {"parameters": {"x": {"value": SECRET}, "y": {"values": [1]}}},
        {"command": ["python", "-m", "r1.run", f"teacher.api_key={SECRET}", "${args_no_hyphens}"]},
        {"description": f"see https://me:{SECRET}@host"},
    ],
)
def test_sweep_file_with_a_secret_is_rejected_and_not_copied(tmp_path: Path, keys: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must not hold a secret") as caught:
        study(tmp_path, **keys)
    assert SECRET not in str(caught.value)
    assert not (tmp_path / "outputs").exists()
    file = write(tmp_path)
    file.write_text(f"{file.read_text()}# my key: {SECRET}\n")
    with pytest.raises(UserError, match="must not hold a secret"):
        storage.open_study(read_sweep(str(file)), tmp_path / "x", storage.storage_url(tmp_path / "x", None))


def test_open_study_reports_an_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(UserError, match="Not a directory") as caught:
        study(tmp_path)
    assert caught.value.code == STORAGE
