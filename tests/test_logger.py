"""Metrics besides the record: what each logger leaves on the disk, also when a run fails or goes on."""

from __future__ import annotations

import csv
import json
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from lightning.pytorch.loggers import Logger
from wandb.proto import wandb_internal_pb2

from r1 import logger
from r1.build import Config
from r1.errors import Interrupted
from r1.run import execute
from r1.runs import read
from r1.secrets import HIDDEN
from r1.stage.sft import Sft

BLOCK = 32768  # bytes, of a .wandb file


@pytest.fixture
def run(small: Callable[..., Config], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``run("logger=csv", ...)``: a short run; ``crash=2`` makes its second step fail."""

    def done(*overrides: str, crash: int | None = None, to: Path = folder) -> Path:
        def crashing(self: Sft, step: int) -> Any:
            if step + 1 == crash:
                raise RuntimeError("crash")
            return original(self, step)

        original = Sft.micro_batches
        with monkeypatch.context() as patch:
            patch.setattr(Sft, "micro_batches", crashing)
            execute(small("stage=sft", f"output_dir={to}", "checkpoint_every=1", *overrides), [])
        return to

    return done


# ---- csv ----


def csv_rows(folder: Path) -> list[dict[str, float]]:
    """Rows of metrics.csv without their empty cells."""
    with (folder / "csv" / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def recorded(folder: Path) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in row.items()} for row in read(str(folder)).metrics]


def test_csv_holds_what_the_record_holds(run: Callable[..., Path]) -> None:
    folder = run("logger=csv", "logger.flush_every=1000")
    assert csv_rows(folder) == recorded(folder)


def test_csv_of_a_run_that_failed_and_went_on(run: Callable[..., Path], folder: Path) -> None:
    with pytest.raises(RuntimeError, match="crash"):
        run("logger=csv", crash=4)
    assert {row["step"] for row in csv_rows(folder)} == {0, 1, 2, 3}
    run("logger=csv", "resume=auto")
    assert csv_rows(folder) == recorded(folder)
    assert {row["step"] for row in csv_rows(folder)} == {0, 1, 2, 3, 4, 5, 6}


# ---- tensorboard ----


def test_tensorboard_events_can_be_read(run: Callable[..., Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run("logger=tensorboard", "trainer.max_steps=3")
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    losses = [row["train/loss"] for row in read(str(folder)).metrics if "train/loss" in row]
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2, 3]
    assert [e.value for e in events.Scalars("train/loss")] == pytest.approx(losses)
    assert "val/pass@1" in events.Tags()["scalars"]


# ---- wandb ----


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file: blocks of (checksum, length, kind) and a piece of a record each."""
    data, position, piece = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = BLOCK - position % BLOCK
        _, length, kind = struct.unpack("<IHB", data[position : position + 7]) if left >= 7 else (0, 0, 0)
        if kind == 0:
            position += left
            continue
        chunk = data[position + 7 : position + 7 + length]
        position += 7 + length
        piece = chunk if kind in (1, 2) else piece + chunk
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(piece)


def wandb_runs(folder: Path) -> list[dict[str, Any]]:
    """Config, history and exit code of every W&B run below a folder, in order."""
    runs = []
    for file in sorted(folder.rglob("*.wandb"), key=lambda f: f.stat().st_mtime_ns):
        run: dict[str, Any] = {"config": {}, "history": [], "exit_code": None, "project": None}
        for record in wandb_records(file):
            match record.WhichOneof("record_type"):
                case "run":
                    run["project"] = record.run.project
                    run["config"] |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
                case "config":
                    run["config"] |= {u.key: json.loads(u.value_json) for u in record.config.update}
                case "history":
                    items = record.history.item
                    run["history"].append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items})
                case "exit":
                    run["exit_code"] = record.exit.exit_code
        runs.append(run)
    return runs


@pytest.fixture(autouse=True)
def without_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)


