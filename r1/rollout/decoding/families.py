"""The families of architectures that ``LlamaDecoder`` serves, each described by its differences from llama.

All else is read off the layers: which projections there are and whether they are one, how the norms compute, which
dimensions the rotation pairs, heads, scale, window, caps and sinks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")  # rotations that depend on the longest sequence so far
Norms = tuple[str | None, str | None, str | None, str | None]


@dataclass(frozen=True)
class Family:
    """Names of submodules, and of what is done between them.

    Attributes:
        embed: from the body, (B,) tokens and (B,) positions to (B, E).
        norms: before attention, on its output, before the MLP, on its output; None: there is none.
        parallel: from the config, whether attention and MLP read the same residual stream.
        rotates: from the attention module, whether it rotates queries and keys.
        norm_after_rotation: of queries and keys.
        qkv_by_head: one projection gives each head's query, key and value side by side.
        fits: from the config, whether the description holds.
    """

    layers: str = "layers"
    attention: str = "self_attn"
    mlp: str = "mlp"
    final_norm: str = "norm"
    embed: Callable[[Any, Tensor, Tensor], Tensor] = lambda body, tokens, _: body.get_input_embeddings()(tokens)
    norms: Norms = ("input_layernorm", None, "post_attention_layernorm", None)
    parallel: Callable[[Any], bool] = lambda _: False
    rotates: Callable[[Any], bool] = lambda _: True
    norm_after_rotation: bool = False
    qkv_by_head: bool = False
    fits: Callable[[Any], bool] = lambda _: True


LLAMA = Family()
SANDWICH = Family(
    norms=(
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    )
)
POST_NORM = Family(norms=(None, "post_attention_layernorm", None, "post_feedforward_layernorm"))
PARALLEL = Family(norms=("input_layernorm", None, "input_layernorm", None), parallel=lambda _: True)
SCALED = Family(embed=lambda body, tokens, _: body.embed_tokens(tokens) * body.embedding_multiplier)
GPT2 = Family(
    layers="h",
    attention="attn",
    final_norm="ln_f",
    embed=lambda body, tokens, positions: body.wte(tokens) + body.wpe(positions),
    norms=("ln_1", None, "ln_2", None),
    rotates=lambda _: False,
    fits=lambda config: not config.scale_attn_by_inverse_layer_idx and not config.add_cross_attention,
)
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), LLAMA),
    **dict.fromkeys(("arcee", "ernie4_5", "gemma", "glm", "helium", "ministral", "nemotron"), LLAMA),
    **dict.fromkeys(("phi3", "seed_oss", "starcoder2"), LLAMA),
    **dict.fromkeys(("ernie4_5_moe", "glm4_moe", "gpt_oss", "mixtral", "olmoe", "phimoe"), LLAMA),
    **dict.fromkeys(("qwen2_moe", "qwen3_moe"), LLAMA),
    **dict.fromkeys(("gemma2", "gemma3_text"), SANDWICH),
    **dict.fromkeys(("olmo2", "olmo3"), POST_NORM),
    "apertus": Family(norms=("attention_layernorm", None, "feedforward_layernorm", None)),
    "cohere": PARALLEL,
    "cohere2": replace(PARALLEL, rotates=lambda attention: attention.sliding_window is not None),
    "exaone4": replace(POST_NORM, rotates=lambda attention: attention.sliding_window is None or attention.is_sliding),
    "glm4": Family(
        norms=("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm")
    ),
    "gpt2": GPT2,
    "gpt_neox": Family(
        attention="attention",
        final_norm="final_layer_norm",
        parallel=lambda config: config.use_parallel_residual,
        qkv_by_head=True,
    ),
    "granite": SCALED,
    "granitemoe": replace(SCALED, mlp="block_sparse_moe"),
    "hunyuan_v1_dense": Family(norm_after_rotation=True),
    "nanochat": Family(
        embed=lambda body, tokens, _: body.norm(body.embed_tokens(tokens)),
        norm_after_rotation=True,
    ),
    "olmo": Family(fits=lambda config: config.clip_qkv is None),
    "smollm3": Family(rotates=lambda attention: attention.use_rope),
    "stablelm": Family(fits=lambda config: not (config.use_parallel_residual or config.qk_layernorm)),
}


def family_of(config: PretrainedConfig) -> Family | None:
    """None: the architecture is not described here, or this config of it."""
    family = FAMILIES.get(config.model_type)
    rope = vars(config).get("rope_parameters") or {}
    kinds = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
    return family if family and family.fits(config) and not kinds.intersection(LENGTH_DEPENDENT_ROPE) else None
