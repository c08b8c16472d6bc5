"""Training defaults that fit models of one size: learning rates by stage, completion length, micro-batches.

A preset in conf/model carries one. The stages and rollouts interpolate its values (``${recipe:lr.grpo}``), and only if
the model at hand has that size: the rate of a model with 1M parameters would destroy one with 1B. For any other model
they are null, and the run is rejected until they are set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt

from r1.core.errors import UserError
from r1.core.model_paths import split_adapters
from r1.core.types import Config

RECIPE_KEYS = ("stage.lr", "stage.micro_batch_size", "rollout.max_completion_length")


class Recipe:
    """Training defaults for models of about one size.

    Args:
        min_parameters, max_parameters: sizes that the values are meant for.
        lr: peak learning rate by stage; ``sft`` is that of every stage that learns given completions.
        lora_lr_scale: factor on ``lr`` for low-rank adapters.
        micro_batch_size: sequences per forward/backward by stage.
        max_completion_length: tokens.
    """

    def __init__(
        self,
        *,
        min_parameters: Annotated[int, Ge(0)],
        max_parameters: Annotated[int, Ge(1)],
        lr: dict[str, Annotated[float, Gt(0)]],
        lora_lr_scale: Annotated[float, Gt(0)],
        micro_batch_size: dict[str, Annotated[int, Ge(1)]],
        max_completion_length: Annotated[int, Ge(1)],
    ) -> None:
        self.min_parameters, self.max_parameters = min_parameters, max_parameters
        self.lr, self.lora_lr_scale = lr, lora_lr_scale
        self.micro_batch_size, self.max_completion_length = micro_batch_size, max_completion_length


def recipe_value(model: Config, key: str, stage: Config) -> float | int | None:
    """The recipe's value of a key such as ``lr.grpo``; None: there is no recipe, or the model has another size.

    Args:
        model: the composed node ``model``.
        stage: that of the stage, whose ``micro_batch_tokens`` replaces the number of sequences.
    """
    fields = model.get("recipe")
    if key.startswith("micro_batch_size") and stage.get("micro_batch_tokens") is not None:
        return None
    if not fields or not is_in_range(fields, model):
        return None
    name, _, of_stage = key.partition(".")
    value: float | int | None = fields[name].get(of_stage) if of_stage else fields[name]
    if value is not None and name == "lr" and model.get("lora"):
        value = float(f"{value * fields['lora_lr_scale']:.12g}")  # 1e-5, not 9.999999999999999e-06
    return value


def is_in_range(recipe: Config, model: Config) -> bool:
    """Whether a model has a size that its recipe is meant for.

    A path that does not exist yet is the result of another step of a pipeline, whose model has the same preset. A hub
    id whose config is not on this machine is trusted to fit its preset, but it is not a tiny model.
    """
    if architecture_of(model) is None:
        return bool(recipe["min_parameters"]) or not is_hub_id(str(model["path"]))
    size = model_size(model)
    return size is not None and recipe["min_parameters"] <= size <= recipe["max_parameters"]


def model_size(model: Config) -> int | None:
    """Parameters, roughly; None: unknown."""
    architecture = architecture_of(model)
    return num_parameters(architecture) if architecture else None


def architecture_of(model: Config) -> Config | None:
    """The fields of the model's config.json, without loading transformers; None: they are not on this machine."""
    if model.get("path") is None:
        return model.get("config")
    try:
        folder, _ = split_adapters(str(model["path"]), model.get("base_path"))
    except UserError:  # an unknown r1:NAME, an adapter without a base: reported when the model is loaded
        return None
    file = Path(folder, "config.json") if Path(folder).is_dir() else _cached_config(folder)
    try:
        fields = json.loads(file.read_text()) if file and file.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _cached_config(path: str) -> Path | None:
    if not is_hub_id(path):
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(path, "config.json")
    return Path(cached) if isinstance(cached, str) else None


def is_hub_id(path: str) -> bool:
    """``Qwen/Qwen2.5-0.5B``: one slash, and no such folder beside it."""
    return path.count("/") == 1 and not path.startswith(("/", ".", "~", "r1:")) and not Path(path).parent.is_dir()


def num_parameters(config: Mapping[str, Any]) -> int | None:
    """Parameters of a decoder, to about 20 %, from its config; None: the fields have other names.

    Counts embeddings, the four attention projections and a gated MLP per layer, times its experts.
    """
    width = config_field(config, "hidden_size", "n_embd", "d_model")
    layers = config_field(config, "num_hidden_layers", "n_layer", "num_layers")
    if not width or not layers:
        return None
    heads = config_field(config, "num_attention_heads", "n_head") or 1
    share = (config_field(config, "num_key_value_heads") or heads) / heads
    inner = config_field(config, "moe_intermediate_size", "intermediate_size", "n_inner") or 4 * width
    experts = config_field(config, "num_local_experts", "num_experts", "n_routed_experts") or 1
    embeddings = 1 if (config.get("text_config") or config).get("tie_word_embeddings") else 2
    layer = (2 + 2 * share) * width**2 + 3 * width * inner * experts
    return round(layers * layer + embeddings * width * (config_field(config, "vocab_size") or 0))


def num_adapter_parameters(model: Config) -> int:
    """Parameters of ``model.lora`` on all linear layers of a Llama, roughly; 0 without it, or for an unknown size."""
    architecture = architecture_of(model) or {}
    width = config_field(architecture, "hidden_size", "n_embd", "d_model") or 0
    layers = config_field(architecture, "num_hidden_layers", "n_layer", "num_layers") or 0
    return 20 * width * int(model["lora"]["r"]) * layers if model.get("lora") else 0


def config_field(config: Mapping[str, Any], *names: str) -> int | None:
    """The whole number under the first of these names that the config (of the text model) has."""
    config = config.get("text_config") or config
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def size_text(model: Config) -> str:
    """``about 135M parameters``; ``unknown size``."""
    size = model_size(model)
    if size is None:
        return "unknown size"
    unit, divisor = next(((u, d) for u, d in (("B", 10**9), ("M", 10**6), ("k", 10**3)) if size >= d), ("", 1))
    return f"about {size / divisor:.{0 if size >= 10 * divisor else 1}f}{unit} parameters"
