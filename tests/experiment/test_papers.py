"""conf/experiment/papers: every key has its source, the papers' values are those that run, and each runs four steps."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from forkserver import ForkServer
from omegaconf import OmegaConf

from r1.config.overrides import parse_command_line
from r1.core.paths import CONF
from r1.experiment.pipeline.parse import parse_pipelines
from r1.experiment.pipeline.steps import merge_overrides

pytestmark = pytest.mark.slow

FILES = {file.stem: file for file in sorted((CONF / "experiment/papers").glob("[!_]*.yaml"))}
SOURCE = re.compile(
    r"(DAPO )?(sec|tab|eq|fig|app)\. [\dA-Z]|script|Reinforcement learning|Methods|Setting LoRA|LoRA on all"
    r"|Distillation for reasoning|pseudocode|the published checkpoints'|not stated|differs: "
    r"|no effect on the result|the steps are the budget"
)
STRUCTURE = re.compile(
    r"model=hub|- _base|papers/_base|_self_|stage=|data=|\$\{step:|\.jsonl|data@|terms@|null$|\.terms=|teacher="
)

# Values as the papers print them, written down apart from the files: prompts per rollout batch, minibatches, samples
# per prompt, and others. None: not printed.
BATCHES = {
    "cispo": (None, 16, None),
    "dapo": (512, 16, 16),
    "dr_grpo": (128, 8, 8),
    "gdpo": (512, 8, 16),
    "gspo": (None, 4, None),
    "lora_without_regret": (None, None, 32),
    "magistral": (None, 1, None),
    "max_rl": (256, 1, 16),
    "polaris": (128, 1, 8),
    "prorl": (256, 4, 16),
    "r1:rl": (512, 16, 16),
    "r1_zero": (512, 16, 16),
    "skywork_or1": (256, 1, 16),
    "skywork_or1:stage_2": (160, 1, 32),
    "on_policy_distillation:distill": (512, None, 4),
}
VALUES: dict[str, dict[str, Any]] = {
    "cispo": {"stage.optimizer.beta2": 0.95, "stage.kl_coef": 0},
    "dapo": {"stage.lr": 1e-6, "stage.clip_low": 0.2, "stage.clip_high": 0.28, "rollout.max_completion_length": 20480},
    "dr_grpo": {
        "stage.lr": 1e-6,
        "stage.clip_high": 0.2,
        "rollout.max_completion_length": 3000,
        "rollout.temperature": 1,
    },
    "gdpo": {"stage.kl_coef": 0.0005, "stage.kl_estimator": "k2", "rollout.max_completion_length": 8000},
    "gspo": {"stage.clip_low": 3e-4, "stage.clip_high": 4e-4},
    "lora_without_regret": {"model.lora.r": 1, "model.lora.alpha": 32, "model.lora.target_modules": "all-linear"},
    "magistral": {"stage.clip_high": 0.3, "reward.terms.format.weight": 0.1, "reward.terms.accuracy.weight": 0.9},
    "max_rl": {"stage.max_grad_norm": 0.3, "rollout.max_completion_length": 4096},
    "polaris": {"rollout.temperature": 1.4, "rollout.max_completion_length": 39936, "stage.clip_high": 0.28},
    "prorl": {"stage.lr": 2e-6, "stage.clip_low": 0.2, "stage.clip_high": 0.4, "rollout.temperature": 1.2},
    "r1_zero": {"stage.lr": 3e-6, "stage.kl_coef": 0.001, "stage.ref_sync_every": 400, "stage.num_iterations": 1},
    "r1:rl": {"stage.lr": 3e-6, "stage.kl_coef": 0.001, "stage.clip_high": 10, "rollout.max_completion_length": 32768},
    "r1:sft": {"stage.lr": 5e-5, "stage.min_lr": 0.1, "stage.schedule": "cosine", "stage.examples_per_step": 128},
    "r1:preferences": {"stage.lr": 6e-6, "stage.examples_per_step": 256, "trainer.max_epochs": 1},
    "r1:rl_all": {"rollout.temperature": 0.7, "trainer.max_steps": 1296 + 400},
    "r1_distill:qwen_1_5b": {"stage.lr": 1e-4, "stage.min_lr": 0.1, "stage.examples_per_step": 64},
    "r1_distill:qwen_7b": {"stage.lr": 8e-5},
    "r1_distill:qwen_14b": {"stage.lr": 7e-5},
    "r1_distill:qwen_32b": {"stage.lr": 6e-5},
    "r1_distill:llama_8b": {"stage.lr": 5e-5},
    "r1_distill:llama_70b": {"stage.lr": 2e-5},
    "skywork_or1": {"stage.entropy_target": 0.2, "stage.entropy_coef_delta": 0.005, "stage.lr": 1e-6},
    "on_policy_distillation:distill": {"rollout.temperature": 1, "trainer.max_steps": 150},
}
DIFFERENT = {  # all that is known to differ from the paper
    "cispo": ["data"],
    "dapo": ["data"],
    "dr_grpo": ["data"],
    "gdpo": [],
    "gspo": ["model.path"],
    "lora_without_regret": [],
    "magistral": ["stage/loss", "model.path", "data"],
    "max_rl": [],
    "on_policy_distillation": [],
    "polaris": ["stage.zero_variance"],
    "prorl": ["data"],
    "r1": ["data"],
    "r1_distill": ["data"],
    "r1_zero": ["data"],
    "skywork_or1": [],
}


def keyed_lines(name: str) -> list[tuple[str, str]]:
    """(key, comment) of every line of a file that sets something; a nested key is written with dots."""
    found: list[tuple[str, str]] = []
    path: list[tuple[int, str]] = []
    for line in FILES[name].read_text().splitlines():
        body, _, comment = line.partition(" # ")
        if match := re.fullmatch(r"( *)- (?:override )?/?([^:=]+)(?:[:=] ?(.*?))?\s*", body):
            key = match[2].lstrip("+").strip()
            if not STRUCTURE.search(body.strip()) or comment:
                found.append((key, comment))
        elif match := re.fullmatch(r"( *)(\w+):\s*(.*?)\s*", body):
            path = [(depth, key) for depth, key in path if depth < len(match[1])] + [(len(match[1]), match[2])]
            if match[3]:
                found.append((".".join(key for _, key in path), comment))
    return found


def steps_of(name: str) -> dict[str, list[str]]:
    """The overrides of a paper's steps; a single run is the step ``run``."""
    args, overrides = parse_command_line([f"experiment=papers/{name}"])
    pipelines = parse_pipelines(args, overrides, {})
    if not pipelines:
        return {"run": [f"experiment=papers/{name}"]}
    return {step: part.overrides() for step, part in pipelines[0].steps.items()}


