"""Guards that halt a run, the record of a halted run, and the export of the best model."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DENSE, SMALL
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from r1 import run as command
from r1.core.errors import HALTED, TrainingHalted
from r1.core.runs import read_run
from r1.core.statistics import Estimate
from r1.core.types import Config
from r1.run import execute
from r1.stage.base import Stage
from r1.stage.grpo import Grpo
from r1.stage.sft import Sft

Stages = Callable[..., Grpo]
EVERY_STEP = ["checkpoint_every=1", "val.every=1"]


@pytest.fixture
def halted(small: Callable[..., Config], folder: Path) -> Callable[..., TrainingHalted]:
    """``halted("stage=grpo", ...)``: the error that halted this run."""

    def run(*overrides: str) -> TrainingHalted:
        with pytest.raises(TrainingHalted) as caught:
            execute(small(*overrides, f"output_dir={folder}"), [])
        return caught.value

    return run


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [row for row in read_run(str(folder)).metrics if name in row]


def assert_finite(folder: Path) -> None:
    """Of all saved weights: checkpoints and best/."""
    states = [torch.load(file, weights_only=True)["state_dict"] for file in folder.glob("checkpoints/*/state.ckpt")]
    if (folder / "best").exists():
        states.append(load_file(folder / "best" / "model.safetensors"))
    assert states
    for state in states:
        assert all(value.isfinite().all() for value in state.values())


# ---- guards ----


def test_min_entropy_above_entropy_halts_the_run(halted: Callable[..., TrainingHalted], folder: Path) -> None:
    """No model of 610 tokens has an entropy of 7 nats: the first step is the last."""
    error = halted("stage=grpo", "stage.min_entropy=7")
    assert "stage.min_entropy=7" in str(error)
    (step,) = rows(folder, "train/entropy")
    assert step["train/entropy"] == error.value < math.log(610)
    manifest = read_run(str(folder)).manifest
    assert manifest["status"] == "halted"
    assert "Halted: the run was stopped: the entropy has fallen below" in manifest["error"]
    assert not (folder / "model").exists()


def test_max_kl_below_kl_halts_the_run(halted: Callable[..., TrainingHalted], folder: Path) -> None:
    error = halted("stage=grpo", "stage.max_kl=0.001", "stage.lr=0.01", "trainer.max_steps=20", "val.every=20")
    kls = [row["train/kl"] for row in rows(folder, "train/kl")]
    assert 1 < len(kls) < 20
    assert max(kls[:-1]) <= 0.001 < kls[-1] == error.value
    assert "stage.max_kl=0.001" in read_run(str(folder)).manifest["error"]


@pytest.mark.parametrize("guard", ["stage.max_kl=100", "stage.min_entropy=0.01"])
def test_guard_below_its_limit_changes_no_weights(small: Callable[..., Config], tmp_path: Path, guard: str) -> None:
    for name, more in (("plain", []), ("guarded", [guard])):
        execute(small("stage=grpo", "trainer.max_steps=2", *more, f"output_dir={tmp_path / name}"), [])
    plain, guarded = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("plain", "guarded"))
    assert all(plain[name].equal(guarded[name]) for name in plain)


def test_check_step_without_the_metric_passes(stage: Stages) -> None:
    grpo = stage("stage=grpo", "stage.max_kl=0.5", "stage.min_entropy=0.5")
    grpo.check_step({})
    grpo.check_step({"train/kl": 0.5, "train/entropy": 0.5})
    with pytest.raises(TrainingHalted, match="KL"):
        grpo.check_step({"train/kl": 0.51, "train/entropy": 0.4})
    with pytest.raises(TrainingHalted, match="entropy"):
        grpo.check_step({"train/entropy": 0.49})


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize(("kind", "of"), [("stage=grpo", Grpo), ("stage=sft", Sft)])
def test_gradient_not_finite_halts_before_the_optimizer_step(
    halted: Callable[..., TrainingHalted],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    of: Any,
    poison: float,
) -> None:
    """In the third step, one gradient of one weight."""
    original = of.training_step

    def poisoned(self: Any, *args: Any) -> Any:
        loss = original(self, *args)
        if self.trainer.global_step == 2:
            weight = next(p for p in self.policy.parameters() if p.requires_grad)
            loss = loss + weight.flatten()[0] * poison
        return loss

    monkeypatch.setattr(of, "training_step", poisoned)
    error = halted(kind, *EVERY_STEP, "stage.max_grad_norm=null")
    assert "not finite" in str(error)
    assert [row["step"] for row in rows(folder, "train/loss")] == [1, 2]
    assert sorted(f.name for f in (folder / "checkpoints").iterdir()) == ["step_000001", "step_000002"]
    assert read_run(str(folder)).manifest["status"] == "halted"
    assert_finite(folder)


def test_weights_not_finite_halt_the_next_step(
    halted: Callable[..., TrainingHalted], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One weight becomes NaN in the second step; no checkpoint has it."""
    original = Sft.training_step

    def poisoned(self: Any, *args: Any) -> Any:
        if self.trainer.global_step == 1:
            with torch.no_grad():
                next(iter(self.policy.parameters())).fill_(math.nan)
        return original(self, *args)

    monkeypatch.setattr(Sft, "training_step", poisoned)
    halted("stage=sft", *EVERY_STEP)
    assert [row["step"] for row in rows(folder, "train/loss")] == [1]
    assert_finite(folder)


