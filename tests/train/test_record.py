"""The record of a run: its contents, its folder, and how it says how the run ended."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL
from safetensors.torch import load_file

from r1.core import provenance
from r1.core.errors import CONFIG, LOCKED, REWARD, STORAGE, Interrupted, UserError
from r1.core.runs import new_run_dir, read_run
from r1.core.secrets import REDACTED
from r1.core.types import Config
from r1.run import execute, main
from r1.stage.training.base import TrainingStage
from r1.train.progress import Progress
from r1.train.record import Record

pytestmark = pytest.mark.slow

TRAINING = 16  # completions of one step: 4 prompts x 4
EVENT = "R1_TEST_EVENT"  # a signal's name, or FAIL: what the reward below does once, in the third step


def eventful(completion_ids: list[list[int]]) -> list[float]:
    """The share of low token ids, a reward with signal; in the third step it causes the event in ``EVENT``."""
    event = os.environ.get(EVENT, "")
    if event and len(completion_ids) == TRAINING:
        count = Path(os.environ["R1_TEST_COUNT"])
        count.write_text(f"{count.read_text() if count.exists() else ''}.")
        if len(count.read_text()) == 3:
            if event == "FAIL":
                raise RuntimeError("the judge is asleep")
            os.kill(os.getpid(), getattr(signal, event))
    return [sum(token < 305 for token in ids) / len(ids) for ids in completion_ids]


OVERRIDES = [
    "stage=grpo",
    *SMALL,
    "stage.group_size=4",
    "stage.micro_batch_size=4",
    "~reward.terms.accuracy",
    "~reward.terms.format",
    f"+reward.terms.eventful={{_target_: {__name__}.eventful, weight: 1.0}}",
    f"extensions=[{__name__}]",
    "checkpoint_every=1",
    "threads=1",
]


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def same_weights(a: Path, b: Path) -> bool:
    left, right = (load_file(folder / "model" / "model.safetensors") for folder in (a, b))
    return left.keys() == right.keys() and all(left[name].equal(right[name]) for name in left)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``cli("output_dir=...", ...)``: the exit code of ``python -m r1.run``, in this process."""

    def command(*overrides: str) -> int:
        monkeypatch.setattr("sys.argv", ["r1.run", *OVERRIDES, *overrides])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return command


@pytest.fixture
def happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """``happens("SIGTERM")``: this event occurs in the third step of the next run, once."""

    def event(name: str) -> None:
        monkeypatch.setenv(EVENT, name)
        monkeypatch.setenv("R1_TEST_COUNT", str(tmp_path / "count"))

    return event


