"""The fingerprint that each step will have, what is checked before anything starts, and why a step is not cached."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import PIPELINE

from r1.core import provenance
from r1.core.errors import UserError, UserErrors
from r1.core.model_paths import resolve_model_path
from r1.experiment.pipeline.explain import cache_status, reasons_to_run
from r1.experiment.pipeline.node import PipelineNode, PipelinePlan

pytestmark = pytest.mark.slow

Planned = Callable[..., PipelinePlan]
STEPS: dict[str, list[str]] = PIPELINE["steps"]


def prints(plan: PipelinePlan) -> dict[str, str]:
    return {str(node): node.fingerprint for node in plan.nodes}


def finish(node: PipelineNode, status: str = "finished") -> None:
    """The record of a run that was not made."""
    node.folder.mkdir(parents=True, exist_ok=True)
    provenance.write_sources(node.folder, node.config, node.overrides)
    manifest = {"schema": 1, "overrides": node.overrides, "status": status, "fingerprint": node.fingerprint}
    manifest |= {"data": node.data, "parents": node.parents}
    code = provenance.code_hash(*node.config["extensions"])
    metrics: dict[str, Any] = {"start": {}, "final": {}}
    (node.folder / "model").symlink_to(resolve_model_path("r1:tiny"))
    (node.folder / "manifest.json").write_text(json.dumps(manifest | {"code": code, "metrics": metrics}))


def changed(before: PipelinePlan, after: PipelinePlan) -> set[str]:
    then, now = prints(before), prints(after)
    return {name for name in now if now[name] != then.get(name)}


def test_plan_reruns_a_changed_step_and_its_dependents(planned: Planned) -> None:
    base = planned()
    assert changed(base, planned("output_dir=elsewhere", "workers=3")) == set()
    assert changed(base, planned("steps.sft.stage.lr=0.5")) == {"sft", "test"}
    assert changed(base, planned("steps.answers.teacher.error_rate=0.5")) == {"answers", "sft", "test"}


def test_plan_reruns_all_steps_when_the_code_changes(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    base = planned()
    monkeypatch.setattr(provenance, "code_hash", lambda *extensions: "another code")
    assert changed(base, planned()) == {"answers", "sft", "test"}


def test_plan_identifies_external_data_by_content(planned: Planned, tmp_path: Path) -> None:
    def rows(last: int) -> None:
        lines = [json.dumps({"prompt": f"{i}+1=?", "answer": str(i + 1 + (i == last))}) for i in range(20)]
        (tmp_path / "mine.jsonl").write_text("\n".join(lines))

    steps = STEPS | {"test": ["stage=eval", "model.path=${step:sft}", "data=dataset", "data.path=mine.jsonl"]}
    rows(99)
    base = planned(steps=steps)
    rows(7)
    assert changed(base, planned(steps=steps)) == {"test"}


def test_step_with_its_own_seed_is_planned_once_for_all_seeds(planned: Planned) -> None:
    plan = planned("steps.answers.seed=0", "seeds=[0,1]", "result=sft")
    assert list(prints(plan)) == ["answers", "sft[0]", "test[0]", "sft[1]", "test[1]"]
    assert list(map(str, plan.results)) == ["sft[0]", "sft[1]"]
    assert plan.nodes[3].needs == [plan.nodes[0]]
    one = planned("seed=1", "steps.answers.seed=0")
    assert prints(one) == {
        "answers": prints(plan)["answers"],
        "sft": prints(plan)["sft[1]"],
        "test": prints(plan)["test[1]"],
    }


def test_overrides_hold_the_folders_of_needed_steps(planned: Planned) -> None:
    answers, sft, test = planned().nodes
    assert sft.folder == Path("outputs/mine/steps/sft", sft.fingerprint[:12])
    assert f"data.path={answers.folder}" in sft.overrides
    assert f"model.path={sft.folder}" in test.overrides
    assert (answers.needs, sft.needs, test.needs) == ([], [answers], [sft])


@pytest.mark.parametrize(
    ("argv", "steps", "key", "message"),
    [
        (["stage.lr=0.1"], {}, "steps.test.stage.lr", "for one step alone: steps.NAME.stage.lr=0.1"),
        (["steps.sft.stage.group_size=4"], {}, "steps.sft.stage.group_size", "unknown key"),
        (["steps.sft.stage.lrr=4"], {}, "steps.sft.stage.lrr", "did you mean `stage.lr`?"),
        (["steps.sft.stage.lr=fast"], {}, "steps.sft.stage.lr", "number > 0"),
        (["steps.test.val.ks=[4]"], {}, "steps.test.val.ks", "cannot be worked out"),
        # its model is not there yet
        (["steps.test.rollout.max_completion_length=4000"], {}, "steps.test.rollout.max_completion_length", "context"),
        (["steps.test.model.path=/nowhere/at/all"], {}, "steps.test.model.path", "no such folder"),
        (["steps.answers.stage=nothing"], {}, "steps.answers.stage", "no option `nothing`"),
        ([], {"test": ["experiment=mine"]}, "steps.test.experiment", "not a pipeline"),
        (["output_dir='~/x'"], {}, "output_dir", "does not expand"),
    ],
)
def test_plan_reports_errors_before_anything_starts(
    planned: Planned, tmp_path: Path, argv: list[str], steps: dict[str, list[str]], key: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        planned(*argv, steps=STEPS | steps)
    assert f"  key      {key}" in str(caught.value).splitlines()
    assert message in str(caught.value)
    assert not (tmp_path / "outputs").exists()


def test_plan_reports_the_errors_of_every_step(planned: Planned) -> None:
    with pytest.raises(UserError) as caught:
        planned("steps.answers.stage.lrr=1", "+steps.more=['stage=sft','stage.lrrr=1']")
    assert "steps.answers.stage.lrr\n" in str(caught.value)
    assert "steps.more.stage.lrrr\n" in str(caught.value)


CHAIN = {
    "short": ["stage=grpo", "trainer.max_steps=4"],
    "long": ["stage=grpo", "trainer.max_steps=6", "rollout.max_completion_length=16", "resume_from=${step:short}"],
}


def test_step_that_continues_another_one_needs_it_and_its_fingerprint(planned: Planned) -> None:
    short, long = planned(steps=CHAIN).nodes
    assert long.needs == [short]
    assert long.config["resume_from"] == str(short.folder)
    assert long.parents == [{"path": str(short.folder.absolute()), "fingerprint": short.fingerprint}]
    assert changed(planned(steps=CHAIN), planned("steps.short.stage.lr=0.5", steps=CHAIN)) == {"short", "long"}


@pytest.mark.parametrize(
    ("override", "key", "message"),
    [
        ("steps.long.trainer.max_steps=4", "steps.long.trainer.max_steps", "has made 4 steps"),
        ("steps.long.stage=sft", "steps.long.stage._target_", "differs from the run that this one continues"),
        ("steps.short.model=tiny_xs", "steps.long.model.path", "differs from the run that this one continues"),
        ("steps.short.stage.steps_per_rollout=3", "steps.long.resume_from", "middle of a rollout batch"),
        ("steps.short.keep_checkpoints=0", "steps.long.resume_from", "keeps no checkpoint of its end"),
    ],
)
def test_step_that_cannot_continue_another_one_is_refused_before_anything_runs(
    planned: Planned, override: str, key: str, message: str
) -> None:
    with pytest.raises(UserErrors, match=message) as caught:
        planned(override, steps=CHAIN)
    assert key in str(caught.value)


def test_plan_rejects_the_folder_of_a_run(planned: Planned) -> None:
    node = planned().nodes[0]
    finish(node)
    with pytest.raises(UserError, match="not a pipeline"):
        planned(f"output_dir={node.folder}")


def test_reasons_to_run_name_the_differences(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    sft = ["stage=sft", "data.num_train=64", "data.num_val=8"]
    steps = {"sft": sft, "test": ["stage=eval", "data.num_train=64", "model.path=${step:sft}"]}
    first, second = planned(steps=steps).nodes
    assert (cache_status(first), reasons_to_run(first)) == ("will run", ["there is no record of this step"])
    finish(first)
    finish(second, "interrupted")
    assert (cache_status(first), cache_status(second)) == ("cached", "will continue")
    assert reasons_to_run(second) == ["its record is interrupted"]
    first, second = planned("steps.sft.stage.lr=0.5", steps=steps).nodes
    assert (cache_status(first), cache_status(second)) == ("will run", "will run")
    assert reasons_to_run(first) == ["stage.lr: 0.001 -> 0.5"]
    assert reasons_to_run(second) == ["model.path: sft has changed"]
    finish(first)
    first, _ = planned("steps.sft.stage.lr=0.5", "steps.sft.stage.optimizer.beta1=0.8", steps=steps).nodes
    assert reasons_to_run(first) == ["stage.optimizer.beta1: 0.9 -> 0.8"]  # the nearest of two
    monkeypatch.setattr(provenance, "code_hash", lambda *extensions: "another code")
    first, _ = planned("steps.sft.data.seed=1", steps=steps).nodes
    assert reasons_to_run(first) == ["data.seed: 0 -> 1", "the code has changed", "the data have changed"]