def test_halted_run_exits_with_its_own_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    knobs = ["stage=grpo", *SMALL, "stage.micro_batch_size=4", "stage.group_size=4", *DENSE]
    monkeypatch.setattr(sys, "argv", ["r1", *knobs, "stage.min_entropy=7", f"output_dir={folder}"])
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == HALTED == 6
    err = capsys.readouterr().err
    assert "r1: the run was stopped: the entropy has fallen below stage.min_entropy=7" in err
    assert "Traceback" not in err
    assert json.loads((folder / "manifest.json").read_text())["status"] == "halted"


# ---- the best model ----


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], None]:
    """``scripted([0.2, 0.5, ...])``: pass@1 of one validation after the other, the first at the start."""

    def script(values: list[float]) -> None:
        original = Stage.validation_step

        def validation_step(self: Stage, indices: list[int], batch_idx: int) -> None:
            original(self, indices, batch_idx)
            value = values[self.trainer.global_step]
            self.validator.metrics["val/pass@1"] = Estimate(value, value, value, 4)

        monkeypatch.setattr(Stage, "validation_step", validation_step)

    return script


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([0.2, 0.5, 0.9, 0.4], 2),
        ([0.2, 0.5, 0.5, 0.5], 1),  # the first of equals
        ([0.2, 0.1, 0.3, 0.9], 3),
        ([0.9, 0.5, 0.8, 0.9], None),  # never better than the start
    ],
)
def test_keep_best_exports_the_best_validation(
    small: Callable[..., Config],
    folder: Path,
    scripted: Callable[[list[float]], None],
    values: list[float],
    best: int | None,
) -> None:
    scripted(values)
    execute(small("stage=sft", *EVERY_STEP, "trainer.max_steps=3", f"output_dir={folder}"), [])
    manifest = read_run(str(folder)).manifest
    if best is None:
        assert manifest["best"] is None
        assert not (folder / "best").exists()
    else:
        assert manifest["best"] == {"step": best, "val/pass@1": values[best]}
        assert set((folder / "best").iterdir()) == {folder / "best" / f.name for f in (folder / "model").iterdir()}
    assert list(folder.glob("best.tmp*")) == []


def test_best_model_has_the_weights_of_its_step(
    small: Callable[..., Config], tmp_path: Path, scripted: Callable[[list[float]], None]
) -> None:
    scripted([0.2, 0.5, 0.9, 0.4, 0.1])
    for name, steps in (("long", 4), ("short", 2)):
        knobs = [*EVERY_STEP, f"trainer.max_steps={steps}", "stage.schedule=constant"]
        execute(small("stage=sft", *knobs, f"output_dir={tmp_path / name}"), [])
    best, short = (load_file(tmp_path / name / "model.safetensors") for name in ("long/best", "short/model"))
    assert all(best[name].equal(short[name]) for name in best)


