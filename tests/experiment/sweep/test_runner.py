"""Sweeps whose runs are stand-ins: starting, stopping, killing and resuming them, and the printed lines."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from swept import COMMAND, FAKE, start, starts, study, wait_until, write

from r1 import sweep as __main__
from r1.distributed import process
from r1.experiment.sweep import runner
from r1.experiment.sweep.runner import is_pipeline
from r1.experiment.sweep.study import SweepPoint

HOLD: dict[str, Any] = {"command": [*COMMAND[:-1], "hold=true", COMMAND[-1]], "parameters": {"x": {"values": [1, 2]}}}
Go = Callable[..., tuple[int, str]]


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Go:
    """``go("--count", "2", parameters=...)``: the command in this process; its exit code and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "RUN", FAKE)
    monkeypatch.setattr(runner, "READ_RECORDS_S", 0.02)
    monkeypatch.setenv("COLUMNS", "200")

    def ran(*argv: str, **keys: Any) -> tuple[int, str]:
        write(tmp_path, **keys)
        monkeypatch.setattr(sys, "argv", ["r1.sweep", "tried.yaml", "--storage", "tried.log", *argv])
        code = 0
        try:
            __main__.main()  # returns after a success
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, capsys.readouterr().err

    return ran


def points(folder: Path) -> list[SweepPoint]:
    keys = yaml.safe_load((folder / "tried.yaml").read_text())
    return study(folder, 99, place="tried.log", **keys).points()


def shown(point: SweepPoint) -> tuple[Any, ...]:
    return (point.values["x"], point.status, point.value)


def test_sweep_runs_all_points_and_prints_the_best(go: Go, tmp_path: Path) -> None:
    code, err = go("--workers", "2")
    assert code == 0
    assert sorted(starts(tmp_path)) == ["0000", "0001", "0002"]
    assert [shown(point) for point in points(tmp_path)] == [(x, "finished", float(x)) for x in (1, 2, 3)]
    assert [point.history[2] for point in points(tmp_path)] == pytest.approx([0.3, 0.6, 0.9])
    assert "r1  0002  finished after 0:00, val/pass@1 3: x=3\n" in err
    assert "best: val/pass@1 3: x=3\nr1  again: python -m r1.run x=3\n" in err
    log = tmp_path / "outputs" / "sweeps" / "tried" / "runs" / "0001" / "output.log"
    assert log.read_text() == "hello from 0001 tried\n"
    code, err = go()
    assert (code, len(starts(tmp_path))) == (0, 3)
    assert "grid, 3 points, 3 of them done" in err


def test_point_whose_record_is_gone_runs_again(go: Go, tmp_path: Path) -> None:
    go()
    runs = tmp_path / "outputs" / "sweeps" / "tried" / "runs"
    shutil.rmtree(runs / "0001")
    (runs / "0002" / "manifest.json").unlink()
    code, _ = go()
    assert (code, starts(tmp_path)[3:]) == (0, ["0001", "0002+"])
    assert [shown(point) for point in points(tmp_path)] == [(x, "finished", float(x)) for x in (1, 2, 3)]
    assert (runs / "0001" / "manifest.json").is_file()
    go()
    assert len(starts(tmp_path)) == 5


def test_failed_point_does_not_end_the_sweep(go: Go, tmp_path: Path) -> None:
    keys = {"parameters": {"fail": {"values": [True, False]}, "x": {"value": 1}}}
    code, err = go(**keys)
    assert code == 0
    assert [(point.status, point.error, point.code) for point in points(tmp_path)] == [
        ("failed", "it broke", 3),
        ("finished", "", 1),
    ]
    assert "0000 failed: it broke; see outputs/sweeps/tried/runs/0000/output.log" in err
    assert starts(tmp_path) == ["0000", "0001"]
    go(**keys)
    assert starts(tmp_path) == ["0000", "0001"], "a failed one stays failed"
    go("--retry-failed", **keys)
    assert starts(tmp_path) == ["0000", "0001", "0000"]


def test_sweep_fails_if_all_points_fail(go: Go, tmp_path: Path) -> None:
    code, err = go(command=[*COMMAND[:-1], "fail=true", COMMAND[-1]])
    assert code == 3
    assert "best:" not in err
    assert [point.status for point in points(tmp_path)] == ["failed"] * 3
    code, err = go()
    assert code == 0, "the corrected file needs no other name: nothing is lost"
    assert "no point of outputs/sweeps/tried has made a step" in err
    assert [shown(point) for point in points(tmp_path)] == [(x, "finished", float(x)) for x in (1, 2, 3)]
    code, err = go(command=[*COMMAND[:-1], "fail=true", COMMAND[-1]])
    assert code == 2
    assert "started with a different file" in err


def test_run_without_the_metric_is_failed(go: Go, tmp_path: Path) -> None:
    go("--count", "1", command=[*COMMAND[:-1], "figure=none", COMMAND[-1]])
    (point,) = points(tmp_path)
    assert (point.status, point.error) == ("failed", "the run has finished without a finite val/pass@1")


