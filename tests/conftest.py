"""What the tests share: one thread, composed configs, built experiments, a tiny random model, and a dense reward."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial, wraps
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import settings
from lightning.pytorch.plugins.precision import Precision
from omegaconf import OmegaConf
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from r1.config.build import Experiment, build
from r1.config.check.config import check_schema
from r1.config.overrides import parse_command_line
from r1.core.paths import CONF
from r1.data.arithmetic import arithmetic, sum_row, worked_solution
from r1.data.base import Data, Row
from r1.experiment.pipeline.node import PipelinePlan
from r1.experiment.pipeline.parse import parse_pipelines, split_step_overrides
from r1.experiment.pipeline.plan import plan_pipeline
from r1.experiment.pipeline.steps import Pipeline

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from commands import Commands
    from fakewandb import Server
    from forkserver import Ended, ForkServer, UninterruptedRuns

settings.register_profile("r1", deadline=None)  # no test is timed: the machine may be busy
settings.load_profile("r1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Backwards by file: the slow tests of training first, and the many small ones at the end for both workers."""
    items.sort(key=lambda item: item.path, reverse=True)


Config = dict[str, Any]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
SMALL = [
    "model=scratch",
    *(f"model.config.{name}={size}" for name, size in SIZES.items()),
    "+model.config.initializer_range=0.2",  # far from uniform, unlike the usual 0.02
    "data.num_train=64",
    "data.num_val=8",
    "stage.examples_per_step=4",
    "rollout.max_completion_length=8",
    "val.num_prompts=2",
    "val.num_samples=2",
    "val.ks=[1,2]",
    "val.every=2",
    "trainer.max_steps=6",
    "trainer.accelerator=cpu",
]


def low_ids(completion_ids: list[list[int]]) -> list[float]:
    """A reward that random weights earn now and then: the share of tokens in the lower half of the vocabulary."""
    return [sum(token < 305 for token in ids) / len(ids) for ids in completion_ids]


DENSE = [  # instead of the rewards for a right answer, which random weights never earn
    "~reward.terms.accuracy",
    "~reward.terms.format",
    f"+reward.terms.low_ids={{_target_: {low_ids.__module__}.low_ids, weight: 1.0}}",
    f"extensions=[{low_ids.__module__}]",
]


WAITED: list[str] = []


def waiting(completion_ids: list[list[int]], *, file: str) -> list[float]:
    """``low_ids``; in the middle of a run it waits until there is ``file``."""
    WAITED.append(file)
    if WAITED.count(file) == 4:
        while not Path(file).exists():
            time.sleep(0.05)
    return low_ids(completion_ids)


WAITING = f"reward.terms.low_ids._target_={low_ids.__module__}.waiting"

LEARN = ["stage.examples_per_step=4", "stage.micro_batch_size=4", "model=scratch"]
LEARN += [f"model.config.{name}={size}" for name, size in SIZES.items()]
PIPELINE: dict[str, Any] = {
    "shared": [
        "data.num_val=8",
        "rollout.max_completion_length=8",
        "val.num_prompts=2",
        "val.num_samples=2",
        "val.ks=[1,2]",
        "val.every=20",
        "trainer.max_steps=2",
        "trainer.accelerator=cpu",
        "threads=1",
        "checkpoint_every=1",
    ],
    "steps": {
        "answers": ["stage=distill", "stage.num_questions=24", "data.num_train=64", *LEARN],
        "sft": ["stage=sft", "data=traces", "data.path=${step:answers}", "trainer.max_steps=40", *LEARN],
        "test": ["stage=eval", "data.num_train=64", "model.path=${step:sft}"],
    },
}

pytest.register_assert_rewrite("samerun")


@wraps(arithmetic)
def any_sums(**knobs: Any) -> Data:
    """Sums, and every text is a way to ask for one: random weights never write a sum."""

    def row_from_question(text: str) -> Row:
        terms = [1 + digit % 9 for digit in sha256(text.encode()).digest()[:4]]
        return sum_row(terms, worked_solution(terms, random.Random(text), ["en"]))

    return replace(arithmetic(**knobs), row_from_question=row_from_question)


any_sums.__module__ = low_ids.__module__


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Rows that tests read are not kept for other sessions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def loggers_speak() -> None:
    """Hydra switches off every logger that exists when it sets up its own."""
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False


@pytest.fixture(scope="session")
def config() -> Callable[..., Config]:
    """``config("stage=sft", ...)``: the default config with these overrides, resolved, as plain containers."""

    @cache
    def composed(overrides: tuple[str, ...]) -> Any:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            return OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)

    return lambda *overrides: deepcopy(composed(overrides))


@pytest.fixture(scope="session")
def small(config: Callable[..., Config]) -> Callable[..., Config]:
    """``small("stage=grpo", ...)``: a config that runs in a second on random weights, with the dense reward."""

    def composed(stage: str, *overrides: str) -> Config:
        group = ["stage.group_size=4"] if stage == "stage=grpo" else []
        batch = [] if stage in ("stage=eval", "stage=rejection_sampling") else ["stage.micro_batch_size=4"]
        knobs = [o for o in SMALL if batch or not o.startswith("stage.")]
        knobs = [o for o in knobs if "data=mixture" not in overrides or not o.startswith("data.")]  # its parts' keys
        return config(stage, *knobs, *batch, *group, *DENSE, *overrides)

    return composed


