"""The real ``wandb sweep`` and ``wandb agent`` drive r1.run; ``wandb.Api`` reads its runs back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PIPELINE
from fakewandb import Server
from fakewandb_state import Json
from wandbruns import KEY, TINY, check, metrics

from r1.core.runs import read_run

pytestmark = pytest.mark.slow

Shell = Callable[..., subprocess.CompletedProcess[str]]
RUN = ["${env}", "${interpreter}", "-m", "r1.run"]
COMMAND = [*RUN, "stage=grpo", "reward=math", "logger=wandb", *TINY, "${args_no_hyphens}"]


@pytest.fixture
def sweep(shell: Shell, tmp_path: Path) -> Callable[..., str]:
    """``sweep("grid", **parameters)``: the path of a sweep created by ``wandb sweep``."""

    def create(method: str, command: list[str] = COMMAND, cap: int | None = None, **parameters: Any) -> str:
        config = {"project": "toy", "method": method, "metric": {"name": "val/pass@1", "goal": "maximize"}}
        config |= {"parameters": {name.replace("__", "."): spec for name, spec in parameters.items()}}
        rest = [part for part in command if part.partition("=")[0] not in config["parameters"]]
        config |= {"command": rest} | ({"run_cap": cap} if cap else {})
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(config))
        done = shell("wandb", "sweep", "sweep.yaml")
        assert done.returncode == 0, done.stderr
        match = re.search(r"wandb agent (\S+)", done.stderr + done.stdout)
        assert match
        return match.group(1)

    return create


@pytest.fixture
def agent(shell: Shell) -> Callable[..., str]:
    """``agent(sweep)``: runs an agent until the sweep is finished; the output of the agent and its runs."""

    def run_agent(sweep: str) -> str:
        done = shell(sys.executable, str(Path(__file__).parent / "fast_agent.py"), sweep)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run_agent


def runs(server: Server) -> list[Json]:
    return list(server.state.runs.values())


def value(run: Json, name: str) -> Any:
    return json.loads(run["config"])[name]["value"]


def record(run: Json, top: Path) -> Path:
    """The folder of a run's record."""
    (file,) = [file for file in top.rglob("wandb_id") if file.read_text() == run["name"]]
    return file.parent


def test_grid_sweep_is_read_back_through_the_api(
    wandb_server: Server, sweep: Callable[..., str], agent: Callable[..., str], tmp_path: Path, monkeypatch: Any
) -> None:
    import wandb

    path = sweep("grid", reward={"values": ["math", "r1_zero"]})
    agent(path)
    monkeypatch.setenv("WANDB_BASE_URL", wandb_server.url)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "home"))
    api = wandb.Api(api_key=KEY, overrides={"base_url": wandb_server.url})
    read_back = {run.config["reward"]: run for run in api.sweep(path).runs}
    assert read_back.keys() == {"math", "r1_zero"}
    for stored, (reward, run) in zip(runs(wandb_server), read_back.items(), strict=True):
        folder = record(stored, tmp_path)
        check(wandb_server, stored, folder)
        assert run.state == "finished"
        terms = read_run(str(folder)).config["reward"]["terms"]
        assert {name for name in run.config if re.fullmatch(r"reward\.terms\.\w+\.weight", name)} == {
            f"reward.terms.{name}.weight" for name in terms
        }, reward
        assert run.config["stage.group_size"] == 4
        assert run.summary["val/pass@1"] == metrics(folder)[-1]["val/pass@1"]
        losses = [row["train/loss"] for row in run.scan_history() if row.get("train/loss") is not None]
        assert losses == [row["train/loss"] for row in metrics(folder) if "train/loss" in row]


@pytest.mark.long
@pytest.mark.parametrize("method", ["random", "bayes"])
def test_random_and_bayes_sweeps_finish(
    wandb_server: Server, sweep: Callable[..., str], agent: Callable[..., str], tmp_path: Path, method: str
) -> None:
    rate = {"min": 1.0e-5, "max": 1.0e-2, "distribution": "log_uniform_values"}
    agent(sweep(method, cap=3, stage__lr=rate, stage__group_size={"values": [2, 4]}))
    assert [run["state"] for run in runs(wandb_server)] == ["finished"] * 3
    for run in runs(wandb_server):
        config = read_run(str(record(run, tmp_path))).config
        assert (config["stage"]["lr"], config["stage"]["group_size"]) == (
            pytest.approx(value(run, "stage.lr")),
            value(run, "stage.group_size"),
        )


@pytest.mark.long
def test_two_agents_share_a_grid(
    wandb_server: Server, sweep: Callable[..., str], agent: Callable[..., str], tmp_path: Path
) -> None:
    path = sweep("grid", stage__group_size={"values": [2, 4, 8, 16]})
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(agent, [path] * 2))
    assert sorted(value(run, "stage.group_size") for run in runs(wandb_server)) == [2, 4, 8, 16]
    for run in runs(wandb_server):
        assert run["state"] == "finished"
        check(wandb_server, run, record(run, tmp_path))


@pytest.mark.long
def test_early_stop_during_a_rollout_interrupts_the_run(
    wandb_server: Server, sweep: Callable[..., str], agent: Callable[..., str], tmp_path: Path
) -> None:
    wandb_server.state.stopper = lambda config, runs: [run["name"] for run in runs if run["sampledHistory"][0]]
    endless = {"data.num_train": 512, "stage.examples_per_step": 256, "rollout.max_completion_length": 900}
    output = agent(sweep("grid", **{name: {"value": setting} for name, setting in endless.items()}))
    (run,) = runs(wandb_server)
    folder = record(run, tmp_path)
    assert read_run(str(folder)).manifest["status"] == "interrupted", output
    assert [row["step"] for row in metrics(folder)] == [0]
    check(wandb_server, run, folder)
    assert (run["state"], run["exitcode"]) == ("finished", 0)


@pytest.mark.long
def test_failed_point_does_not_end_the_sweep(
    wandb_server: Server, sweep: Callable[..., str], agent: Callable[..., str]
) -> None:
    output = agent(sweep("grid", stage__lr={"values": [-1.0, 0.001]}))
    assert [run["state"] for run in runs(wandb_server)] == ["crashed", "finished"]
    assert "stage.lr" in output


@pytest.mark.long
def test_sweep_over_a_pipeline_gets_its_result_run_only(
    wandb_server: Server,
    sweep: Callable[..., str],
    agent: Callable[..., str],
    write: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    flags = write(shared=[*PIPELINE["shared"], "logger=wandb"])
    agent(sweep("grid", [*RUN, *flags, "${args_no_hyphens}"], **{"steps.sft.stage.lr": {"values": [0.01]}}))
    (swept,) = [run for run in runs(wandb_server) if run["sweepName"]]
    others = [run for run in runs(wandb_server) if not run["sweepName"]]
    assert {run["state"] for run in [swept, *others]} == {"finished"}
    assert len(others) == 2
    folder = record(swept, tmp_path)
    assert read_run(str(folder)).config["stage"]["_target_"] == "r1.stage.eval.Eval"
    check(wandb_server, swept, folder)
