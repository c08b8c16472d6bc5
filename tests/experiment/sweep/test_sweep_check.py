"""A sweep is checked before it runs: every point, its metric, its compute, and what it will cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from r1.core.errors import CONFIG, UserErrors
from r1.experiment.sweep import objective as metric
from r1.experiment.sweep.check import check_sweep, load_and_compose
from r1.experiment.sweep.cost import (
    REFERENCE_SECONDS,
    REFERENCE_TOKENS,
    RunCost,
    estimate_cost,
    num_tokens,
    recorded_times,
)

Config = dict[str, Any]
COMMAND = ["${env}", "${interpreter}", "-m", "r1.run", "logger=wandb", "${args_no_hyphens}"]
GOOD: Config = {
    "method": "grid",
    "metric": {"name": "val/pass@1", "goal": "maximize"},
    "parameters": {"stage.group_size": {"values": [4]}},
    "command": COMMAND,
}
Write = Callable[[Config], str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write({"parameters.stage.lr": {...}, ...})``: the good file with some things set."""

    def written(changes: Config) -> str:
        content = deepcopy(GOOD) | changes
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return "mine.yaml"

    return written


def one(values: list[Any], name: str = "stage.group_size") -> Config:
    return {"parameters": {name: {"values": values}}}


def command(*overrides: str) -> Config:
    return {"command": [*COMMAND[:4], *overrides, COMMAND[-1]]}


def target(name: str, goal: str = "maximize") -> Config:
    return {"metric": {"name": name, "goal": goal}}