def test_two_runs_of_a_process_are_two_wandb_runs_and_the_failed_one_failed(
    run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["r1.run", "teacher.api_key=my-secret"])
    first = run("logger=wandb", "logger.project=mine", to=tmp_path / "first")
    with pytest.raises(RuntimeError, match="crash"):
        run("logger=wandb", "stage.lr=0.5", crash=2, to=tmp_path / "second")
    assert wandb.run is None
    assert sys.argv == ["r1.run", "teacher.api_key=my-secret"]
    (good,), (bad,) = wandb_runs(first), wandb_runs(tmp_path / "second")
    assert (good["exit_code"], bad["exit_code"]) == (0, 1)
    assert (good["project"], bad["project"]) == ("mine", "r1")
    assert good["config"]["stage.lr"] == 0.001
    assert bad["config"]["stage.lr"] == 0.5
    assert good["config"]["data.template._target_"] == "r1.data.template.chat.Chat"
    assert not any(isinstance(value, dict) for name, value in good["config"].items() if name != "_wandb")
    rows = [row for row in read(str(first)).metrics if "train/loss" in row]
    logged = [row for row in good["history"] if "train/loss" in row]
    assert [row["trainer/global_step"] for row in logged] == [row["step"] for row in rows]
    assert [row["train/loss"] for row in logged] == pytest.approx([row["train/loss"] for row in rows])
    assert len([row for row in bad["history"] if "train/loss" in row]) == 1


def test_an_interrupted_run_gives_wandb_its_exit_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(logger.Wandb, "close", lambda self, exit_code: codes.append(exit_code))
    quiet = logger.Wandb("name", folder, mode="disabled")
    for error in (Interrupted(15), RuntimeError(), KeyboardInterrupt()):
        with pytest.raises(type(error)), logger.closing(quiet):
            raise error
    with logger.closing(quiet):
        pass
    monkeypatch.setenv("WANDB_SWEEP_ID", "x")
    with pytest.raises(Interrupted), logger.closing(quiet):
        raise Interrupted(15)
    assert codes == [143, 1, 1, 0, 0]


def test_wandb_that_cannot_be_reached_does_not_stop_a_run(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    original = wandb.init

    def unreachable(**kwargs: Any) -> Any:
        asked.append(kwargs["mode"])
        if kwargs["mode"] == "online":
            raise wandb.errors.CommError("no route to host with token=my-secret")
        return original(**kwargs)

    monkeypatch.setattr(wandb, "init", unreachable)
    folder = run("logger=wandb", "logger.mode=online", "trainer.max_steps=1")
    assert asked == ["online", "offline"]
    err = capfd.readouterr().err
    assert err.count("warning: W&B cannot be reached") == 1
    assert "my-secret" not in err
    assert HIDDEN in err
    assert wandb_runs(folder)[0]["exit_code"] == 0


def test_wandb_that_breaks_does_not_stop_a_run(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def log(self, *args: Any, **kwargs: Any) -> None:
            raise ConnectionError("gone")

        finish = log

    broken = logger.Wandb("name", folder, experiment=Broken())  # type: ignore[arg-type]
    with logger.closing(broken):
        broken.log_metrics({"a": 1.0}, step=1)
        broken.log_metrics({"a": 2.0}, step=2)
    assert capfd.readouterr().err == "warning: W&B does not take metrics: gone\n"


@pytest.mark.parametrize(
    ("mode", "environment", "expected"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "x"}, "online"),
        ("auto", {"WANDB_SWEEP_ID": "x"}, "online"),
        ("auto", {"WANDB_API_KEY": "x", "WANDB_MODE": "disabled"}, "disabled"),
        ("online", {"WANDB_MODE": "offline"}, "online"),
        ("disabled", {"WANDB_API_KEY": "x"}, "disabled"),
    ],
)
def test_what_auto_means(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mode: Any, environment: dict[str, str], expected: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    made: Any = logger.wandb(
        folder, {"a": {"b": 1}}, project="p", entity=None, group="g", name="n", tags=["t"], mode=mode
    )
    held = made._wandb_init
    assert held["mode"] == expected
    assert held["config"] == {"a.b": 1}
    assert (held["project"], held["group"], held["name"], held["tags"]) == ("p", "g", "n", ["t"])
    assert held["dir"] == str(folder)


def test_any_other_logger_is_told_how_the_run_ended() -> None:
    told: list[str] = []

    class Mine(Logger):
        name, version = "mine", "0"

        def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

        def finalize(self, status: str) -> None:
            told.append(status)

    with logger.closing(Mine()):
        pass
    with pytest.raises(RuntimeError), logger.closing(Mine()):
        raise RuntimeError
    assert told == ["success", "failed"]
