"""What is started when, and what becomes of the others when a step fails; the steps' processes are stand-ins."""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_plan import finish

from r1.core.errors import LOCKED, Interrupted, UserError
from r1.core.files import lock_folder
from r1.core.statistics import mean_over_seeds
from r1.distributed.process import last_error_line
from r1.experiment.pipeline import scheduler
from r1.experiment.pipeline.node import PipelineNode, PipelinePlan
from r1.experiment.pipeline.record import PipelineRecord
from r1.experiment.pipeline.scheduler import Steps

Planned = Callable[..., PipelinePlan]
EVAL = ["stage=eval", "data.num_train=64"]
GRAPH = {  # two arms and what joins them; nothing is built for it but four evaluations
    "a": EVAL,
    "b": [*EVAL, "seed=1"],
    "after_a": [*EVAL, "model.path=${step:a}"],
    "last": [*EVAL, "model.path=${step:after_a}", "model.tokenizer=${step:b}"],
}


class Stage:
    """Stands in for ``start``: every run ends at the second look; those named in ``failing`` fail."""

    def __init__(self, *failing: str) -> None:
        self.failing, self.log, self.alive, self.most = failing, list[str](), 0, 0

    def __call__(self, node: PipelineNode, flags: list[str], is_result: bool) -> Any:
        self.log.append(f"{node}{' *' if is_result else ''}")
        self.alive += 1
        self.most = max(self.most, self.alive)
        return Run(self, node)


class Run:
    wall_s = 1.5
    exit_code = 5

    def __init__(self, stage: Stage, node: PipelineNode) -> None:
        self.stage, self.node, self.looks, self.signals = stage, node, 0, list[int]()

    def poll(self) -> int | None:
        self.looks += 1
        if self.looks == 2:
            self.stage.alive -= 1
            if self.node.step not in self.stage.failing and not self.signals:
                finish(self.node)
        return self.exit_code if self.looks >= 2 else None

    def send_signal(self, number: int) -> None:
        self.signals.append(number)

    def last_error_line(self) -> str:
        return "it broke"


@pytest.fixture
def go(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Stage, dict[str, Any], Any]]:
    """``go("b", workers=2)``: run the graph; how it was started, the pipeline's manifest, and what was raised."""

    def ran(*failing: str, argv: tuple[str, ...] = (), **keys: Any) -> tuple[Stage, dict[str, Any], Any]:
        stage, raised = Stage(*failing), None
        monkeypatch.setattr(scheduler, "start", stage)
        monkeypatch.setattr("r1.distributed.supervisor.POLL_S", 0.0)
        record = PipelineRecord(planned("output_dir=here", *argv, **({"steps": GRAPH} | keys)), "python -m r1.run x")
        try:
            with record:
                Steps(record, []).run()
        except (UserError, Interrupted) as error:
            raised = error
        return stage, json.loads(Path("here/manifest.json").read_text()), raised

    return ran


def statuses(manifest: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["status"] for step in manifest["steps"]}


def test_steps_run_in_order_and_once(go: Any) -> None:
    stage, manifest, raised = go()
    assert (stage.log, stage.most, raised) == (["a", "b", "after_a", "last *"], 1, None)
    assert (manifest["status"], set(statuses(manifest).values())) == ("finished", {"finished"})
    assert manifest["steps"][3]["needs"] == ["after_a", "b"]
    stage, manifest, _ = go()
    assert stage.log == []
    assert set(statuses(manifest).values()) == {"cached"}
    stage, manifest, _ = go(argv=("steps.after_a.val.num_samples=4",))
    assert stage.log == ["after_a", "last *"]


def test_only_first_seed_gets_the_agents_environment(go: Any) -> None:
    stage, _, _ = go(seeds=[0, 1])
    assert [line for line in stage.log if "last" in line] == ["last[0] *", "last[1]"]


def test_number_of_workers_limits_concurrent_steps(go: Any) -> None:
    stage, _, _ = go(workers=2)
    assert stage.most == 2
    assert stage.log == ["a", "b", "after_a", "last *"]