def test_best_model_evaluates_to_its_recorded_metrics(
    small: Callable[..., Config], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that improves by itself: what is right is what is short, as it is where tokens are low."""
    monkeypatch.setattr("r1.stage.validation.sampling.read_answers", lambda verifier, texts, rows: texts)
    monkeypatch.setattr("r1.stage.validation.sampling.verify_completions", short_is_correct)
    knobs = [*EVERY_STEP, "stage.lr=0.02", "trainer.max_steps=6", "val.num_prompts=8", "val.num_samples=4"]
    execute(small("stage=grpo", *knobs, f"output_dir={folder}"), [])
    recorded = read_run(str(folder)).manifest["best"]
    assert recorded["val/pass@1"] > read_run(str(folder)).manifest["metrics"]["start"]["val/pass@1"]["value"]
    policy = AutoModelForCausalLM.from_pretrained(folder / "best")
    stored = load_file(folder / "best" / "model.safetensors")
    assert all(policy.state_dict()[name].equal(value) for name, value in stored.items())
    loaded = [f"model.path={folder / 'best'}", "~model.config", "+model.config=null", "model.tokenizer=null"]
    more = ["val.num_prompts=8", "val.num_samples=4", f"output_dir={tmp_path / 'eval'}"]
    execute(small("stage=eval", *loaded, *more), [])
    (expected,) = (row for row in rows(folder, "val/pass@1") if row["step"] == recorded["step"])
    (evaluated,) = rows(tmp_path / "eval", "val/pass@1")
    assert {**evaluated, "step": recorded["step"]} == expected


def short_is_correct(verifier: Any, answers: list[str], rows: list[Any]) -> list[bool]:
    return [len(answer) < 16 for answer in answers]


def test_keep_best_with_lora_exports_merged_weights_and_training_is_unchanged(
    small: Callable[..., Config], tmp_path: Path, scripted: Callable[[list[float]], None]
) -> None:
    scripted([0.2, 0.5, 0.9, 0.4])
    for keep in ("true", "false"):
        knobs = ["+model/lora=default", "model.lora.r=2", f"keep_best={keep}", *EVERY_STEP, "trainer.max_steps=3"]
        execute(small("stage=sft", *knobs, f"output_dir={tmp_path / keep}"), [])
    with_best, without_best = (load_file(tmp_path / keep / "model" / "model.safetensors") for keep in ("true", "false"))
    assert all(with_best[name].equal(without_best[name]) for name in with_best)
    best = load_file(tmp_path / "true" / "best" / "model.safetensors")
    assert best.keys() == with_best.keys()
    assert any(not best[name].equal(with_best[name]) for name in best)


def test_keep_best_false_exports_no_best_model(
    small: Callable[..., Config], folder: Path, scripted: Callable[[list[float]], None]
) -> None:
    scripted([0.2, 0.5, 0.9])
    execute(small("stage=sft", *EVERY_STEP, "keep_best=false", "trainer.max_steps=2", f"output_dir={folder}"), [])
    assert not (folder / "best").exists()
    assert read_run(str(folder)).manifest["best"] is None


def test_evaluation_exports_no_best_model(small: Callable[..., Config], folder: Path) -> None:
    execute(small("stage=eval", f"output_dir={folder}"), [])
    assert not (folder / "best").exists()


@pytest.mark.parametrize("crash_at", [2, 3])
def test_resumed_run_keeps_its_earlier_best(
    small: Callable[..., Config],
    folder: Path,
    scripted: Callable[[list[float]], None],
    monkeypatch: pytest.MonkeyPatch,
    crash_at: int,
) -> None:
    """The best was found before the crash; nothing later is as good, though it is better than the start."""
    scripted([0.2, 0.5, 0.9, 0.8, 0.7])
    original, crashed = Sft.training_step, []

    def crashing(self: Any, *args: Any) -> Any:
        if self.trainer.global_step == crash_at and not crashed:
            crashed.append(True)
            raise RuntimeError("power cut")
        return original(self, *args)

    monkeypatch.setattr(Sft, "training_step", crashing)
    knobs = ["stage=sft", *EVERY_STEP, "trainer.max_steps=4", f"output_dir={folder}"]
    with pytest.raises(RuntimeError, match="power cut"):
        execute(small(*knobs), [])
    before = (folder / "best" / "model.safetensors").read_bytes()
    execute(small(*knobs, "resume=auto"), [])
    assert (folder / "best" / "model.safetensors").read_bytes() == before
    assert read_run(str(folder)).manifest["best"] == {"step": 2, "val/pass@1": 0.9}


def test_halted_run_leaves_its_best_model(
    halted: Callable[..., TrainingHalted], folder: Path, scripted: Callable[[list[float]], None]
) -> None:
    scripted([0.2, 0.5, 0.9, 0.4, 0.3, 0.3, 0.3, *[0.3] * 20])
    error = halted("stage=grpo", *EVERY_STEP, "stage.max_kl=0.003", "stage.lr=0.01", "trainer.max_steps=20")
    assert "best/ holds the best model" in error.hint
    assert read_run(str(folder)).manifest["best"]["step"] <= 2
    assert_finite(folder)
    AutoModelForCausalLM.from_pretrained(folder / "best")
