"""An interrupted and resumed run ends like an uninterrupted one: the same weights, bit for bit, and the same record."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import low_ids
from safetensors.torch import load_file
from suites import long_but

from r1.core.errors import STORAGE, Interrupted, UserError
from r1.core.paths import ASSETS
from r1.distributed.collectives import RankGroup
from r1.run import execute
from r1.stage.base import Stage
from r1.stage.training.base import TrainingStage
from r1.train import checkpoint_files
from r1.train.checkpoint import Checkpoints
from r1.train.run_state import RunState

pytestmark = pytest.mark.slow

Runner = Callable[..., Path]
MIXTURE = [
    "data=mixture",
    "+data@data.parts.maths=arithmetic",
    "+data@data.parts.open=tiny_open",
    *(f"data.parts.{part}.{key}" for part in ("maths", "open") for key in ("num_train=32", "num_val=4")),
    "data.parts.open.terms=[low_ids,self]",
]
RUNS = {
    "grpo": ["stage=grpo", "stage.num_iterations=2", "stage.kl_coef=0.01"],
    "tokens": ["stage=grpo", "stage.num_iterations=2", "budget=tokens", "stage.total_tokens=200"],  # ends at step 4
    "minibatches": ["stage=grpo", "stage.steps_per_rollout=3", "stage.lr=0.01"],
    "entropy": ["stage=grpo", "stage.entropy_target=0.5", "stage.entropy_coef=0.1", "stage.entropy_coef_delta=0.05"],
    "callbacks": [  # early stopping at step 4; the user's callback logs and counts
        "stage=sft",
        "stage.schedule=constant",
        "stage.warmup_steps=0",
        "callbacks=early_stopping",
        "callbacks.early_stopping.monitor=train/lr",
        "callbacks.early_stopping.patience=1",
        f"extensions=[{low_ids.__module__},usercallbacks]",
        "+callbacks.counting._target_=usercallbacks.Counting",
    ],
    "by_tokens": ["stage=grpo", "stage.num_iterations=2", "stage.micro_batch_size=null", "stage.micro_batch_tokens=40"],
    "sft": ["stage=sft", "stage.warmup_steps=2"],
    "muon": ["stage=sft", "stage/optimizer=muon", "stage.optimizer.matrix_lr=0.02"],
    "reward_model": ["stage=reward_model", "data=tiny_open", "stage.micro_batch_size=2"],
    "mixture": [
        "stage=grpo",
        *MIXTURE,
        "+reward/terms@reward.terms.self=self_judge",
        "reward.terms.self.engine.max_completion_length=6",
    ],
    "dropout": ["stage=sft", "+model/lora=default", "model.lora.dropout=0.5"],
}


class Crash(Exception):
    """Simulates a power cut: r1 does not catch it."""


def crash(*_: Any) -> None:
    raise Crash


@pytest.fixture(scope="module")
def run(small: Callable[..., dict[str, Any]]) -> Runner:
    """``run("grpo", folder, ...)``: a run of 6 steps into that folder, a checkpoint after each."""

    def runner(kind: str, folder: Path, *overrides: str) -> Path:
        execute(small(*RUNS[kind], "checkpoint_every=1", f"output_dir={folder}", *overrides), [])
        return folder

    return runner


@pytest.fixture(scope="module")
def uninterrupted(run: Runner, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """``uninterrupted("grpo", 2)``: the folder of such a run, validated every 2 steps."""
    base = tmp_path_factory.mktemp("uninterrupted")

    def once(kind: str, every: int) -> Path:
        folder = base / f"{kind}_{every}"
        return folder if folder.exists() else run(kind, folder, f"val.every={every}")

    return once


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send this process a SIGTERM while ``step`` is being trained, once."""
    original, sent = TrainingStage.configure_gradient_clipping, []

    def signalling(self: TrainingStage, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self.trainer.global_step + 1 == step and not sent:
            sent.append(step)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TrainingStage, "configure_gradient_clipping", signalling)