def value_at(cfg: Any, key: str) -> Any:
    return OmegaConf.select(OmegaConf.create(cfg), key)


def composed(config: Any, name: str) -> Any:
    paper, _, step = name.partition(":")
    steps = steps_of(paper)
    return config(*(re.sub(r"\$\{step:(\w+)\}", r"\1", text) for text in steps[step or next(iter(steps))]))


@pytest.mark.parametrize("name", FILES)
def test_every_key_has_its_source(name: str) -> None:
    assert [(key, comment) for key, comment in keyed_lines(name) if not SOURCE.match(comment)] == []


@pytest.mark.parametrize("name", FILES)
def test_keys_that_differ_from_the_paper_are_named(name: str) -> None:
    different = [key for key, comment in keyed_lines(name) if comment.startswith("differs: ")]
    assert sorted(different) == sorted(DIFFERENT[name])


@pytest.mark.parametrize("name", BATCHES)
def test_batch_is_the_papers(config: Any, name: str) -> None:
    stage, (prompts, minibatches, group) = composed(config, name)["stage"], BATCHES[name]
    split = stage.get("steps_per_rollout", 1)
    assert prompts in (None, stage["examples_per_step"] * split)
    assert minibatches in (None, split)
    assert group in (None, stage["group_size"])


@pytest.mark.parametrize("name", VALUES)
def test_values_are_the_papers(config: Any, name: str) -> None:
    cfg = composed(config, name)
    assert {key: value_at(cfg, key) for key in VALUES[name]} == VALUES[name]


def test_page_is_the_one_that_the_files_make() -> None:
    script = runpy.run_path(str(CONF.parent / "docs/make_papers.py"))
    assert script["PAGE"].read_text() == script["page"](), "write it again: python docs/make_papers.py"


# ---- four steps in the tiny world ----

