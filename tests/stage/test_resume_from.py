"""A run that starts from the end of another one: with the same values the bits of one run, with others those of a run
whose values changed at that step."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from suites import long_but

from r1.core.errors import Interrupted, UserError
from r1.core.runs import read_run
from r1.run import execute
from r1.stage.base import Stage
from r1.stage.training.base import TrainingStage
from r1.train.record import Record

pytestmark = pytest.mark.slow

Runner = Callable[..., Path]
END = 4  # steps of the first run
KINDS = {  # overrides of both runs, and of the second one alone
    "grpo": (["stage=grpo", "stage.num_iterations=2"], []),
    "kl": (["stage=grpo", "stage.kl_coef=0.1", "stage.ref_sync_every=2", "stage.ref_sync_mix=0.5", "stage.lr=0.01"],
           ["stage.kl_coef=0.2", "stage.ref_sync_every=null"]),
    "minibatches": (["stage=grpo", "stage.steps_per_rollout=2", "stage.lr=0.01"],
                    ["rollout.max_completion_length=12", "rollout.temperature=0.7"]),
    "ahead": (["stage=grpo", "rollout.async_steps=1", "stage.lr=0.01"], ["stage.group_size=2", "seed=3"]),
    "sft": (["stage=sft", "stage.schedule=constant", "stage.warmup_steps=2"],
            ["stage.lr=0.002", "stage.optimizer.weight_decay=0.3", "stage.schedule=linear"]),
    "muon": (["stage=sft", "stage/optimizer=muon", "stage.optimizer.matrix_lr=0.02", "stage.schedule=constant"],
             ["stage.optimizer.matrix_lr=0.05", "stage.examples_per_step=8", "stage.micro_batch_size=2"]),
    "entropy": (["stage=grpo", "stage.entropy_target=9.0", "stage.entropy_coef=0.1"], ["stage.entropy_coef_delta=0.1"]),
}  # fmt: skip


@pytest.fixture
def run(small: Callable[..., dict[str, Any]], tmp_path: Path) -> Runner:
    """``run("name", ...)``: a run of 6 steps, or as many as the overrides say, into a folder of that name."""

    def runner(name: str, stage: str, *overrides: str) -> Path:
        options = {text.partition("=")[0]: text for text in ("val.every=2", "checkpoint_every=100", *overrides)}
        execute(small(stage, *options.values(), f"output_dir={tmp_path / name}"), [])
        return tmp_path / name

    return runner


def assert_same_training(expected: Path, continued: Path) -> None:
    """The weights, and every row from the first run's end on."""
    left, right = (load_file(folder / "model" / "model.safetensors") for folder in (expected, continued))
    assert all(left[name].equal(right[name]) for name in left)
    of_expected, of_continued = (read_run(str(folder)).metrics for folder in (expected, continued))
    starts = [i for i, row in enumerate(of_expected) if row["step"] == END and "val/pass@1" in row]
    assert of_continued == of_expected[starts[0] :]


@pytest.mark.parametrize("kind", long_but(("grpo", "muon"), ["grpo", "kl", "ahead", "muon"]))
def test_run_that_goes_on_with_the_same_values_has_the_bits_of_one_run(run: Runner, kind: str) -> None:
    shared, _ = KINDS[kind]
    first = run("first", *shared, f"trainer.max_steps={END}")
    assert_same_training(run("straight", *shared), run("second", *shared, f"resume_from={first}"))


