"""What a command line makes of a pipeline's file, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from r1.config.overrides import parse_command_line
from r1.core.errors import UserError
from r1.experiment.pipeline.parse import parse_pipelines, split_step_overrides
from r1.experiment.pipeline.steps import Pipeline

Parse = Callable[..., list[Pipeline]]
STEPS = {"a": ["stage=sft", "stage.lr=1"], "b": ["stage=eval", "model.path=${step:a}"]}


def test_split_step_overrides_separates_them_by_step() -> None:
    argv = ["-m", "seed=3", "steps.rl.stage/loss=grpo", "+steps.rl.reward/terms@reward.terms.length=length"]
    argv += ["~steps.b.reward.terms.format", "++steps.rl.x.y=a=b", "+steps.more=['stage=eval']", "~steps.gone"]
    rest, of_step = split_step_overrides(argv)
    assert rest == ["-m", "seed=3", "+steps.more=['stage=eval']", "~steps.gone"]
    assert of_step == {
        "rl": ["stage/loss=grpo", "+reward/terms@reward.terms.length=length", "++x.y=a=b"],
        "b": ["~reward.terms.format"],
    }


def test_step_overrides_win_over_shared_ones(parse: Parse) -> None:
    (pipeline,) = parse(
        "seed=3", "steps.a.stage.lr=4", "stage.lr=3", "steps.b.seed=9", shared=["stage.lr=0", "threads=1"], steps=STEPS
    )
    assert pipeline.steps["a"].overrides() == ["stage.lr=4", "threads=1", "stage=sft", "seed=3"]
    assert pipeline.steps["b"].overrides() == [
        "stage.lr=3",
        "threads=1",
        "stage=eval",
        "model.path=${step:a}",
        "seed=9",
    ]
    assert pipeline.overrides == ["experiment=mine", "seed=3", "stage.lr=3", "steps.a.stage.lr=4", "steps.b.seed=9"]
    assert pipeline.global_overrides == ["seed=3", "stage.lr=3"]


def test_step_with_its_own_seed_ignores_the_pipelines_seeds(parse: Parse) -> None:
    (pipeline,) = parse(shared=[], seeds=[0, 1], steps={"a": ["seed=5"], "b": ["stage=eval"]})
    assert pipeline.steps["a"].overrides(1) == ["seed=5"]
    assert pipeline.steps["b"].overrides(1) == ["seed=1", "stage=eval"]


def test_steps_can_be_added_replaced_and_removed(parse: Parse) -> None:
    more = """+steps.more=["stage=eval","model.path=${step:a}/best"]"""
    (pipeline,) = parse(more, "steps.a=['stage=grpo']", "~steps.b", "steps.more.seed=2", shared=[], steps=STEPS)
    assert {name: step.overrides() for name, step in pipeline.steps.items()} == {
        "a": ["stage=grpo"],
        "more": ["stage=eval", "model.path=${step:a}/best", "seed=2"],
    }
    assert pipeline.steps["more"].needs == ["a"]


def test_grid_varies_step_and_shared_overrides(parse: Parse) -> None:
    pipelines = parse("-m", "seed=1,2", "steps.a.stage.lr=3,4", "steps.b.val.every=3,4", shared=[], steps=STEPS)
    points = [[o for o in pipeline.overrides if not o.startswith("experiment")] for pipeline in pipelines]
    assert points == [
        [f"seed={seed}", f"steps.a.stage.lr={lr}", f"steps.b.val.every={every}"]
        for seed in (1, 2)
        for lr in (3, 4)
        for every in (3, 4)
    ]


@pytest.mark.parametrize("argv", [[], ["stage=sft"], ["experiment=tiny_base", "seed=3"], ["seeds=[1]"]])
def test_parse_pipelines_of_a_run_is_empty(argv: list[str]) -> None:
    rest, of_step = split_step_overrides(argv)
    assert parse_pipelines(*parse_command_line(rest), of_step) == []


@pytest.mark.parametrize(
    ("argv", "keys", "key", "message"),
    [
        (["steps.aa.seed=1"], {}, "steps.aa", "did you mean `steps.a`?"),
        (["steps.a.output_dir=x"], {}, "steps.a.output_dir", "for the whole pipeline"),
        (["steps.a.stage.lr=1,2"], {}, "steps.a.stage.lr", "several values for one key"),
        (["steps.a.seed=1", "steps.a.seed=2"], {}, "steps.a.seed", "given twice"),
        (["steps.a.seed="], {"steps": {"b": ["seed=1"]}}, "steps.a", "there is no step `a`"),
        (["seed=1"], {"seeds": [0]}, "seed", "seeds=[N]"),
        (["seeds=[]"], {}, "seeds", "a list"),
        (["result=bb"], {}, "result", "did you mean `b`?"),
        (["workers=0"], {}, "workers", "whole number >= 1"),
        ([], {"page": "x"}, "page", "a mapping"),
        ([], {"page": {"_target_": "os.system"}}, "page._target_", "may not build this object"),
        (
            [],
            {"page": {"_target_": "examples.claims.page.page", "x": 1}, "extensions": ["examples.claims"]},
            "page.x",
            "unknown key",
        ),
        (["-m", "hydra/sweeper=basic", "seed=1,2"], {}, "-m", "point by point"),
        ([], {"trainer": {"max_steps": 7}}, "trainer.max_steps", "shared: [trainer.max_steps=7]"),
        ([], {"steps": {"a": "stage=sft"}}, "steps.a", "a list"),
        ([], {"steps": {}}, "steps", "a pipeline has steps"),
        ([], {"steps": {"a-b": ["seed=1"]}}, "steps", "a step's name is a word"),
        ([], {"steps": {"a": ["stage.lr"]}}, "steps.a", "an override needs a value"),
        ([], {"steps": {"a": ["seed=1"], "b": ["model.path=${step:aa}"]}}, "steps.b", "did you mean `a`?"),
        ([], {"steps": {"a": ["model.path=${step:a}"]}}, "steps.a", "a step cannot start from itself"),
        (
            [],
            {"steps": {"a": ["x=${step:c}"], "b": ["x=${step:a}"], "c": ["x=${step:b}"]}},
            "steps.a",
            "a -> c -> b -> a",
        ),
    ],
)
def test_parse_pipelines_reports_mistakes(
    parse: Parse, argv: list[str], keys: dict[str, Any], key: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse(*argv, **{"shared": [], "steps": STEPS} | keys)
    assert f"  key      {key}\n" in str(caught.value)
    assert message in str(caught.value)


def test_step_override_without_a_pipeline_is_rejected() -> None:
    rest, of_step = split_step_overrides(["steps.rl.seed=1", "stage=sft"])
    with pytest.raises(UserError, match="no pipeline is chosen"):
        parse_pipelines(*parse_command_line(rest), of_step)


def test_sweep_over_runs_and_pipelines_is_rejected(write: Callable[..., list[str]]) -> None:
    rest, of_step = split_step_overrides(["-m", *write()[:2], "experiment=mine,tiny_base"])
    with pytest.raises(UserError, match="not over both"):
        parse_pipelines(*parse_command_line(rest), of_step)