@pytest.fixture(scope="session")
def experiment(small: Callable[..., Config]) -> Callable[..., Experiment]:
    """``experiment("stage=sft", ...)``: a small config, checked and built; nothing is loaded."""

    def built(stage: str, *overrides: str) -> Experiment:
        cfg = small(stage, *overrides)
        check_schema(cfg)
        return build(cfg)

    return built


@pytest.fixture(scope="session")
def stage(experiment: Callable[..., Experiment]) -> Callable[..., Any]:
    """``stage("stage=grpo", ...)``: a built stage with its weights, attached to a stand-in for the Trainer."""

    def loaded(name: str, *overrides: str, world_size: int = 1, global_rank: int = 0) -> Any:
        made = experiment(name, *overrides).stage
        made.configure_model()
        made.trainer = SimpleNamespace(  # type: ignore[assignment]
            world_size=world_size,
            global_rank=global_rank,
            max_steps=6,
            global_step=0,
            sanity_checking=False,
            precision="32-true",
            precision_plugin=Precision(),
            callback_metrics={},
            loggers=[],
            strategy=None,
        )
        made.update_engine()
        return made

    return loaded


def random_model(model_type: str = "llama", seed: int = 0, **fields: Any) -> PreTrainedModel:
    """Random weights of any architecture, biases and norms included, in eval mode."""
    sizes = {"vocab_size": 97, "initializer_range": 0.2} | SIZES | fields
    config = AutoConfig.for_model(model_type, **sizes)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).eval()
        for vector in (p for p in model.parameters() if p.ndim == 1):
            vector += 0.2 * torch.randn_like(vector)
    return model


@pytest.fixture(scope="session")
def make_model() -> Callable[..., PreTrainedModel]:
    return random_model


@pytest.fixture(scope="session")
def llama(make_model: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    """A tiny random llama; do not change it."""
    return make_model("llama")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Path]:
    """``record("name", seed=0, group_size=8, ...)``: the folder of a run that was never made."""
    from records import make_record

    return partial(make_record, tmp_path)


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    """Runs that are killed, stopped and damaged, forked in a moment from a process that has imported everything."""
    from forkserver import ForkServer

    made = ForkServer()
    yield made
    made.close()


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """``commands("r1.run", *argv, cwd=folder)``: a command as a process that need not import anything."""
    from commands import Commands

    made = Commands(tmp_path_factory.mktemp("commands") / "socket")
    yield made
    made.close()


@pytest.fixture(scope="session")
def uninterrupted_run(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> UninterruptedRuns:
    from forkserver import UninterruptedRuns

    return UninterruptedRuns(server, tmp_path_factory.mktemp("whole"))


# ---- pipelines ----


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """``write(steps=...)``: a user's own experiment file, here; how it is chosen on a command line."""
    monkeypatch.chdir(tmp_path)

    def written(**keys: Any) -> list[str]:
        file = tmp_path / "conf" / "experiment" / "mine.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("# @package _global_\n" + OmegaConf.to_yaml(OmegaConf.create(PIPELINE | keys)))
        return ["--config-dir", "conf", "experiment=mine"]

    return written


@pytest.fixture
def parse(write: Callable[..., list[str]]) -> Callable[..., list[Pipeline]]:
    """``parse("steps.sft.stage.lr=1", steps=...)``: the pipelines of a command line over a user's own file."""

    def read_back(*argv: str, **keys: Any) -> list[Pipeline]:
        flags = [text for text in argv if text.startswith("-")]
        rest, of_step = split_step_overrides([*flags, *write(**keys), *(text for text in argv if text not in flags)])
        return parse_pipelines(*parse_command_line(rest), of_step)

    return read_back


@pytest.fixture
def planned(write: Callable[..., list[str]]) -> Callable[..., PipelinePlan]:
    """``planned("steps.sft.stage.lr=1", steps=...)``: the plan of a command line."""

    def build_plan(*argv: str, **keys: Any) -> PipelinePlan:
        rest, of_step = split_step_overrides([*write(**keys), *argv])
        args, overrides = parse_command_line(rest)
        (pipeline,) = parse_pipelines(args, overrides, of_step)
        return plan_pipeline(args, pipeline, {})

    return build_plan


# ---- W&B ----


@pytest.fixture
def wandb_server() -> Iterator[Server]:
    """A W&B server on this machine; whatever is asked of it, it must know."""
    from fakewandb import Server

    with Server() as server:
        yield server
        assert server.state.unknown == []


@pytest.fixture
def wandb_env(wandb_server: Server, tmp_path: Path) -> dict[str, str]:
    from wandbruns import environment

    return environment(wandb_server, tmp_path / "home")


@pytest.fixture
def shell(wandb_env: dict[str, str], tmp_path: Path) -> Callable[..., CompletedProcess[str]]:
    """``shell("wandb", "sync", ...)``: a command as a user of the server types it."""
    from wandbruns import shell

    return partial(shell, wandb_env, tmp_path)


@pytest.fixture
def logged(server: ForkServer, wandb_env: dict[str, str], folder: Path) -> Callable[..., Ended]:
    """``logged("grpo", "logger.mode=offline", point=...)``: a run with logger=wandb, forked in a moment."""
    from forkserver import knobs

    def done(kind: str, *overrides: str, to: Path = folder, env: dict[str, str] | None = None, **more: Any) -> Ended:
        return server.run(knobs(kind, "logger=wandb", *overrides), to, env=wandb_env | (env or {}), **more)

    return done
