"""Each preset's architecture, small and published in bfloat16, learns under bf16-mixed as it does in float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from suites import long_but
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from r1.config.compose import compose_points
from r1.config.overrides import parse_command_line
from r1.core.jsonl import read_rows
from r1.core.paths import ASSETS, CONF
from r1.run import execute

Config = dict[str, Any]
SMALL = {"intermediate_size": 176, "num_hidden_layers": 3, "max_position_embeddings": 128, "tie_word_embeddings": True}
SHAPES: dict[str, Config] = {  # heads as in the published model, or their ratio
    "qwen2_5_0_5b": {"model_type": "qwen2", "hidden_size": 112, "num_attention_heads": 14, "num_key_value_heads": 2},
    "qwen2_5_1_5b": {"model_type": "qwen2", "hidden_size": 96, "num_attention_heads": 12, "num_key_value_heads": 2},
    "qwen3_0_6b": {"model_type": "qwen3", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2},
    "smollm2_135m": {"model_type": "llama", "hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3},
}  # fmt: skip
FEW = ["stage.examples_per_step=8", "stage.micro_batch_size=8", "stage.warmup_steps=0", "stage.schedule=constant"]
FEW += ["trainer.max_steps=11", "trainer.accelerator=cpu", "threads=1", "val.every=100", "val.num_prompts=1"]
FEW += ["val.num_samples=1", "val.ks=[1]", "rollout.max_completion_length=4", "checkpoint_every=100", "keep_best=false"]


def recipe(preset: str) -> Config:
    """The values of conf/model/recipe that a preset carries."""
    defaults = yaml.safe_load((CONF / "model" / f"{preset}.yaml").read_text())["defaults"]
    (name,) = (entry["recipe"] for entry in defaults if isinstance(entry, dict))
    return dict(yaml.safe_load((CONF / "model" / "recipe" / f"{name}.yaml").read_text()))


@pytest.fixture(scope="module", params=long_but(("qwen3_0_6b", "smollm2_135m"), sorted(SHAPES)))
def preset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(name, folder) of a preset and of random bfloat16 weights of its architecture."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny")
    torch.manual_seed(0)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    fields = SMALL | SHAPES[request.param] | ids | {"vocab_size": len(tokenizer) + 1}  # Qwen2's class adds a token
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields))
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rows = [
        {"prompt": f"What is {n} + {n + 3}?", "completion": f"{n} + {n + 3} = {2 * n + 3}", "answer": f"{2 * n + 3}"}
        for n in range(9)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return request.param, folder


def test_every_preset_for_the_hub_has_a_shape() -> None:
    presets = {file.stem for file in (CONF / "model").glob("*.yaml")}
    assert presets == {*SHAPES, "_base", "hub", "scratch", "tiny", "tiny_xs"}


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_preset_learns_as_in_float32_at_its_own_rate(preset: tuple[str, Path], tmp_path: Path, stage: str) -> None:
    """The fall of the loss of eight rows in ten steps is at least 80 % of that in float32 without autocast."""
    name, model = preset
    knobs = ["stage=sft", f"model={name}", f"model.path={model}", f"stage.lr={float(recipe(name)['lr'][stage])}"]
    knobs += ["data=dataset", f"data.path={model / 'rows.jsonl'}", "data.num_val=1", *FEW]
    falls: dict[str, float] = {}
    for precision in ("32-true", "bf16-mixed"):
        folder = tmp_path / precision
        argv = [*knobs, f"trainer.precision={precision}", f"output_dir={folder}"]
        (run,) = compose_points(*parse_command_line(argv))
        execute(run.config, argv)
        losses = [row["train/loss"] for row in read_rows(folder / "metrics.jsonl") if "train/loss" in row]
        falls[precision] = losses[0] - losses[10]
    assert falls["32-true"] > 0
    assert falls["bf16-mixed"] >= 0.8 * falls["32-true"]
