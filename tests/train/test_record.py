"""The folder that every run leaves behind, however it ends."""

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

TRAINING = 16  # completions of one step: 4 prompts x 4
EVENT = "R1_TEST_EVENT"  # a signal's name, or FAIL: what the reward below does once, in the third step


def eventful(completion_ids: list[list[int]]) -> list[float]:
    """The share of low token ids, a reward with signal; and something happens in it."""
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
    """``happens("SIGTERM")``: the next run meets this in its third step, and never again."""

    def event(name: str) -> None:
        monkeypatch.setenv(EVENT, name)
        monkeypatch.setenv("R1_TEST_COUNT", str(tmp_path / "count"))

    return event


@pytest.fixture(scope="module")
def finished(config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    execute(config(*OVERRIDES, f"output_dir={folder}"), [*OVERRIDES, f"output_dir={folder}"])
    return folder


# ---- what a record holds ----


def test_the_manifest_of_a_finished_run(finished: Path, config: Callable[..., Config]) -> None:
    held = manifest(finished)
    assert held["schema"] == 1
    assert held["status"] == "finished"
    assert held["error"] is None
    assert held["command"].startswith("python -m r1.run")
    assert held["overrides"] == [*OVERRIDES, f"output_dir={finished}"]
    assert held["seed"] == 0
    assert held["parents"] == []
    assert held["fingerprint"] == provenance.fingerprint(config(*OVERRIDES), held["data"], [])
    assert held["git"].keys() == {"commit", "dirty"}
    assert held["packages"].keys() >= {"python", "torch", "transformers", "lightning"}
    assert held["hardware"]["threads"] == 1
    assert held["wall_s"] > 0


@pytest.mark.parametrize("moment", ["start", "final"])
def test_every_figure_has_an_interval_and_a_count(finished: Path, moment: str) -> None:
    figures = manifest(finished)["metrics"][moment]
    assert figures.keys() >= {"val/pass@1", "val/pass@2", "val/maj@2", "val/completion_length", "val/reward/eventful"}
    for figure in figures.values():
        assert figure.keys() == {"value", "low", "high", "n"}
        assert figure["low"] <= figure["value"] <= figure["high"]
        assert figure["n"] == 4  # 2 prompts x 2 completions


def test_the_other_files(finished: Path) -> None:
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
    held = [sample for sample in samples if sample["split"] == "val"]
    assert {sample["step"] for sample in held} == {0, 2, 4, 6}
    assert {"prompt", "answer", "completion", "correct", "truncated", "length", "rewards"} <= held[0].keys()


def test_a_recorded_config_runs_again_to_the_same_bits(finished: Path, folder: Path) -> None:
    execute(read_run(str(finished)).config | {"output_dir": str(folder)}, [])
    assert same_weights(finished, folder)
    assert manifest(folder)["fingerprint"] == manifest(finished)["fingerprint"]


# ---- where it lies ----


def test_output_dir_is_the_folder_itself_and_the_last_line_of_stdout(
    cli: Callable[..., int], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli(f"output_dir={folder}") == 0
    assert (folder / "manifest.json").is_file()
    assert capfd.readouterr().out == f"{folder}\n"


@pytest.mark.parametrize(("override", "name"), [("seed=0", "grpo"), ("name=mine", "mine")])
def test_by_default_outputs_name_time(
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


def test_two_runs_of_the_same_second_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {new_run_dir("x") for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.is_dir() for folder in folders)


def test_a_folder_that_holds_a_run_is_refused(
    cli: Callable[..., int], finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    assert cli(f"output_dir={finished}") == CONFIG
    assert "already holds a run" in capfd.readouterr().err
    assert {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("resume", ["resume=null", "resume=auto"])
def test_a_folder_that_another_process_writes_is_refused(
    cli: Callable[..., int], folder: Path, capfd: pytest.CaptureFixture[str], resume: str
) -> None:
    folder.mkdir()
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cli(f"output_dir={folder}", resume) == LOCKED == 75
    assert "another process" in capfd.readouterr().err
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made(cli: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert cli(f"output_dir={tmp_path / 'file' / 'run'}") == STORAGE


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stage.lr=1.0e-2", "stage.lr: 0.0003 -> 0.01"),
        ("seed=1", "seed: 0 -> 1"),
        ("rollout.temperature=0.5", "rollout.temperature: 1.0 -> 0.5"),
        ("data.seed=1", "data: not the same as then"),
    ],
)
def test_a_run_is_only_continued_as_it_was_begun(
    cli: Callable[..., int], finished: Path, capfd: pytest.CaptureFixture[str], override: str, told: str
) -> None:
    before = (finished / "manifest.json").read_bytes()
    assert cli(f"output_dir={finished}", "resume=auto", override) == CONFIG
    assert told in capfd.readouterr().err
    assert (finished / "manifest.json").read_bytes() == before


def test_other_packages_are_told_on_resume(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = finished / "manifest.json"
    whole = file.read_text()
    now = read_run(str(finished))
    file.write_text(whole.replace(f'"torch": "{now.manifest["packages"]["torch"]}"', '"torch": "1.0"'))
    try:
        with Record(finished, now.config, [], "", now.manifest["data"], [], resume=True) as record:
            assert {name: figure.n for name, figure in record.start.items()} == dict.fromkeys(record.start, 4)
    finally:
        file.write_text(whole)
    assert "warning: torch was 1.0 and is" in capfd.readouterr().err


# ---- how it ends ----


def test_a_run_that_fails_is_recorded_as_failed(
    cli: Callable[..., int],
    happens: Callable[[str], None],
    folder: Path,
    finished: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    happens("FAIL")
    assert cli(f"output_dir={folder}") == REWARD
    held = manifest(folder)
    assert held["status"] == "failed"
    assert "RuntimeError: the judge is asleep" in held["error"]
    assert held["metrics"]["start"] == manifest(finished)["metrics"]["start"]
    assert held["metrics"]["final"] == {}
    assert not list(folder.rglob("*.tmp.*"))
    assert not (folder / "model").exists()
    assert capfd.readouterr().out == ""
    assert cli(f"output_dir={folder}", "resume=auto") == 0
    assert manifest(folder)["error"] is None
    assert same_weights(folder, finished)


def test_an_error_of_r1s_own_is_recorded_too(
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
def test_sigterm_stops_after_the_step_and_the_run_goes_on_to_the_same_bits(
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
def test_a_real_process_that_is_killed_goes_on_to_the_same_bits(
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


def test_a_manifest_is_never_half_written(
    config: Callable[..., Config], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks at the manifest at any moment reads the old one or the new one."""
    seen: list[str] = []
    original = Progress.on_validation_end

    def look(self: Progress, trainer: Any, module: Any) -> None:
        seen.append(manifest(folder)["status"])
        original(self, trainer, module)

    def stopped(*args: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Progress, "on_validation_end", look)
    monkeypatch.setattr("r1.train.record.os.fsync", stopped)
    with pytest.raises(OSError, match="no space"):
        execute(config(*OVERRIDES, f"output_dir={folder}"), [])
    assert seen == []
    assert not (folder / "manifest.json").exists()
    monkeypatch.undo()
    monkeypatch.setattr(Progress, "on_validation_end", look)
    execute(config(*OVERRIDES, f"output_dir={folder}"), [])
    assert set(seen) == {"running"}
    assert len(seen) == 4


def test_each_word_of_the_command_is_redacted_by_itself(config: Callable[..., Config], folder: Path) -> None:
    command = shlex.join(["python", "-m", "r1.run", "x.api_key=it's all here", "stage.lr=1"])
    with Record(folder, config(*OVERRIDES), [], command, "data", [], resume=False):
        pass
    assert shlex.split(manifest(folder)["command"]) == ["python", "-m", "r1.run", f"x.api_key={REDACTED}", "stage.lr=1"]


def test_the_lock_goes_with_the_run(finished: Path) -> None:
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