WEIGHTS = one([0.1], "reward.terms.format.weight")
BAD: dict[str, tuple[Config, str, str, str]] = {  # changes, where, what, do
    "unknown name": (one([4], "stage.group_siz"), "stage.group_siz", "unknown key", "stage.group_size"),
    "unknown option": (one(["dapoo"], "stage/loss"), "stage/loss", "no option", "did you mean `dapo`?"),
    "wrong type": (one([4, 2.5]), "stage.group_size", "(point stage.group_size=2.5)", ""),
    "weight 0": (one([0], "reward.terms.format.weight"), "reward.terms.format.weight", "weight=0)", "weight=null"),
    "does not divide": (one([7]), "stage.group_size", "(point stage.group_size=7)", "budget=prompts"),
    "bad seed": (one([0, 1, -1], "seed"), "seed", "wrong value", ""),
    "given twice": (command("logger=wandb", "stage.group_size=4"), "stage.group_size", "given twice", "leave one"),
    "bad command": (
        command("logger=wandb", "stage.lrr=1"),
        "stage.lrr",
        "unknown key",
        "did you mean `stage.lr`?",
    ),
    "no logger": (command(), "command", "W&B would see no metric", "logger=wandb"),
    "dry run": (command("logger=wandb", "dry_run=true"), "command", "measures nothing", "leave it out"),
    "one folder": (
        one([4, 8]) | command("logger=wandb", "output_dir=x"),
        "output_dir",
        "record of its own",
        "name=NAME",
    ),
    "unequal": (
        one([4, 8]) | command("logger=wandb", "stage.examples_per_step=16"),
        "stage.group_size",
        "equal compute",
        "stage.examples_per_step",
    ),
    "metric": (target("val/pass1"), "metric.name", "no run logs", "did you mean `val/pass@1`?"),
    "scale": (WEIGHTS | target("train/reward"), "metric.name", "its scale changes", "val/pass@1"),
    "goal": (target("val/pass@1", "minimize"), "metric.goal", "look for the worst", "goal: maximize"),
    "end of a range": (
        {"method": "random", "parameters": {"stage.lr": {"distribution": "normal", "mu": 0.125, "sigma": 0.25}}},
        "stage.lr",
        "(point stage.lr=-0.625)",
        "",
    ),
    "whole bounds": (
        {"method": "random", "parameters": {"stage.kl_coef": {"min": 0, "max": 1}}},
        "parameters.stage.kl_coef.min",
        "whole numbers only",
        "min: 0.0 and max: 1.0",
    ),
    "no step": (
        command("experiment=r1_zero", "steps.rl.logger=wandb") | one([1.0e-4], "steps.rll.stage.lr"),
        "steps.rll",
        "no step",
        "did you mean `steps.rl`?",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_check_reports_errors_before_anything_runs(write: Write, name: str) -> None:
    changes, key, message, do = BAD[name]
    with pytest.raises(UserErrors) as caught:
        load_and_compose(write(changes))
    (error,) = caught.value.errors
    assert caught.value.code == CONFIG
    assert error.key == key
    assert message in error.message
    assert do in error.hint


def test_check_reports_file_and_point_errors_together(write: Write) -> None:
    specs = {"stage.group_siz": {"values": [4]}, "stage.lr": {"value": None}}
    with pytest.raises(UserErrors) as caught:
        load_and_compose(write({"parameters": specs, "metric": {"name": "val/pas@1"}, "nam": "x", 3: 4}))
    of_file = ["nam", "3", "metric.goal", "parameters.stage.lr.value"]
    assert [error.key for error in caught.value.errors] == [*of_file, "stage.group_siz"]


def test_check_does_not_print_secrets(write: Write) -> None:
    secret = "sk-" + "a1B2" * 10
    with pytest.raises(UserErrors) as caught:
        load_and_compose(write(one(["plain", secret], "logger.group")))
    assert caught.value.errors[0].key == "logger.group"
    assert "looks like a secret" in str(caught.value)
    assert secret not in str(caught.value)


def test_preview_shows_points_seeds_and_compute(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    specs = {"stage.group_size": {"values": [4, 8]}, "seed": {"values": [0, 1, 2]}}
    check_sweep(write({"parameters": specs, **command("logger=wandb", "trainer.max_steps=50")}), workers=4)
    output = " ".join(capsys.readouterr().err.split())
    assert "mine: grid over stage.group_size, seed; maximize val/pass@1" in output
    assert "6 points = 2 settings x 3 seeds, budget=sequences; each checked" in output
    assert "stage.group_size=4 32 x 4 = 128 6,400 50" in output
    assert "stage.group_size=8 16 x 8 = 128 6,400 50" in output
    assert "with 4 workers" in output


def test_preview_of_an_endless_search_names_run_cap(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    check_sweep(write({"method": "bayes", "parameters": {"stage/loss": {"values": ["grpo", "dapo"]}}}))
    output = " ".join(capsys.readouterr().err.split())
    assert "points without end, budget=sequences; 2 points checked, at the ends of each range" in output
    assert "run_cap: N" in output
    assert "W&B's own schema has no 'stage/loss'" in output


def test_cost_is_the_median_of_similar_records(config: Callable[..., Config], tmp_path: Path) -> None:
    cfg = config("stage=grpo", "reward=math")
    longer = cfg | {"trainer": cfg["trainer"] | {"max_steps": 200}}
    runs = [(10.0, "finished", cfg), (30.0, "finished", cfg | {"seed": 1}), (12.0, "finished", cfg | {"seed": 2})]
    for i, (seconds, status, run_config) in enumerate([*runs, (99.0, "failed", cfg), (99.0, "finished", longer)]):
        folder = tmp_path / "outputs" / "grpo" / str(i)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"status": status, "wall_s": seconds}))
        OmegaConf.save(OmegaConf.create(run_config), folder / "config.yaml")
    (tmp_path / "outputs" / "manifest.json").write_text("no record")
    known = recorded_times(tmp_path / "outputs")
    assert estimate_cost(cfg | {"seed": 3}, known) == RunCost(12.0, 3)
    assert estimate_cost(cfg | {"model": cfg["model"] | {"path": "owner/other"}}, known) == RunCost(None, 0)


def test_cost_without_records_scales_with_tokens(config: Callable[..., Config]) -> None:
    cfg = config("stage=grpo", "reward=math")
    assert num_tokens(cfg) == REFERENCE_TOKENS == (128 * 100 + 5 * 128 * 8) * 64
    assert estimate_cost(cfg, {}) == RunCost(REFERENCE_SECONDS, 0)
    assert num_tokens(cfg | {"stage": {"_target_": "r1.stage.eval.Eval"}}) == 128 * 8 * 64
    assert num_tokens(cfg | {"stage": {"examples_per_step": 16}}) == (16 * 100 + 5 * 128 * 8) * 64


CFG: Config = {
    "val": {"ks": [1, 8], "every": 25},
    "reward": {"terms": {"accuracy": {}, "format": {}}},
    "data": {"parts": {"open": {}}},
    "stage": {"examples_per_step": 16},
    "trainer": {"max_steps": 100},
}
LOGGED = ["val/pass@8", "val/maj@8", "val/reward/format", "reward/format_weighted", "val/open/pass@1", "train/kl"]


@pytest.mark.parametrize("name", [*LOGGED, "time/rollout", "rejection/selected"])
def test_objective_accepts_logged_metrics(name: str) -> None:
    assert list(metric.objective_errors(name, "maximize", ["stage.lr"], [CFG])) == []


@pytest.mark.parametrize(
    ("name", "do"),
    [
        ("val/pass@4", "val.ks says which k there are"),
        ("val/reward/fromat", "did you mean `val/reward/format`?"),
        ("val/opne/pass@1", "did you mean `val/open/pass@1`?"),
        ("val/pas@1", "did you mean `val/pass@1`?"),
        ("train/rewards", "did you mean `train/reward`?"),
    ],
)
def test_objective_rejects_metrics_that_no_run_logs(name: str, do: str) -> None:
    (error,) = metric.objective_errors(name, "maximize", [], [CFG])
    assert (error.key, error.value, error.hint) == ("metric.name", name, do)


@pytest.mark.parametrize(("name", "wrong"), [("val/maj@8", "minimize"), ("train/loss", "maximize")])
def test_objective_rejects_the_wrong_goal(name: str, wrong: str) -> None:
    (error,) = metric.objective_errors(name, wrong, [], [CFG])
    assert error.key == "metric.goal"
    assert list(metric.objective_errors(name, "", [], [CFG])) == []


@pytest.mark.parametrize(
    ("swept", "scaled"),
    [
        ("reward.terms.format.weight", True),
        ("+reward/terms@reward.terms.length", True),
        ("steps.rl.reward.terms.format.weight", True),
        ("reward", True),
        ("stage.lr", False),
        ("model.reward_path", False),
    ],
)
def test_objective_rejects_rewards_with_swept_weights(swept: str, scaled: bool) -> None:
    assert bool(list(metric.objective_errors("val/reward", "maximize", [swept], [CFG]))) is scaled
    assert list(metric.objective_errors("val/reward/format", "maximize", [swept], [CFG])) == []


@pytest.mark.parametrize(
    ("spec", "late"),
    [
        ({"min_iter": 4}, False),
        ({"min_iter": 5}, True),
        ({"max_iter": 9, "s": 2}, False),
        ({"max_iter": 27, "s": 1}, True),
        ({"max_iter": 27, "s": 2, "eta": 3}, False),
    ],
)
def test_hyperband_first_band_after_the_run_is_rejected(spec: Config, late: bool) -> None:
    """Validations at 0, 25, 50, 75 and 100: five values. Bands: 4 | 5 | 1, 3 | 9 | 3, 9."""
    assert bool(list(metric.hyperband_errors(spec, "val/pass@1", CFG))) is late
    assert list(metric.hyperband_errors(spec, "train/reward", CFG)) == []
