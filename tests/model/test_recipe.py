"""Defaults by model size: the size of a config, and who gets which values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from r1.config.compose import compose_points
from r1.config.overrides import parse_command_line
from r1.core.errors import UserErrors
from r1.core.types import Config
from r1.model.recipe import num_parameters
from r1.run import execute

QWEN_0_5B: Config = {
    "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
GPT2: Config = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257}
MIXTRAL: Config = {
    "model_type": "mixtral", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "vocab_size": 1000,
}  # fmt: skip


def composed(*argv: str) -> Config:
    (run,) = compose_points(*parse_command_line(list(argv)))
    return run.config


def defaults(config: Config) -> tuple[Any, Any, Any]:
    stage = config["stage"]
    return stage["lr"], stage["micro_batch_size"], config["rollout"]["max_completion_length"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the config of a 0.5B model."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN_0_5B))
    return tmp_path


@pytest.mark.parametrize("fields", [QWEN_0_5B, GPT2, MIXTRAL], ids=["qwen2", "gpt2", "mixtral"])
def test_num_parameters_is_within_a_quarter_of_transformers(fields: Config) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields))
    expected = sum(parameter.numel() for parameter in model.parameters())
    assert num_parameters(AutoConfig.for_model(**fields).to_dict()) == pytest.approx(expected, rel=0.25)


def test_num_parameters_of_unknown_fields_is_none() -> None:
    assert num_parameters({"model_type": "other", "dims": [4, 4]}) is None


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], (3e-4, 64, 64)),
        (["stage=sft", "model=tiny_xs"], (1e-3, 32, 64)),
        (["model=scratch"], (3e-4, 64, 64)),
        (["model=qwen2_5_0_5b"], (1e-6, 8, 1024)),
        (["model=qwen2_5_0_5b", "+model/lora=default"], (1e-5, 8, 1024)),
        (["model=qwen2_5_1_5b", "stage=distill"], (2e-5, 4, 2048)),
        (["model=smollm2_135m", "stage=sft", "stage.lr=3e-5"], (3e-5, 16, 512)),
        (["model.path=outputs/of/a/step"], (3e-4, 64, 64)),  # the result of a pipeline's step
        (["model.path=Qwen/Qwen2.5-7B"], (None, None, None)),
        (["model=scratch", "model.config.hidden_size=2048"], (None, None, None)),
    ],
)
def test_recipe_values_reach_models_of_its_size_only(argv: list[str], expected: tuple[Any, Any, Any]) -> None:
    assert defaults(composed(*argv)) == expected


def test_recipe_is_chosen_by_content_of_the_path(folder: Path) -> None:
    assert defaults(composed(f"model.path={folder}")) == (None, None, None)
    assert defaults(composed(f"model.path={folder}", "model/recipe=500m")) == (1e-6, 8, 1024)
    assert defaults(composed(f"model.path={folder}", "model/recipe=1_5b")) == (None, None, None)


def test_missing_defaults_are_reported_with_a_fitting_recipe(folder: Path) -> None:
    cfg = composed(f"model.path={folder}", "stage.micro_batch_size=4")
    with pytest.raises(UserErrors) as caught:
        execute(cfg, [])
    assert [error.key for error in caught.value.errors] == ["stage.lr", "rollout.max_completion_length"]
    assert "`stage.lr` has no default for a model of about 494M parameters" in str(caught.value)
    assert "model/recipe=500m" in str(caught.value)