def test_seeds_are_averaged_per_setting(go: Go) -> None:
    keys = {"parameters": {"x": {"values": [1, 2]}, "seed": {"values": [0, 1, 2]}}}
    code, err = go("--workers", "3", **keys)
    assert code == 0
    # 2.0, 2.1, 2.2: mean 2.1, half 4.303 * 0.1 / sqrt(3) = 0.248
    assert "best: val/pass@1 2.100 (1.852 to 2.348) over 3 seeds: x=2\n" in err
    assert "again: python -m r1.run -m x=2 seed=0,1,2\n" in err


def test_hyperband_stops_a_losing_run(go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = {"type": "hyperband", "min_iter": 2, "eta": 2}
    keys = {"parameters": {"x": {"values": [3, 2, 1]}, "delay": {"value": 0.1}, "length": {"value": 6}}}
    code, err = go(early_terminate=rule, **keys)
    assert code == 0
    by_number = points(tmp_path)
    # alone, the first continues. The second: at 2 values 0.6 and 0.4; int(2 / 2) = 1: the threshold is 0.4, not missed;
    # at 4 values 0.8 misses nothing either. The third: 0.6 0.4 0.2; int(3 / 2) = 1: the threshold is 0.4, missed
    assert [point.status for point in by_number] == ["finished", "finished", "pruned"]
    assert 2 <= len(by_number[2].history) < 6
    assert "0002  pruned after 0:0" in err
    step, value = max(by_number[2].history.items())
    assert f"{value:.4g} at step {step}" in err
    assert '"interrupted"' in (by_number[2].folder / "manifest.json").read_text()


def test_run_that_ignores_sigterm_is_killed(go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "KILL_DELAY_S", 0.3)
    rule = {"type": "hyperband", "min_iter": 1, "eta": 3}
    deaf = {"deaf": {"value": True}, "delay": {"value": 0.1}, "length": {"value": 30}}
    go("--workers", "2", "--count", "2", early_terminate=rule, parameters={"x": {"values": [3, 1]}} | deaf, run_cap=2)
    statuses = [point.status for point in points(tmp_path)]
    assert statuses[1] == "pruned"
    assert len(points(tmp_path)[1].history) < 30


def test_signal_stops_the_runs_and_the_same_command_resumes(tmp_path: Path) -> None:
    first = start(tmp_path, "--workers", "2", **HOLD)
    wait_until(lambda: [rows(tmp_path, number) for number in (0, 1)] == [2, 2])
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 143
    assert "0000  interrupted after" in err
    (tmp_path / "go").touch()
    second = start(tmp_path, "--workers", "2", **HOLD)
    out, err = second.communicate(timeout=60)
    assert (second.returncode, out) == (0, "outputs/sweeps/tried\n")
    assert "0000  resumes: x=1" in err
    assert sorted(starts(tmp_path)) == ["0000", "0000+", "0001", "0001+"]


def test_killed_worker_kills_its_run_and_another_worker_resumes_it(tmp_path: Path) -> None:
    first = start(tmp_path, **HOLD)
    wait_until(lambda: rows(tmp_path, 0) == 2)
    second = start(tmp_path, **HOLD)
    wait_until(lambda: rows(tmp_path, 1) == 2)
    first.kill()
    first.communicate()
    wait_until(lambda: not running(tmp_path, 0))
    assert running(tmp_path, 1)
    (tmp_path / "go").touch()
    _, err = second.communicate(timeout=60)
    assert second.returncode == 0
    assert "0000  resumes: x=1" in err
    assert starts(tmp_path) == ["0000", "0001", "0000+"]
    assert rows(tmp_path, 0) == 3, "from where it was, not from the start"


def rows(folder: Path, number: int) -> int:
    file = folder / "outputs" / "sweeps" / "tried" / "runs" / f"{number:04}" / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.is_file() else 0


def running(folder: Path, number: int) -> bool:
    """Whether a process that was started for a record is alive."""
    place = f"output_dir=outputs/sweeps/tried/runs/{number:04}".encode()
    here = [file.parent for file in Path("/proc").glob("[0-9]*/cmdline") if place in read_bytes(file)]
    return any(folder == (process / "cwd").resolve() for process in here)


def read_bytes(file: Path) -> bytes:
    """Empty for a process that has just ended."""
    with suppress(OSError):
        return file.read_bytes()
    return b""


@pytest.mark.parametrize(("text", "message"), [("x=1", "`x` is given twice"), ("experiment=r1_zeros", "r1_zero")])
def test_error_of_every_point_is_reported_before_the_first_run(go: Go, text: str, message: str) -> None:
    code, err = go(command=[*COMMAND[:-1], text, COMMAND[-1]])
    assert code == 2
    assert message in err
    assert not Path("outputs").exists()


def test_is_pipeline() -> None:
    assert not is_pipeline(["stage=grpo", "stage.lr=1"])
    assert not is_pipeline(["experiment=tiny_base"])
    assert is_pipeline(["experiment=r1_zero", "steps.rl.stage.group_size=4"])


def test_sweep_name_must_be_a_folder_name(go: Go) -> None:
    code, err = go("--name", "../x")
    assert code == 2
    assert "a sweep's name is also a folder's" in err
    code, err = go("--name", "other", "--count", "1")
    assert Path("outputs/sweeps/other/runs/0000").is_dir()


def test_missing_optuna_raises_with_install_hint(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(__main__, "find_spec", lambda name: None)
    code, err = go()
    assert code == 2
    assert "pip install -e '.[optuna]'" in err
