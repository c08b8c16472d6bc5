"""Equal compute: what follows from the group size, what is refused, and a run that ends with its tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r1.core import budget
from r1.core.errors import UserError
from r1.experiment.launch import launch
from r1.run import execute

Config = dict[str, Any]


@pytest.mark.parametrize(
    ("overrides", "prompts", "sequences"),
    [
        ([], 16, 128),
        (["stage.group_size=4"], 32, 128),
        (["stage.group_size=32"], 4, 128),
        (["stage.group_size=32", "budget=tokens"], 4, 128),
        (["stage.group_size=4", "budget=prompts"], 16, 64),
        (["stage.group_size=4", "budget=steps"], 16, 64),
        (["stage.group_size=4", "stage.examples_per_step=5"], 5, 20),
        (["stage.group_size=4", "stage.examples_per_step=5", "budget=prompts"], 5, 20),
        (["stage.group_size=4", "stage.sequences_per_step=64"], 16, 64),
        (["stage.group_size=2", "stage.sequences_per_step=64", "budget=steps"], 32, 64),
        (["stage=distill_on_policy", "stage.group_size=4"], 16, 64),
    ],
)
def test_prompts_or_completions_are_derived(
    config: Callable[..., Config], overrides: list[str], prompts: int, sequences: int
) -> None:
    cfg = config(*overrides)
    assert (cfg["stage"]["examples_per_step"], cfg["stage"]["sequences_per_step"]) == (prompts, sequences)
    budget.check_budget(cfg)


def test_compute_budget_matches_hand_computation(config: Callable[..., Config]) -> None:
    compute = budget.compute_budget(config("stage.group_size=4", "stage.num_iterations=3", "trainer.max_steps=10"))
    assert compute == budget.ComputeBudget("sequences", 32, 4, 128, steps=10, prompts=128, sequences=512, tokens=None)
    assert budget.compute_budget(config("stage=sft")) is None


@pytest.mark.parametrize(
    ("overrides", "steps", "epochs"),
    [
        (["stage=sft", "trainer.max_steps=10"], 10, 6.4),  # 10 x 64 of 100 examples
        (["stage=sft", "trainer.max_epochs=2"], 4, 2.56),
        (["stage=sft", "trainer.max_epochs=0.5"], 1, 0.64),
        (["trainer.max_epochs=1", "stage.num_iterations=3"], 19, 19 * 16 / 300),  # every prompt is in three steps
    ],
)
def test_epochs_count_examples(config: Callable[..., Config], overrides: list[str], steps: int, epochs: float) -> None:
    cfg = config(*overrides)
    assert budget.num_steps(cfg, 100) == steps
    assert budget.num_epochs(cfg, 100) == pytest.approx(epochs)


def test_compute_of_epochs_is_known_with_the_data(config: Callable[..., Config]) -> None:
    cfg = config("trainer.max_epochs=2")
    before, after = budget.compute_budget(cfg), budget.compute_budget(cfg, 100)
    assert before is not None
    assert (before.steps, before.sequences, before.sequences_per_step) == (None, None, 128)
    assert after is not None
    assert (after.steps, after.prompts, after.sequences) == (13, 208, 1664)
    budget.check_budget(cfg)


def test_run_ends_after_its_epochs(small: Callable[..., Config], tmp_path: Path) -> None:
    """64 examples, 4 a step: half an epoch is 8 steps."""
    epochs = ["trainer.max_steps=null", "trainer.max_epochs=0.5"]
    execute(small("stage=sft", *epochs, f"output_dir={tmp_path}"), [])
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 8


@pytest.mark.parametrize(
    ("overrides", "key", "output"),
    [
        (["stage.group_size=3"], "stage.group_size", "expected 1, 2, 4, 8, 16, 32, 64, 128"),
        (["stage.examples_per_step=4", "stage.sequences_per_step=64"], "stage.sequences_per_step", "4 prompts x 8"),
        (["stage=sft", "budget=steps"], "budget", "no groups"),
        (["stage=distill_on_policy", "budget=tokens"], "budget", "does not count its tokens"),
        (["stage.total_tokens=500"], "stage.total_tokens", "value    500"),
        (["budget=tokens", "stage.total_tokens=null"], "stage.total_tokens", "value    null"),
        (["budget=tokens", "trainer.max_steps=2"], "stage.total_tokens", "24,576 completion tokens at most"),
    ],
)
def test_check_budget_rejects_sizes_that_do_not_divide(
    config: Callable[..., Config], overrides: list[str], key: str, output: str
) -> None:
    cfg = config(*overrides, "rollout.max_completion_length=96")
    with pytest.raises(UserError) as caught:
        budget.check_budget(cfg)
    assert caught.value.key == key
    assert output in str(caught.value)


SIZES = [["stage.group_size=4"], ["stage.group_size=8"]]


@pytest.mark.parametrize(
    ("common", "constant", "value"),
    [
        ([], "sequences_per_step", 128),
        (["budget=prompts"], "prompts_per_step", 16),
        (["budget=steps"], "steps", 100),
        (["stage.sequences_per_step=256"], "sequences_per_step", 256),
    ],
)
def test_budget_points_of_equal_compute_are_accepted(
    config: Callable[..., Config], common: list[str], constant: str, value: int
) -> None:
    configs = [config(*size, *common) for size in SIZES]
    assert [getattr(budget.compute_budget(cfg), constant) for cfg in configs] == [value] * 2
    budget.check_equal_compute(configs)


@pytest.mark.parametrize(
    ("common", "others"),
    [
        (["stage.examples_per_step=16"], [[], []]),
        ([], [["stage.examples_per_step=16"], []]),
        (["budget=tokens"], [["stage.sequences_per_step=64"], []]),
        (["budget=prompts"], [["stage.examples_per_step=8"], []]),
    ],
)
def test_check_equal_compute_rejects_unequal_points(
    config: Callable[..., Config], common: list[str], others: list[list[str]]
) -> None:
    points = [config(*size, *common, *other) for size, other in zip(SIZES, others, strict=True)]
    with pytest.raises(UserError, match="do not have equal compute"):
        budget.check_equal_compute(points)


@pytest.mark.parametrize(
    "points",
    [
        [["stage.examples_per_step=8"], ["stage.examples_per_step=16"]],
        [
            [*size, f"trainer.max_steps={steps}"]
            for size in (["stage.group_size=4"], ["stage.group_size=8"])
            for steps in (50, 100)
        ],
    ],
)
def test_budget_points_of_one_group_size_may_differ_in_compute(
    config: Callable[..., Config], points: list[list[str]]
) -> None:
    """Compute is compared among points with the same number of steps, and only where the group size varies."""
    configs = [config(*point) for point in points]
    assert len({budget.compute_budget(cfg).sequences for cfg in configs}) == 2  # type: ignore[union-attr]
    budget.check_equal_compute(configs)


def test_grid_of_unequal_compute_is_rejected_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["-m", "stage.group_size=4,8", "stage.examples_per_step=16"]
    with pytest.raises(UserError, match="64, 128"):
        launch(argv, lambda *_: pytest.fail("a run was started"))
    assert not list(tmp_path.iterdir())


def test_dry_run_prints_the_compute_of_every_point(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(["-m", "stage.group_size=4,16", "dry_run=true"], execute) == 0
    output = " ".join(capsys.readouterr().err.split())
    assert "budget=sequences: 32 prompts x 4 = 128 completions per step, in total 3,200 prompts and 12,800" in output
    assert "budget=sequences: 8 prompts x 16 = 128 completions per step, in total 800 prompts and 12,800" in output


def test_run_ends_at_its_token_budget(small: Callable[..., Config], folder: Path) -> None:
    execute(small("stage=grpo", "budget=tokens", "stage.total_tokens=300", f"output_dir={folder}"), [])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tokens = [row["train/total_tokens"] for row in rows if "train/total_tokens" in row]
    lengths = [16 * row["train/completion_length"] for row in rows if "train/completion_length" in row]
    assert tokens == pytest.approx([sum(lengths[: i + 1]) for i in range(len(lengths))])
    assert tokens[-2] < 300 <= tokens[-1]
    assert len(tokens) < 6  # of trainer.max_steps
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["compute"] == {
        **{"budget": "tokens", "prompts_per_step": 4, "group_size": 4, "sequences_per_step": 16},
        **{"steps": 6, "prompts": 24, "sequences": 96, "tokens": 300},
    }
    assert rows[-1]["step"] == len(tokens)
    assert "val/pass@1" in rows[-1]
