"""Loggers: the files that each writes, also when a run fails and is resumed."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import Logger

from r1.core.errors import Interrupted
from r1.core.runs import read_run
from r1.core.types import Config
from r1.logger.base import RunLogger, closing
from r1.run import execute
from r1.stage.sft import Sft


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
    return [{name: float(value) for name, value in row.items()} for row in read_run(str(folder)).metrics]


def test_csv_logger_has_the_rows_of_the_record(run: Callable[..., Path]) -> None:
    folder = run("logger=csv", "logger.flush_every=1000")
    assert csv_rows(folder) == recorded(folder)


def test_csv_logger_of_resumed_run_has_the_rows_of_the_record(run: Callable[..., Path], folder: Path) -> None:
    with pytest.raises(RuntimeError, match="crash"):
        run("logger=csv", crash=4)
    assert {row["step"] for row in csv_rows(folder)} == {0, 1, 2, 3}
    run("logger=csv", "resume=auto")
    assert csv_rows(folder) == recorded(folder)
    assert {row["step"] for row in csv_rows(folder)} == {0, 1, 2, 3, 4, 5, 6}


# ---- tensorboard ----


def test_tensorboard_logger_writes_readable_events(run: Callable[..., Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run("logger=tensorboard", "trainer.max_steps=3")
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    losses = [row["train/loss"] for row in read_run(str(folder)).metrics if "train/loss" in row]
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2, 3]
    assert [e.value for e in events.Scalars("train/loss")] == pytest.approx(losses)
    assert "val/pass@1" in events.Tags()["scalars"]


# ---- how a run ended ----


class RecordingLogger(Logger):
    name, version = "recording", "0"

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def finalize(self, status: str) -> None:
        self.calls.append(status)


class RecordingRunLogger(RecordingLogger, RunLogger):
    def close(self, exit_code: int, error: BaseException | None) -> None:
        self.calls.append((exit_code, error))


def test_closing_finalizes_any_logger_with_the_status() -> None:
    logger = RecordingLogger()
    with closing(logger):
        pass
    with pytest.raises(RuntimeError), closing(logger):
        raise RuntimeError
    assert logger.calls == ["success", "failed"]


def test_closing_passes_the_exit_code_to_a_run_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    logger = RecordingRunLogger()
    errors = Interrupted(15), RuntimeError(), KeyboardInterrupt()
    for error in errors:
        with pytest.raises(type(error)), closing(logger):
            raise error
    with closing(logger):
        pass
    monkeypatch.setenv("WANDB_SWEEP_ID", "x")
    with pytest.raises(Interrupted), closing(logger):
        raise errors[0]
    codes = [call for call in logger.calls if not isinstance(call, str)]
    assert codes == [(143, errors[0]), (1, errors[1]), (1, errors[2]), (0, None), (0, errors[0])]
