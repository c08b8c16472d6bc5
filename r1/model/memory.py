"""Peak memory of one device in training, estimated from the model's config before anything is loaded.

The coefficients are the bytes that transformers' Llama and Qwen2 layers keep for the backward pass per token, counted
with ``saved_tensors_hooks`` (tests/model/test_memory.py); flash attention and other layers differ by some 20 %.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from r1.core.types import Config
from r1.model.recipe import config_field, num_parameters

GB = 1e9
ADAMW_BYTES = 8  # two moments in float32
HEAD_TILES = 3  # logits, their probabilities and their gradient, a tile each
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device at the start of a backward pass."""

    weights: float
    gradients: float
    optimizer: float
    reference: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return float(sum(asdict(self).values()))

    def __str__(self) -> str:
        shown = " + ".join(
            f"{name} {size / GB:.2g}" for name, size in asdict(self).items() if size >= 0.01 * self.total
        )
        return f"about {self.total / GB:.2g} GB ({shown})"


def estimate_memory(
    architecture: Config,
    *,
    num_tokens: int,
    dtype: str = "float32",
    autocast: bool = False,
    checkpointing: bool = False,
    num_shards: int = 1,
    adapter_parameters: int | None = None,
    reference: bool = False,
    tile: int = 2**27,
) -> MemoryEstimate | None:
    """The memory of AdamW training on one device; None: the config has fields of other names.

    Args:
        architecture: fields of config.json.
        num_tokens: of a micro-batch.
        dtype: of the weights.
        autocast: products in half precision.
        checkpointing: a layer's activations are computed again in the backward pass.
        num_shards: devices that share weights, gradients and moments.
        adapter_parameters: trained low-rank adapters; None: all weights are trained.
        reference: a second, frozen copy of the weights.
        tile: elements of the output layer's tile.
    """
    size, layers = (
        num_parameters(architecture),
        config_field(architecture, "num_hidden_layers", "n_layer", "num_layers"),
    )
    if size is None or layers is None:
        return None
    trained = size if adapter_parameters is None else adapter_parameters
    weights = BYTES[dtype] * size / num_shards
    layer = num_tokens * _layer_bytes(architecture, dtype, autocast, adapter_parameters is not None)
    copies = 2 * size / num_shards if autocast and dtype == "float32" else 0  # autocast's, in half precision
    residual = num_tokens * 4 * (config_field(architecture, "hidden_size", "n_embd", "d_model") or 0)
    return MemoryEstimate(
        weights=weights + BYTES[dtype] * (trained if adapter_parameters is not None else 0),
        gradients=BYTES[dtype] * trained / num_shards,
        optimizer=(ADAMW_BYTES if dtype == "float32" else 2 * BYTES[dtype]) * trained / num_shards,
        reference=weights if reference else 0,
        activations=copies + (layers * residual + layer if checkpointing else layers * layer),
        logits=HEAD_TILES * 4 * min(tile, num_tokens * (config_field(architecture, "vocab_size") or 0)),
    )


def _layer_bytes(architecture: Config, dtype: str, autocast: bool, adapters: bool) -> float:
    """Bytes per token that one layer keeps for the backward pass."""
    width = config_field(architecture, "hidden_size", "n_embd", "d_model") or 0
    heads = config_field(architecture, "num_attention_heads", "n_head") or 1
    attention = heads * (config_field(architecture, "head_dim") or width // heads)
    dense = config_field(architecture, "intermediate_size", "n_inner") or 4 * width
    experts = config_field(architecture, "num_experts_per_tok")
    routed = (config_field(architecture, "moe_intermediate_size") or dense) * (experts or 0)
    half = autocast or dtype != "float32"
    per_width = 34 if not half else 31 if dtype == "float32" else 21
    inner, outer = (8 if half else 16), per_width
    if adapters and half and not autocast:
        inner, outer = 10, 37  # PEFT computes an adapter's products in float32, and keeps its inputs
    return inner * (routed or dense) + outer * max(width, attention)
