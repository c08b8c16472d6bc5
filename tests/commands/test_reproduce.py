"""python -m r1.reproduce: again from the record, and every value compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from r1 import reproduce
from r1.core.errors import DATA
from r1.core.runs import read_run
from r1.core.types import Config
from r1.run import execute


@pytest.fixture(scope="module")
def finished(small: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce") / "run"
    execute(small("stage=sft", f"output_dir={folder}", "trainer.max_steps=2", "name=mine", "threads=1"), [])
    return folder


@pytest.fixture
def run(finished: Path, folder: Path) -> Path:
    """A copy of a finished run, free to be changed."""
    shutil.copytree(finished, folder)
    return folder


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``cli(run)``: exit code, stdout and stderr of ``python -m r1.reproduce``."""

    def command(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["r1.reproduce", *map(str, args)])
        try:
            reproduce.main()
        except SystemExit as stop:
            return int(stop.code or 0), *capfd.readouterr()
        return 0, *capfd.readouterr()

    return command


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_reproduce_equal_run_exits_0(run: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = cli(run)
    assert code == 0
    *_, verdict, where = out.splitlines()
    rows = read_run(str(run)).metrics
    assert verdict == f"{sum(len(row) - 1 for row in rows)} values in {len(rows)} rows: all equal"
    assert where == f"{run}-again"
    again = read_run(where)
    assert again.metrics == rows
    assert again.manifest["fingerprint"] == read_run(str(run)).manifest["fingerprint"]
    assert "note:" not in out


def test_reproduce_compares_start_best_and_fingerprint(
    run: Path, cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    manifest = read_run(str(run)).manifest
    manifest["metrics"]["start"]["val/pass@1"]["value"] = 0.987
    manifest["best"] = {"step": 1, "value": 0.5}
    manifest["fingerprint"] = "f" * 64
    (run / "manifest.json").write_text(json.dumps(manifest))
    code, out, _ = cli(run, "--output-dir", tmp_path / "there")
    assert code == 1
    for line in ("start  val/pass@1: ", "manifest  best: ", 'manifest  fingerprint: "fff'):
        assert line in out
    assert "rows: 3 differ" in out


def test_reproduce_lists_changed_values(run: Path, cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    rows = read_run(str(run)).metrics
    index = next(i for i, row in enumerate(rows) if "train/loss" in row)
    loss = rows[index]["train/loss"]
    change(run / "metrics.jsonl", f'"train/loss": {loss}', '"train/loss": 1.5')
    manifest = read_run(str(run)).manifest
    manifest["metrics"]["final"]["val/pass@1"]["low"] = 0.25
    (run / "manifest.json").write_text(json.dumps(manifest))
    code, out, _ = cli(run, "--output-dir", tmp_path / "there")
    assert code == 1
    assert f"step 1  train/loss: 1.5 -> {loss}" in out
    assert "final  val/pass@1: " in out
    assert "rows: 2 differ" in out
    assert out.splitlines()[-1] == str(tmp_path / "there")


def test_reproduce_changed_config_exits_1(run: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    change(run / "config.yaml", "lr: 0.001", "lr: 0.002")
    code, out, _ = cli(run)
    assert code == 1
    assert "train/lr" in out


def test_reproduce_notes_changed_environment(run: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    manifest = read_run(str(run)).manifest
    manifest["packages"]["torch"], manifest["code"] = "1.0", "x"
    (run / "manifest.json").write_text(json.dumps(manifest))
    code, out, _ = cli(run)
    assert code == 0
    assert "note: torch was 1.0 and is" in out
    assert "note: the code has changed since" in out


@pytest.mark.parametrize("metrics", [[{"step": 1, "a": float("nan")}], [{"step": 1, "a": 0.1}, {"step": 2}]])
def test_compare_metrics_nan_equals_nan(run: Path, metrics: list[dict[str, float]]) -> None:
    then, now = read_run(str(run)), read_run(str(run))
    then.metrics[:], now.metrics[:] = json.loads(json.dumps(metrics)), json.loads(json.dumps(metrics))
    assert reproduce.compare_metrics(then, now) == []
    now.metrics[0]["b"] = 1.0
    assert reproduce.compare_metrics(then, now) == ["step 1  b: null -> 1.0"]
    now.metrics.append({"step": 3})
    assert "rows then" in reproduce.compare_metrics(then, now)[0]


def test_reproduce_notes_interrupted_run(run: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    change(run / "manifest.json", '"status": "finished"', '"status": "interrupted"')
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:9])
    code, out, _ = cli(run)
    assert code == 1
    assert "note: the run is interrupted" in out
    assert f"metrics.jsonl: 2 rows then, {len(lines)} now" in out


def test_reproduce_redacted_config_raises(run: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    change(run / "config.yaml", "name: mine", "name: <redacted>")
    code, _, err = cli(run)
    assert code == 2
    assert "redacted" in err
    assert "environment variable" in err


def test_reproduce_without_a_run_exits_3(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = cli(tmp_path)
    assert code == DATA
    assert "manifest.json" in err