def crash_in(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Raise in the middle of ``step``, once."""
    original, crashed = TrainingStage.configure_gradient_clipping, []

    def crashing(self: TrainingStage, *args: Any, **kwargs: Any) -> None:
        if self.trainer.global_step + 1 == step and not crashed:
            crashed.append(step)
            raise Crash
        original(self, *args, **kwargs)

    monkeypatch.setattr(TrainingStage, "configure_gradient_clipping", crashing)


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def assert_same_record(a: Path, b: Path) -> None:
    left, right = (load_file(f / "model" / "model.safetensors") for f in (a, b))
    assert left.keys() == right.keys()
    assert all(left[name].equal(right[name]) for name in left)
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (a / name).read_text() == (b / name).read_text()
    first, second = manifest(a), manifest(b)
    assert first["status"] == second["status"] == "finished"
    assert first["metrics"] == second["metrics"]
    assert first["metrics"]["final"]


@pytest.mark.parametrize(("kind", "every"), [*((kind, 2) for kind in RUNS), ("grpo", 3), ("grpo", 4), ("sft", 3)])
def test_stopped_run_resumes_to_the_same_bits(
    run: Runner, uninterrupted: Runner, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, every: int
) -> None:
    expected = uninterrupted(kind, every)
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted, match="SIGTERM"):
        run(kind, folder, f"val.every={every}")
    assert manifest(folder)["status"] == "interrupted"
    assert_same_record(expected, run(kind, folder, f"val.every={every}", "resume=auto"))


def test_run_stopped_in_last_step_validates_after_resume(
    run: Runner, uninterrupted: Runner, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = uninterrupted("grpo", 4)
    stop_after(monkeypatch, 6)
    with pytest.raises(Interrupted):
        run("grpo", folder, "val.every=4")
    assert_same_record(expected, run("grpo", folder, "val.every=4", "resume=auto"))


def test_handle_signal_exits_on_second_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    checkpoints = Checkpoints(RunState(Path()), RankGroup(), 1, 1, 2, False, False)
    checkpoints.handle_signal(signal.SIGTERM, None)
    assert (checkpoints.stop_signal, codes) == (signal.SIGTERM, [])
    checkpoints.handle_signal(signal.SIGTERM, None)
    assert codes == []  # within a second: a cluster and a launcher have both sent it
    checkpoints.handle_signal(signal.SIGINT, None)
    assert codes == [130]


CRASHED = [kind for kind in RUNS if kind not in ("mixture", "tokens", "callbacks")]
CRASHES = [(kind, step) for kind in CRASHED for step in (1, 4, 6)]  # before a checkpoint, right after it, long after it
DEFAULT = [(kind, step) for kind, step in CRASHES if step == 4 or kind == "grpo"]


@pytest.mark.parametrize(("kind", "step"), long_but(DEFAULT, CRASHES))
def test_crashed_run_resumes_to_the_same_bits(
    run: Runner, uninterrupted: Runner, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, step: int
) -> None:
    expected = uninterrupted(kind, 2)
    crash_in(monkeypatch, step)
    with pytest.raises(Crash):
        run(kind, folder, "checkpoint_every=3")
    assert manifest(folder)["status"] == "failed"
    assert_same_record(expected, run(kind, folder, "checkpoint_every=3", "resume=auto"))


@pytest.mark.parametrize("moment", ["its step", "its validation", "the export"])
def test_run_killed_where_early_stopping_ends_it_does_not_train_on(
    run: Runner, uninterrupted: Runner, folder: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    expected = uninterrupted("callbacks", 2)
    assert manifest(expected)["metrics"]["final"]
    assert json.loads((expected / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 4
    if moment == "its step":
        crash_in(monkeypatch, 4)
    elif moment == "its validation":
        stop_after(monkeypatch, 4)
    else:
        monkeypatch.setattr(Stage, "export_policy", crash)
    with pytest.raises((Crash, Interrupted)):
        run("callbacks", folder, "checkpoint_every=3", "keep_best=false")
    monkeypatch.undo()
    assert_same_record(expected, run("callbacks", folder, "checkpoint_every=3", "keep_best=false", "resume=auto"))


@pytest.mark.parametrize("kind", ["grpo", "tokens"])
def test_finished_run_resumed_changes_nothing(run: Runner, folder: Path, kind: str) -> None:
    run(kind, folder)
    names = ["metrics.jsonl", "samples.jsonl", "model/model.safetensors"]
    files, metrics = {name: (folder / name).read_bytes() for name in names}, manifest(folder)["metrics"]
    run(kind, folder, "resume=auto")
    assert {name: (folder / name).read_bytes() for name in names} == files
    assert manifest(folder)["metrics"] == metrics


# ---- extended runs ----

SHORT = {  # budgets of a run that is extended to that of RUNS
    "grpo": ["trainer.max_steps=4"],
    "tokens": ["stage.total_tokens=100"],
    "minibatches": ["trainer.max_steps=4"],  # between two minibatches
    "entropy": ["trainer.max_steps=3"],  # its last validation is off the schedule
    "sft": ["trainer.max_steps=2", "stage.schedule=constant"],
    "muon": ["trainer.max_steps=5", "stage.schedule=constant"],
    "reward_model": ["trainer.max_steps=3", "stage.schedule=constant"],
}


@pytest.mark.parametrize("kind", long_but(("grpo", "tokens", "minibatches", "sft"), SHORT))
def test_extended_run_equals_one_with_the_budget_from_the_start(run: Runner, folder: Path, kind: str) -> None:
    budget, *others = SHORT[kind]
    key = budget.partition("=")[0]
    full = next((text for text in RUNS[kind] if text.startswith(key)), "trainer.max_steps=6")
    common = [*others, "checkpoint_every=100", "val.every=2"]
    expected = run(kind, folder.with_name("straight"), full, *common)
    run(kind, folder, budget, *common)
    assert manifest(folder)["fingerprint"] != manifest(expected)["fingerprint"]
    run(kind, folder, full, *common, "resume=auto")
    assert_same_record(expected, folder)
    assert manifest(folder)["fingerprint"] == manifest(expected)["fingerprint"]
    assert manifest(folder)["best"] == manifest(expected)["best"]


def test_wsd_run_stopped_before_its_decay_is_extended_to_the_same_bits(
    run: Runner, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint has the rate of the next step: 2/3 of the peak with 6 steps, the peak with 9."""
    options = ["stage.schedule=wsd", "stage.decay_steps=3", "val.every=3"]
    expected = run("sft", folder.with_name("straight"), *options, "trainer.max_steps=9")
    stop_after(monkeypatch, 4)
    with pytest.raises(Interrupted):
        run("sft", folder, *options)
    assert_same_record(expected, run("sft", folder, *options, "trainer.max_steps=9", "resume=auto"))


# ---- what a run starts from ----


@pytest.mark.parametrize("resume", ["null", "auto"])
def test_corrected_command_starts_again_in_the_folder_of_a_run_without_a_step(
    run: Runner, uninterrupted: Runner, folder: Path, monkeypatch: pytest.MonkeyPatch, resume: str
) -> None:
    expected = uninterrupted("sft", 2)
    crash_in(monkeypatch, 1)
    with pytest.raises(Crash):
        run("sft", folder, "stage.lr=0.5", "seed=3")
    assert_same_record(expected, run("sft", folder, f"resume={resume}"))


def test_resume_with_other_weights_of_the_same_size_and_time_raises(
    run: Runner, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(ASSETS / "tiny_xs", model)
    options = [f"model.path={model}", "model.config=null", "model.tokenizer=null"]
    crash_in(monkeypatch, 4)
    with pytest.raises(Crash):
        run("sft", folder, *options)
    weights = model / "model.safetensors"
    status, content = weights.stat(), weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UserError, match=r"model\.path/model\.safetensors: other content than before"):
        run("sft", folder, *options, "resume=auto")
    weights.write_bytes(content)
    run("sft", folder, *options, "resume=auto")


# ---- metrics that have changed since the checkpoint ----


def after_row(number: int) -> Callable[[bytes], bytes]:
    """Flips a bit in the row after so many, within a number, so that the line stays JSON."""

    def flip(content: bytes) -> bytes:
        start = sum(map(len, content.splitlines(keepends=True)[:number]))
        at = next(i for i in range(content.index(b'": 0.', start) + 5, len(content)) if content[i : i + 1] in b"2468")
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return flip


METRICS_DAMAGE = {
    "last row": (lambda content: after_row(content.count(b"\n") - 2)(content), 0),
    "cut": (lambda content: content[:-40], 0),
    "first row": (after_row(0), STORAGE),
    "emptied": (lambda content: b"", STORAGE),
}


@pytest.mark.parametrize("damage", METRICS_DAMAGE)
def test_metrics_damaged_before_the_checkpoint_are_made_again_or_named(
    run: Runner, uninterrupted: Runner, folder: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    expected = uninterrupted("sft", 2)
    crash_in(monkeypatch, 6)
    with pytest.raises(Crash):
        run("sft", folder, "checkpoint_every=2")
    change, code = METRICS_DAMAGE[damage]
    metrics, checkpoints = folder / "metrics.jsonl", folder / "checkpoints"
    size = checkpoint_files.file_sizes_at(checkpoints / "step_000004" / "state.ckpt")["metrics.jsonl"]
    metrics.write_bytes(change(metrics.read_bytes()[:size]))
    if code:
        with pytest.raises(UserError, match=r"metrics\.jsonl is damaged") as caught:
            run("sft", folder, "checkpoint_every=2", "resume=auto")
        assert caught.value.code == code
        assert len(list(checkpoints.iterdir())) == 2
    else:
        assert_same_record(expected, run("sft", folder, "checkpoint_every=2", "resume=auto"))


# ---- checkpoints on the disk ----


def test_checkpoints_keep_the_newest_two(uninterrupted: Runner) -> None:
    folder = uninterrupted("sft", 2) / "checkpoints"
    assert sorted(f.name for f in folder.iterdir()) == ["step_000005", "step_000006"]
    assert checkpoint_files.latest(folder, 2) == folder / "step_000006" / "state.ckpt"


def test_latest_removes_checkpoints_older_than_two(uninterrupted: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(uninterrupted("sft", 2) / "checkpoints", folder)
    shutil.copy(uninterrupted("sft", 2) / "metrics.jsonl", tmp_path)
    shutil.copytree(folder / "step_000005", folder / "step_000004")
    (folder / "step_000003").mkdir()  # its files are gone already
    assert checkpoint_files.latest(folder, 2) == folder / "step_000006" / "state.ckpt"
    assert sorted(f.name for f in folder.iterdir()) == ["step_000005", "step_000006"]


@pytest.mark.parametrize("file", ["state.ckpt", "files.json", "sha256"])
def test_latest_skips_a_damaged_checkpoint(
    uninterrupted: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(uninterrupted("grpo", 2) / "checkpoints", folder)
    shutil.copy(uninterrupted("grpo", 2) / "metrics.jsonl", tmp_path)
    damaged = folder / "step_000006" / file
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert checkpoint_files.latest(folder, 2) == folder / "step_000005" / "state.ckpt"
    assert "step_000006 is damaged" in capsys.readouterr().err


def test_run_with_damaged_checkpoint_resumes_to_the_same_bits(
    run: Runner, uninterrupted: Runner, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_in(monkeypatch, 6)
    with pytest.raises(Crash):
        run("grpo", folder)
    (folder / "checkpoints" / "step_000005" / "state.ckpt").write_bytes(b"damaged")
    assert_same_record(uninterrupted("grpo", 2), run("grpo", folder, "resume=auto"))


def test_latest_removes_partial_checkpoints_and_rejects_incomplete_ones(tmp_path: Path) -> None:
    assert checkpoint_files.latest(tmp_path, 2) is None
    (tmp_path / "step_000007.tmp.123").mkdir()
    (tmp_path / "step_000007.tmp.123" / "state.ckpt").write_text("half")
    assert checkpoint_files.latest(tmp_path, 2) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "step_000003").mkdir()
    with pytest.raises(UserError, match="every checkpoint") as caught:
        checkpoint_files.latest(tmp_path, 2)
    assert caught.value.code == STORAGE