def test_failed_step_blocks_only_its_dependents(go: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stage, manifest, raised = go("a")
    assert stage.log == ["a", "b"]
    assert statuses(manifest) == {"a": "failed", "b": "finished", "after_a": "blocked", "last": "blocked"}
    assert manifest["status"] == "failed"
    assert [step["error"] for step in manifest["steps"]] == ["it broke", None, *["it needs a, which failed"] * 2]
    assert raised.code == 5
    assert "step `a` failed, so after_a, last could not run" in str(raised)
    assert "blocked: it needs a" in capsys.readouterr().err
    stage, manifest, raised = go()
    assert (stage.log, raised) == (["a", "after_a", "last *"], None)


def test_signal_is_forwarded_and_no_further_step_starts(go: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started = Stage.__call__

    def stopped(self: Stage, node: PipelineNode, *rest: Any) -> Any:
        if node.step == "b":
            signal.raise_signal(signal.SIGTERM)
        return started(self, node, *rest)

    monkeypatch.setattr(Stage, "__call__", stopped)
    stage, manifest, raised = go()
    assert stage.log == ["a", "b"]
    assert (manifest["status"], raised.code) == ("interrupted", 143)
    assert statuses(manifest) == {"a": "finished", "b": "interrupted", "after_a": "waiting", "last": "waiting"}
    monkeypatch.setenv("WANDB_SWEEP_ID", "x")
    assert raised.code == 0


def test_locked_pipeline_folder_raises(go: Any) -> None:
    with lock_folder(Path("here").absolute()), pytest.raises(UserError, match="another process") as caught:
        go()
    assert caught.value.code == 75


@pytest.mark.parametrize("finishes", [True, False])
def test_step_of_another_pipeline_is_awaited_or_taken_over(
    go: Any, planned: Planned, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], finishes: bool
) -> None:
    node = planned("output_dir=other", "steps_dir=common", steps=GRAPH).nodes[0]
    locked = lock_folder(node.folder.absolute())

    def let_go(_: float) -> None:
        if finishes and not locked.closed:
            finish(node)
        locked.close()

    monkeypatch.setattr("r1.distributed.supervisor.time", SimpleNamespace(sleep=let_go))
    stage, manifest, raised = go(argv=("steps_dir=common",))
    assert stage.log == (["b", "after_a", "last *"] if finishes else ["b", "a", "after_a", "last *"])
    assert (raised, statuses(manifest)["a"]) == (None, "cached" if finishes else "finished")
    assert manifest["results"] == [manifest["steps"][3]["path"]]
    assert capsys.readouterr().err.count("waits: another pipeline is running it") == 1


def test_step_locked_after_its_start_is_retried(go: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started = Stage.__call__

    def second_time_lucky(self: Stage, node: PipelineNode, *rest: Any) -> Any:
        self.failing = () if "a" in self.log else ("a",)
        return started(self, node, *rest)

    monkeypatch.setattr(Stage, "__call__", second_time_lucky)
    monkeypatch.setattr(Run, "exit_code", LOCKED)
    stage, manifest, raised = go()
    assert (stage.log, raised) == (["a", "a", "b", "after_a", "last *"], None)
    assert set(statuses(manifest).values()) == {"finished"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("r1  16 prompts\nr1: wrong value\n  key      x\n", "wrong value"),
        ("r1: an older one\nr1: no such folder\n  value    1", "no such folder"),
        ("Traceback\n  File x\nValueError: no\n", "ValueError: no"),
        ("", ""),
    ],
)
def test_last_error_line(text: str, line: str) -> None:
    assert last_error_line(text) == line


def test_mean_over_seeds_matches_hand_computation() -> None:
    figure = mean_over_seeds([0.5, 0.6, 0.7])
    assert (round(figure.value, 6), figure.n) == (0.6, 3)
    assert round(figure.high - figure.value, 4) == 0.2484  # 4.303 * 0.1 / sqrt(3)
    wide = mean_over_seeds([0.0, 1.0] * 10)  # 19 degrees of freedom: t is 2.0930
    assert (wide.high - wide.value) / (0.512989 / 20**0.5) == pytest.approx(2.093, abs=0.01)


def test_pipeline_whose_config_cannot_be_written_has_the_status_failed(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "it is full")

    monkeypatch.setattr("r1.core.provenance.write_sources", full)
    record = PipelineRecord(planned("output_dir=here", steps=GRAPH), "python -m r1.run x")
    with pytest.raises(OSError, match="it is full"), record:
        pytest.fail("it has begun")
    assert json.loads(Path("here/manifest.json").read_text())["status"] == "failed"
    lock_folder(Path("here").absolute()).close()  # which is free again
