"""The real ``wandb sweep`` and ``wandb agent`` drive r1.run as it is; ``wandb.Api`` reads back what it did."""

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
from fakewandb_state import Held
from wandbruns import KEY, TINY, check, metrics

from r1.core.runs import read_run

Shell = Callable[..., subprocess.CompletedProcess[str]]
RUN = ["${env}", "${interpreter}", "-m", "r1.run"]
COMMAND = [*RUN, "stage=grpo", "reward=math", "logger=wandb", *TINY, "${args_no_hyphens}"]


@pytest.fixture
def sweep(shell: Shell, tmp_path: Path) -> Callable[..., str]:
    """``sweep("grid", **parameters)``: made by ``wandb sweep``; its path."""

    def made(method: str, command: list[str] = COMMAND, cap: int | None = None, **parameters: Any) -> str:
        held = {"project": "toy", "method": method, "metric": {"name": "val/pass@1", "goal": "maximize"}}
        held |= {"parameters": {name.replace("__", "."): spec for name, spec in parameters.items()}}
        rest = [part for part in command if part.partition("=")[0] not in held["parameters"]]
        held |= {"command": rest} | ({"run_cap": cap} if cap else {})
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(held))
        done = shell("wandb", "sweep", "sweep.yaml")
        assert done.returncode == 0, done.stderr
        found = re.search(r"wandb agent (\S+)", done.stderr + done.stdout)
        assert found
        return found.group(1)

    return made


@pytest.fixture
def agent(shell: Shell) -> Callable[..., str]:
    """``agent(sweep)``: works until there is nothing left to do; all that it and its runs have printed."""

    def worked(sweep: str) -> str:
        done = shell(sys.executable, str(Path(__file__).parent / "fast_agent.py"), sweep)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return worked


def runs(server: Server) -> list[Held]:
    return list(server.state.runs.values())


def value(run: Held, name: str) -> Any:
    return json.loads(run["config"])[name]["value"]


def record(run: Held, top: Path) -> Path:
    """The folder of a run's record."""
    (file,) = [file for file in top.rglob("wandb_id") if file.read_text() == run["name"]]
    return file.parent


def test_a_grid_over_a_group_and_what_the_api_reads_back(
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
    for held, (reward, run) in zip(runs(wandb_server), read_back.items(), strict=True):
        folder = record(held, tmp_path)
        check(wandb_server, held, folder)
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
def test_other_methods(
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
def test_stopped_early_in_the_middle_of_a_rollout(
    wandb_server: Server, sweep: Callable[..., str], agent: Callable[..., str], tmp_path: Path
) -> None:
    wandb_server.state.stopper = lambda config, runs: [run["name"] for run in runs if run["sampledHistory"][0]]
    endless = {"data.num_train": 512, "stage.examples_per_step": 256, "rollout.max_completion_length": 900}
    said = agent(sweep("grid", **{name: {"value": held} for name, held in endless.items()}))
    (run,) = runs(wandb_server)
    folder = record(run, tmp_path)
    assert read_run(str(folder)).manifest["status"] == "interrupted", said
    assert [row["step"] for row in metrics(folder)] == [0]
    check(wandb_server, run, folder)
    assert (run["state"], run["exitcode"]) == ("finished", 0)


@pytest.mark.long
def test_a_point_that_fails_does_not_end_the_sweep(
    wandb_server: Server, sweep: Callable[..., str], agent: Callable[..., str]
) -> None:
    said = agent(sweep("grid", stage__lr={"values": [-1.0, 0.001]}))
    assert [run["state"] for run in runs(wandb_server)] == ["crashed", "finished"]
    assert "stage.lr" in said


@pytest.mark.long
def test_a_sweep_over_a_pipeline_sees_its_result_only(
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