@pytest.fixture(scope="module")
def finished(config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    execute(config(*OVERRIDES, f"output_dir={folder}"), [*OVERRIDES, f"output_dir={folder}"])
    return folder


# ---- contents ----


def test_manifest_of_finished_run_has_all_fields(finished: Path, config: Callable[..., Config]) -> None:
    recorded = manifest(finished)
    assert recorded["schema"] == 1
    assert recorded["status"] == "finished"
    assert recorded["error"] is None
    assert recorded["command"].startswith("python -m r1.run")
    assert recorded["overrides"] == [*OVERRIDES, f"output_dir={finished}"]
    assert recorded["seed"] == 0
    assert recorded["parents"] == []
    assert recorded["fingerprint"] == provenance.fingerprint(config(*OVERRIDES), recorded["data"], [])
    assert recorded["git"].keys() == {"commit", "dirty"}
    assert recorded["packages"].keys() >= {"python", "torch", "transformers", "lightning"}
    assert recorded["hardware"]["threads"] == 1
    assert recorded["wall_s"] > 0


@pytest.mark.parametrize("moment", ["start", "final"])
def test_manifest_metrics_have_interval_and_count(finished: Path, moment: str) -> None:
    metrics = manifest(finished)["metrics"][moment]
    assert metrics.keys() >= {"val/pass@1", "val/pass@2", "val/maj@2", "val/completion_length", "val/reward/eventful"}
    for metric in metrics.values():
        assert metric.keys() == {"value", "low", "high", "n"}
        assert metric["low"] <= metric["value"] <= metric["high"]
        assert metric["n"] == 4  # 2 prompts x 2 completions


def test_record_of_finished_run_has_all_files(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {"config.yaml", "overrides.yaml", "code.diff", "metrics.jsonl", "samples.jsonl", "model"}
    assert not list(finished.rglob("*.tmp.*"))
    steps = [row["step"] for row in read_run(str(finished)).metrics]
    assert steps == sorted(steps)
    assert set(steps) == set(range(7))
    samples = [json.loads(line) for line in (finished / "samples.jsonl").read_text().splitlines()]
    train = [sample for sample in samples if sample["split"] == "train"]
    assert len(train) == 6 * 4  # one group per step
    assert all(sample["rewards"].keys() == {"eventful"} and "advantage" in sample for sample in train)
    assert all(abs(sum(s["advantage"] for s in train[i : i + 4])) < 1e-4 for i in range(0, len(train), 4))
    val = [sample for sample in samples if sample["split"] == "val"]
    assert {sample["step"] for sample in val} == {0, 2, 4, 6}
    assert {"prompt", "answer", "completion", "correct", "truncated", "length", "reward", "rewards"} <= val[0].keys()
    assert {"answer", "truncated", "reward"} <= train[0].keys()


def test_recorded_config_runs_again_to_the_same_bits(finished: Path, folder: Path) -> None:
    execute(read_run(str(finished)).config | {"output_dir": str(folder)}, [])
    assert same_weights(finished, folder)
    assert manifest(folder)["fingerprint"] == manifest(finished)["fingerprint"]


# ---- its folder ----


def test_output_dir_is_the_record_and_is_printed_on_stdout(
    cli: Callable[..., int], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli(f"output_dir={folder}") == 0
    assert (folder / "manifest.json").is_file()
    assert capfd.readouterr().out == f"{folder}\n"


@pytest.mark.parametrize(("override", "name"), [("seed=0", "grpo"), ("name=mine", "mine")])
def test_output_dir_defaults_to_outputs_name_time(
    cli: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    override: str,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli(override) == 0
    folder = Path(capfd.readouterr().out.strip())
    assert folder.parent == tmp_path / "outputs" / name
    assert manifest(folder)["status"] == "finished"


def test_new_run_dir_within_one_second_is_unique(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {new_run_dir("x") for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.is_dir() for folder in folders)


def test_output_dir_with_a_run_raises_and_changes_nothing(
    cli: Callable[..., int], finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    assert cli(f"output_dir={finished}") == CONFIG
    assert "already holds a run" in capfd.readouterr().err
    assert {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("resume", ["resume=null", "resume=auto"])
def test_output_dir_locked_by_another_process_raises(
    cli: Callable[..., int], folder: Path, capfd: pytest.CaptureFixture[str], resume: str
) -> None:
    folder.mkdir()
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cli(f"output_dir={folder}", resume) == LOCKED == 75
    assert "another process" in capfd.readouterr().err
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_output_dir_that_cannot_be_created_raises(cli: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert cli(f"output_dir={tmp_path / 'file' / 'run'}") == STORAGE


@pytest.mark.parametrize(
    ("override", "change"),
    [
        ("stage.lr=1.0e-2", "stage.lr: 0.0003 -> 0.01"),
        ("seed=1", "seed: 0 -> 1"),
        ("rollout.temperature=0.5", "rollout.temperature: 1.0 -> 0.5"),
        ("data.seed=1", "data: other rows than before"),
    ],
)
def test_resume_with_another_config_or_data_raises(
    cli: Callable[..., int], finished: Path, capfd: pytest.CaptureFixture[str], override: str, change: str
) -> None:
    before = (finished / "manifest.json").read_bytes()
    assert cli(f"output_dir={finished}", "resume=auto", override) == CONFIG
    assert change in capfd.readouterr().err
    assert (finished / "manifest.json").read_bytes() == before


def test_resume_with_other_packages_warns(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = finished / "manifest.json"
    text = file.read_text()
    now = read_run(str(finished))
    file.write_text(text.replace(f'"torch": "{now.manifest["packages"]["torch"]}"', '"torch": "1.0"'))
    try:
        with Record(finished, now.config, [], "", now.manifest["data"], [], resume=True) as record:
            assert {name: metric.n for name, metric in record.start.items()} == dict.fromkeys(record.start, 4)
    finally:
        file.write_text(text)
    assert "warning: torch was 1.0 and is" in capfd.readouterr().err


# ---- how the run ended ----


def test_failed_run_is_recorded_and_can_be_resumed(
    cli: Callable[..., int],
    happens: Callable[[str], None],
    folder: Path,
    finished: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    happens("FAIL")
    assert cli(f"output_dir={folder}") == REWARD
    recorded = manifest(folder)
    assert recorded["status"] == "failed"
    assert "RuntimeError: the judge is asleep" in recorded["error"]
    assert recorded["metrics"]["start"] == manifest(finished)["metrics"]["start"]
    assert recorded["metrics"]["final"] == {}
    assert not list(folder.rglob("*.tmp.*"))
    assert not (folder / "model").exists()
    assert capfd.readouterr().out == ""
    assert cli(f"output_dir={folder}", "resume=auto") == 0
    assert manifest(folder)["error"] is None
    assert same_weights(folder, finished)


def test_unexpected_error_is_recorded(
    config: Callable[..., Config], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise ZeroDivisionError("of r1's own")

    monkeypatch.setattr(TrainingStage, "micro_batches", broken)
    monkeypatch.setattr("r1.stage.grpo.Grpo.micro_batches", broken)
    with pytest.raises(ZeroDivisionError):
        execute(config(*OVERRIDES, f"output_dir={folder}"), [])
    assert manifest(folder)["error"] == "ZeroDivisionError: of r1's own"


@pytest.mark.parametrize(("sweep", "code"), [("", 143), ("abc", 0)])
def test_sigterm_stops_after_the_step_and_resume_gives_the_same_bits(
    cli: Callable[..., int],
    happens: Callable[[str], None],
    folder: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    sweep: str,
    code: int,
) -> None:
    if sweep:
        monkeypatch.setenv("WANDB_SWEEP_ID", sweep)
    happens("SIGTERM")
    assert cli(f"output_dir={folder}") == code
    assert manifest(folder)["status"] == "interrupted"
    assert [path.name for path in (folder / "checkpoints").iterdir()][-1:] == ["step_000003"]
    assert cli(f"output_dir={folder}", "resume=auto") == 0
    assert same_weights(folder, finished)


@pytest.mark.parametrize("name", [pytest.param("SIGTERM", marks=pytest.mark.long), "SIGKILL"])
def test_killed_process_resumes_to_the_same_bits(
    happens: Callable[[str], None], config: Callable[..., Config], folder: Path, finished: Path, name: str
) -> None:
    happens(name)
    command = [sys.executable, "-m", "r1.run", *OVERRIDES, f"output_dir={folder}"]
    path = os.pathsep.join(sys.path)
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == (143 if name == "SIGTERM" else -9), done.stderr
    assert manifest(folder)["status"] == ("interrupted" if name == "SIGTERM" else "running")
    execute(config(*OVERRIDES, f"output_dir={folder}", "resume=auto"), [])
    assert same_weights(folder, finished)
    assert manifest(folder)["metrics"] == manifest(finished)["metrics"]
    for file in ("metrics.jsonl", "samples.jsonl"):
        assert (folder / file).read_bytes() == (finished / file).read_bytes()


def test_manifest_is_replaced_atomically(
    config: Callable[..., Config], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any moment a reader gets the old manifest or the new one."""
    statuses: list[str] = []
    original = Progress.on_validation_end

    def read_manifest(self: Progress, trainer: Any, module: Any) -> None:
        statuses.append(manifest(folder)["status"])
        original(self, trainer, module)

    def stopped(*args: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Progress, "on_validation_end", read_manifest)
    monkeypatch.setattr("r1.train.record.os.fsync", stopped)
    with pytest.raises(OSError, match="no space"):
        execute(config(*OVERRIDES, f"output_dir={folder}"), [])
    assert statuses == []
    assert not (folder / "manifest.json").exists()
    monkeypatch.undo()
    monkeypatch.setattr(Progress, "on_validation_end", read_manifest)
    execute(config(*OVERRIDES, f"output_dir={folder}"), [])
    assert set(statuses) == {"running"}
    assert len(statuses) == 4


def test_manifest_command_is_redacted_argument_by_argument(config: Callable[..., Config], folder: Path) -> None:
    command = shlex.join(["python", "-m", "r1.run", "x.api_key=it's all here", "stage.lr=1"])
    with Record(folder, config(*OVERRIDES), [], command, "data", [], resume=False):
        pass
    assert shlex.split(manifest(folder)["command"]) == ["python", "-m", "r1.run", f"x.api_key={REDACTED}", "stage.lr=1"]


def test_record_lock_is_released_at_the_end(finished: Path) -> None:
    now = read_run(str(finished))
    for _ in range(2):
        with (
            pytest.raises(Interrupted),
            Record(finished, now.config, [], "", now.manifest["data"], [], resume=True),
        ):
            raise Interrupted(signal.SIGINT)
        with pytest.raises(UserError, match="already holds"):
            Record(finished, now.config, [], "", now.manifest["data"], [], resume=False)
    assert manifest(finished)["status"] == "interrupted"
