"""A run that is cut off and continued ends like one that never was: the same bits, the same record."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from r1 import checkpoint
from r1.errors import Interrupted
from r1.run import execute
from r1.stage.base import Stage

# Lightning's CSV logger starts its own file anew on resume and says so; the record's files are what is compared.
pytestmark = pytest.mark.filterwarnings("ignore:Experiment logs directory .* exists and is not empty:UserWarning")
Runner = Callable[..., Path]
RUNS = {
    "grpo": ["stage=grpo", "stage.num_iterations=2", "stage.kl_coef=0.01"],
    "sft": ["stage=sft", "stage.warmup_steps=2"],
}


class Crash(Exception):
    """Stands for a power cut: nothing of r1 catches it."""


@pytest.fixture
def run(small: Callable[..., dict[str, Any]], tmp_path: Path) -> Runner:
    """``run("grpo", "name", ...)``: a run of 6 steps into its own folder."""

    def runner(kind: str, name: str, *overrides: str) -> Path:
        cfg = small(*RUNS[kind], "checkpoint_every=1", f"output_dir={tmp_path / name}", *overrides)
        execute(cfg, [])
        return tmp_path / name

    return runner


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send this process a SIGTERM while ``step`` is being trained, once."""
    original, asked = Stage.configure_gradient_clipping, []

    def asking(self: Stage, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self.trainer.global_step + 1 == step and not asked:
            asked.append(step)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Stage, "configure_gradient_clipping", asking)


def crash_in(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Raise in the middle of ``step``, once."""
    original, crashed = Stage.configure_gradient_clipping, []

    def crashing(self: Stage, *args: Any, **kwargs: Any) -> None:
        if self.trainer.global_step + 1 == step and not crashed:
            crashed.append(step)
            raise Crash
        original(self, *args, **kwargs)

    monkeypatch.setattr(Stage, "configure_gradient_clipping", crashing)


def assert_same_record(a: Path, b: Path) -> None:
    left, right = (load_file(f / "model" / "model.safetensors") for f in (a, b))
    assert left.keys() == right.keys()
    assert all(left[name].equal(right[name]) for name in left)
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (a / name).read_text() == (b / name).read_text()
    first, second = (json.loads((f / "manifest.json").read_text()) for f in (a, b))
    assert first["status"] == second["status"] == "finished"
    assert first["metrics"] == second["metrics"]
    assert first["metrics"]["final"]


@pytest.mark.parametrize("every", [2, 3, 4])
@pytest.mark.parametrize("kind", list(RUNS))
def test_a_stopped_run_continues_to_the_same_bits(
    run: Runner, monkeypatch: pytest.MonkeyPatch, kind: str, every: int
) -> None:
    whole = run(kind, "whole", f"val.every={every}")
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted, match="SIGTERM"):
        run(kind, "cut", f"val.every={every}")
    cut = run(kind, "cut", f"val.every={every}", "resume=auto")
    assert_same_record(whole, cut)


def test_a_stop_in_the_last_step_is_made_up_for(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("grpo", "whole", "val.every=4")
    stop_after(monkeypatch, 6)
    with pytest.raises(Interrupted):
        run("grpo", "cut", "val.every=4")
    assert json.loads((whole.parent / "cut" / "manifest.json").read_text())["status"] == "interrupted"
    assert_same_record(whole, run("grpo", "cut", "val.every=4", "resume=auto"))


@pytest.mark.parametrize("step", [1, 4, 6])
@pytest.mark.parametrize("kind", list(RUNS))
def test_a_crashed_run_continues_to_the_same_bits(
    run: Runner, monkeypatch: pytest.MonkeyPatch, kind: str, step: int
) -> None:
    knobs = ["checkpoint_every=3", "val.every=2"]  # a crash in step 1 comes before, one in step 6 long after a checkpoint
    whole = run(kind, "whole", *knobs)
    crash_in(monkeypatch, step)
    with pytest.raises(Crash):
        run(kind, "cut", *knobs)
    assert json.loads((whole.parent / "cut" / "manifest.json").read_text())["status"] == "failed"
    assert_same_record(whole, run(kind, "cut", *knobs, "resume=auto"))


def test_a_finished_run_stays_as_it_is(run: Runner) -> None:
    folder = run("grpo", "once")
    names = ["metrics.jsonl", "samples.jsonl", "model/model.safetensors"]
    before = {name: (folder / name).read_bytes() for name in names}
    metrics = json.loads((folder / "manifest.json").read_text())["metrics"]
    run("grpo", "once", "resume=auto")
    assert {name: (folder / name).read_bytes() for name in names} == before
    assert json.loads((folder / "manifest.json").read_text())["metrics"] == metrics


# ---- what lies on the disk ----


def test_the_newest_two_checkpoints_are_kept(run: Runner) -> None:
    folder = run("sft", "kept") / "checkpoints"
    assert sorted(f.name for f in folder.iterdir()) == ["step_000005", "step_000006"]
    assert checkpoint.latest(folder) == folder / "step_000006" / "state.ckpt"


@pytest.mark.parametrize("file", ["state.ckpt", "files.json", "sha256"])
def test_a_damaged_checkpoint_is_passed_over(
    run: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    whole = run("grpo", "whole")
    crash_in(monkeypatch, 6)
    with pytest.raises(Crash):
        run("grpo", "cut")
    folder = whole.parent / "cut" / "checkpoints"
    damaged = folder / "step_000005" / file
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert checkpoint.latest(folder) == folder / "step_000004" / "state.ckpt"
    assert "step_000005 is damaged" in capsys.readouterr().err
    assert_same_record(whole, run("grpo", "cut", "resume=auto"))


def test_a_missing_file_is_damage_and_a_half_written_checkpoint_is_cleared_away(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    (tmp_path / "step_000007.tmp.123").mkdir()
    (tmp_path / "step_000007.tmp.123" / "state.ckpt").write_text("half")
    assert checkpoint.latest(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "step_000003").mkdir()
    with pytest.raises(UserError, match="every checkpoint") as caught:
        checkpoint.latest(tmp_path)
    assert caught.value.code == STORAGE