@pytest.mark.parametrize("kind", long_but(("kl", "minibatches", "sft"), (kind for kind in KINDS if kind != "grpo")))
def test_run_that_goes_on_with_other_values_equals_one_whose_values_change(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The reference is the first run, resumed past the check of its config: one run, one record, new values."""
    shared, changed = KINDS[kind]
    first = run("first", *shared, f"trainer.max_steps={END}")
    second = run("second", *shared, *changed, f"resume_from={first}")
    shutil.copytree(first, tmp_path / "changed")
    monkeypatch.setattr(Record, "_changes_since", lambda *_: [])
    monkeypatch.setattr("r1.train.record.check_extension", lambda *_: None)
    monkeypatch.setattr(TrainingStage, "checkpoint_has_other_rates", property(lambda _: True, lambda *_: None), False)
    expected = run("changed", *shared, *changed, "resume=auto")
    left, right = (load_file(folder / "model" / "model.safetensors") for folder in (expected, second))
    assert all(left[name].equal(right[name]) for name in left)
    rows = [[row for row in read_run(str(folder)).metrics if row["step"] > END] for folder in (expected, second)]
    assert rows[0] == rows[1]
    other = load_file(run("straight", *shared) / "model" / "model.safetensors")
    assert not all(left[name].equal(other[name]) for name in left), "the changed values change nothing"


def test_second_run_has_its_own_rate_hyperparameters_and_record(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linear from 0.004 over 6 steps: (6 - 4) / 6 and (6 - 5) / 6 of it are left at steps 4 and 5."""
    shared = ["stage=sft", "stage.schedule=constant", "stage.warmup_steps=0"]
    first = run("first", *shared, f"trainer.max_steps={END}")
    groups: list[dict[str, Any]] = []
    original = TrainingStage.configure_gradient_clipping

    def spying(self: TrainingStage, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        groups.append({key: value for key, value in optimizer.param_groups[0].items() if key != "params"})
        original(self, optimizer, *args, **kwargs)

    monkeypatch.setattr(TrainingStage, "configure_gradient_clipping", spying)
    changed = [
        "stage.lr=0.004",
        "stage.schedule=linear",
        "stage.optimizer.weight_decay=0.3",
        "stage.optimizer.beta2=0.9",
    ]
    second = read_run(str(run("second", *shared, *changed, f"resume_from={first}")))
    assert [group["lr"] for group in groups] == pytest.approx([0.004 * 2 / 6, 0.004 / 6])
    assert [(group["weight_decay"], group["betas"][1]) for group in groups] == [(0.3, 0.9)] * 2
    assert [row["step"] for row in second.metrics] == [4, 5, 6, 6]
    assert second.manifest["parents"] == [
        {"path": str(first), "fingerprint": read_run(str(first)).manifest["fingerprint"]}
    ]
    assert second.manifest["metrics"]["start"] == read_run(str(first)).manifest["metrics"]["final"]


def test_second_run_stopped_in_its_start_validation_resumes_to_the_same_bits(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = KINDS["grpo"][0]
    first = run("first", *shared, f"trainer.max_steps={END}", "val.every=3")
    options = [*shared, f"resume_from={first}", "val.every=3"]
    expected = run("expected", *options)
    original, stops = Stage.validation_step, [Interrupted(15), RuntimeError("killed")]

    def stopping(self: Stage, *args: Any) -> None:
        if stops:
            raise stops.pop(0)
        original(self, *args)

    monkeypatch.setattr(Stage, "validation_step", stopping)
    for error in (Interrupted, RuntimeError):
        with pytest.raises(error):
            run("second", *options, "resume=auto")
    second = run("second", *options, "resume=auto")
    assert (second / "metrics.jsonl").read_text() == (expected / "metrics.jsonl").read_text()
    assert (second / "model/model.safetensors").read_bytes() == (expected / "model/model.safetensors").read_bytes()
    metrics = [read_run(str(folder)).manifest["metrics"] for folder in (second, expected)]
    assert metrics[0] == metrics[1]


def test_resume_from_an_end_that_does_not_fit_raises(run: Runner, tmp_path: Path) -> None:
    shared = ["stage=grpo", "stage.steps_per_rollout=2"]
    first = run("first", *shared, f"trainer.max_steps={END}")
    for overrides, key, message in (
        ([*shared, "model.config.hidden_size=64"], "model.config.hidden_size", "differs from the run"),
        ([*shared, "stage/optimizer=sgd"], "stage.optimizer._target_", "differs from the run"),
        (["stage=sft"], "stage._target_", "differs from the run"),
        ([*shared, f"trainer.max_steps={END}"], "trainer.max_steps", "has made 4 steps"),
        (["stage=grpo", "stage.num_iterations=3"], "resume_from", "middle of a rollout batch of this run"),
        (["stage=eval"], "resume_from", "trains nothing"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            run("second", *overrides, f"resume_from={first}")
        assert key in str(caught.value)
    with pytest.raises(UserError, match="not a run's folder") as caught:
        run("second", *shared, f"resume_from={tmp_path}")
    middle = run("middle", *shared, "trainer.max_steps=3")
    with pytest.raises(UserError, match="middle of a rollout batch of the run before"):
        run("second", *shared, f"resume_from={middle}")
    epochs = ["stage=sft", "stage.schedule=constant"]
    whole = run("whole", *epochs, f"trainer.max_steps={END}")
    with pytest.raises(UserError, match="this one would end at step 4"):
        run("second", *epochs, "trainer.max_steps=null", "trainer.max_epochs=0.25", f"resume_from={whole}")
    shutil.rmtree(first / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint of its end"):
        run("second", *shared, f"resume_from={first}")
    assert not (tmp_path / "second").exists()