KEPT = (
    "steps_per_rollout",
    "num_iterations",
    "clip_low",
    "clip_high",
    "clip_dual",
    "loss",
    "advantage",
    "lr",
    "schedule",
)
KEPT += ("min_lr", "warmup_steps", "kl_coef", "entropy_target", "zero_variance", "optimizer")
ANY_STAGE = [
    "model.gradient_checkpointing=false",
    "model.precision=32-true",
    "strategy=single",
    "rollout=transformers",
    "rollout.max_completion_length=24",
    "trainer.max_steps=4",
    "trainer.max_epochs=null",
    "trainer.accelerator=cpu",
    "threads=1",
    "val.num_prompts=2",
    "val.num_samples=1",
    "val.ks=[1]",
    "val.every=1000",
]
OF_STAGE = {  # P, G and lengths
    "grpo": ["stage.examples_per_step=1", "stage.group_size=4", "stage.micro_batch_size=4"],
    "sft": ["stage.examples_per_step=4", "stage.micro_batch_size=4"],
    "reward_model": ["stage.examples_per_step=4", "stage.micro_batch_size=4"],
    "rejection_sampling": ["stage.num_questions=24", "stage.answers_per_question=4"],
    "distill_on_policy": [
        "stage.examples_per_step=4",
        "stage.micro_batch_size=4",
        "teacher.path=r1:tiny_xs",
        "teacher.dtype=float32",
    ],
}
LENGTHS = ["reward.terms.length.max_length=24", "reward.terms.length.buffer=4"]


def scaled(cfg: Any, overrides: Sequence[str], folder: Path) -> list[str]:
    """A step's overrides with a tiny model, sums for questions, and small P, G and lengths."""
    stage = cfg["stage"]["_target_"].split(".")[-2]
    scales = [*ANY_STAGE, *OF_STAGE[stage]]
    if cfg["data"].get("path", "").count("/") == 1 and not cfg["data"]["path"].endswith(".jsonl"):  # on the Hub
        scales.append("data=arithmetic")
        overrides = [text for text in overrides if not text.startswith("data.path=")]
    if "length" in (cfg["reward"]["terms"] or {}):
        scales += LENGTHS
    if not any(text.startswith("model.path=${step:") for text in overrides):
        scales.append("model.path=r1:tiny")
    if "+data@data.parts.reasoning=openr1_math" in overrides:
        scales.append("+data@data.parts.reasoning=arithmetic")
    length = ["trainer.max_steps=20"] * bool(cfg["resume_from"])
    named = [text.partition("=") for text in overrides if text.endswith(".jsonl")]
    return merge_overrides(list(overrides), scales, length, [f"{key}={folder / file}" for key, _, file in named])


def run_steps(server: ForkServer, config: Any, tmp_path: Path, name: str) -> None:
    general = [{"prompt": f"Say {n}", "completion": f"<think>{n}</think><answer>{n}</answer>"} for n in range(24)]
    pairs = [{"prompt": f"Say {n}", "chosen": f"{n}", "rejected": "no"} for n in range(24)]
    for file, rows in (("general.jsonl", general), ("pairs.jsonl", pairs)):
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = steps_of(name)
    for step, overrides in steps.items():
        paper = composed(config, f"{name}:{step}")
        is_resumed = any(f"resume_from=${{step:{step}}}" in other for other in steps.values())
        whole_batch = ["trainer.max_steps=16"] * is_resumed
        texts = merge_overrides(scaled(paper, overrides, tmp_path), whole_batch)
        texts = [re.sub(r"\$\{step:(\w+)\}", lambda match: str(tmp_path / match[1]), text) for text in texts]
        ended = server.run(texts, tmp_path / step)
        assert ended.code == 0, (tmp_path / f"{step}.log").read_text()
        ran = OmegaConf.to_container(OmegaConf.load(tmp_path / step / "config.yaml"))
        assert isinstance(ran, dict)
        assert {key: ran["stage"][key] for key in KEPT if key in paper["stage"]} == {
            key: paper["stage"][key] for key in KEPT if key in paper["stage"]
        }
        if "examples_per_step" in paper["stage"]:
            rows = map(json.loads, (tmp_path / step / "metrics.jsonl").read_text().splitlines())
            assert len([row for row in rows if "train/grad_norm" in row]) == (16 if is_resumed else 4)


PIPELINES = [name for name, file in FILES.items() if "\nsteps:" in file.read_text()]


@pytest.mark.parametrize("name", [name for name in FILES if name not in PIPELINES])
def test_run_takes_four_steps(server: ForkServer, config: Any, tmp_path: Path, name: str) -> None:
    run_steps(server, config, tmp_path, name)


@pytest.mark.long
@pytest.mark.parametrize("name", PIPELINES)
def test_all_steps_of_a_pipeline_take_four_steps(server: ForkServer, config: Any, tmp_path: Path, name: str) -> None:
    run_steps(server, config, tmp_path, name)
