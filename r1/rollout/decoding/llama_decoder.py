"""The shared-prefix decoder for llama-like models (qwen2, qwen3, mistral, ...), with fewer and larger operations.

At one token per row a small model spends more time between operations than in them. This decoder walks through the
model's layers and calls only their projections, LoRA adapters included; norms, rotation and residuals are implemented
here. Supported architectures are listed by name. Their relatives differ in ways that a probe cannot show in a new
model, or in half precision: a layer without rotation, a factor on the residuals, another pairing of the dimensions.

Shapes: as in shared_prefix.py, with E the size of the hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r1.model.fused_logprobs import matmul_dtype
from r1.rollout.decoding.onednn import MAX_COPIED_NUMEL, LinearAddFn, LinearFn, linear_add_fn, linear_fn
from r1.rollout.decoding.shared_prefix import SharedPrefixDecoder, shared_prefix_attention

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3")
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")  # rotations that depend on the longest sequence so far
ROTARY_CHUNK = 256  # positions by which the rotary cache grows
UnaryFn = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LayerOps:
    """The operations of one layer, looked up once: at this scale an attribute lookup per token is a cost.

    Attributes:
        qkv: input norm and the query, key and value projections, (B, E) to (B, (H + 2K) D).
        qk_norms: norms of queries and keys (qwen3), or None.
        o_proj: the output projection, added to the residual stream.
        gate_up: post-attention norm and the two projections, (B, E) to (B, 2M).
        down_proj: added to the residual stream.
    """

    qkv: LinearFn
    qk_norms: tuple[UnaryFn, UnaryFn] | None
    head_dim: int
    num_heads: int
    num_kv_heads: int
    scaling: float
    o_proj: LinearAddFn
    gate_up: LinearFn
    activation: UnaryFn
    down_proj: LinearAddFn


def is_llama_like(config: PretrainedConfig) -> bool:
    rope_parameters = getattr(config, "rope_parameters", None) or {}
    return config.model_type in LLAMA_LIKE and rope_parameters.get("rope_type") not in LENGTH_DEPENDENT_ROPE


class LlamaDecoder(SharedPrefixDecoder):
    """A ``Decoder`` that prefills as ``SharedPrefixDecoder`` does, and steps without the model's forward."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        body: Any = self.model.base_model
        self.embed_tokens, self.rotary_emb, self.norm = body.embed_tokens, body.rotary_emb, _rms_norm(body.norm)
        self.layer_ops = [_layer_ops(layer) for layer in body.layers]
        self.lm_head = linear_fn(self.head)
        self.rotary_cache = self.head.new_empty(0)  # (positions, 2, D): cosines, signed sines

    def rotary_at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, D) cosines and signed sines at (B,) positions."""
        self.extend_rotary_cache(self.state.longest_prompt + self.num_steps + 1)
        rotary = self.rotary_cache[positions]
        return rotary[:, :1], rotary[:, 1:]

    def extend_rotary_cache(self, length: int) -> None:
        """Make the cache cover at least ``length`` positions.

        RoPE maps (x1, x2) to (x1 cos - x2 sin, x2 cos + x1 sin), the pairs half a head apart. With the sign in the
        cached sines this is x cos + roll(x, D/2) sin: no negation and no concatenation per token.
        """
        if length > len(self.rotary_cache):
            position_ids = torch.arange(length + ROTARY_CHUNK, device=self.head.device)
            cos, sin = self.rotary_emb(self.head, position_ids=position_ids[None])
            half = cos.shape[-1] // 2
            signed_sin = torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)
            self.rotary_cache = torch.stack([cos[0], signed_sin], dim=1)

    def next_logits(self, tokens: Tensor, positions: Tensor) -> Tensor:
        self.state.begin_step(positions)
        hidden_states = self.embed_tokens(tokens)  # (B, E)
        rotary = self.rotary_at(positions)
        for layer_idx, ops in enumerate(self.layer_ops):
            hidden_states = ops.o_proj(self._attention(layer_idx, ops, hidden_states, rotary), hidden_states)
            gate, up = ops.gate_up(hidden_states).chunk(2, dim=1)
            hidden_states = ops.down_proj(ops.activation(gate) * up, hidden_states)
        return self.lm_head(self.norm(hidden_states))

    def _attention(self, layer_idx: int, ops: LayerOps, hidden_states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """(B, E) to (B, H D): projections, rotation, attention over the cache."""
        qkv = ops.qkv(hidden_states).view(len(hidden_states), -1, ops.head_dim)  # (B, H + 2K, D)
        qk, v = qkv[:, : -ops.num_kv_heads], qkv[:, -ops.num_kv_heads :]
        if ops.qk_norms:
            q_norm, k_norm = ops.qk_norms
            qk = torch.cat([q_norm(qk[:, : ops.num_heads]), k_norm(qk[:, ops.num_heads :])], dim=1)
        cos, signed_sin = rotary
        qk = torch.addcmul(qk * cos, qk.roll(ops.head_dim // 2, dims=2), signed_sin)  # rotates queries and keys at once
        q, k = qk[:, : ops.num_heads], qk[:, ops.num_heads :]
        layer = self.state.layers[layer_idx]
        layer.append(k, v, self.state)
        return shared_prefix_attention(q, ops.scaling, layer, self.state).flatten(1)


def _layer_ops(layer: Any) -> LayerOps:
    attn, mlp = layer.self_attn, layer.mlp
    return LayerOps(
        qkv=_norm_linear(layer.input_layernorm, attn.q_proj, attn.k_proj, attn.v_proj),
        qk_norms=(_rms_norm(attn.q_norm), _rms_norm(attn.k_norm)) if hasattr(attn, "q_norm") else None,
        head_dim=attn.head_dim,
        num_heads=attn.q_proj.out_features // attn.head_dim,
        num_kv_heads=attn.k_proj.out_features // attn.head_dim,
        scaling=attn.scaling,
        o_proj=_linear_add(attn.o_proj),
        gate_up=_norm_linear(layer.post_attention_layernorm, mlp.gate_proj, mlp.up_proj),
        activation=mlp.act_fn,
        down_proj=_linear_add(mlp.down_proj),
    )


def _rms_norm(module: Any) -> UnaryFn:
    """RMSNorm (Zhang and Sennrich 2019) over the last dimension, computed in float32."""
    weight, epsilon = module.weight, module.variance_epsilon
    if weight.is_cuda:  # one kernel; on a CPU it is slower than the operations below
        return lambda states: F.rms_norm(states, weight.shape, weight, epsilon)

    def norm(states: Tensor) -> Tensor:
        wide = states.float()
        scale = torch.linalg.vecdot(wide, wide).div_(wide.shape[-1]).add_(epsilon).rsqrt_()
        normed: Tensor = (wide * scale[..., None]).to(states.dtype).mul_(weight)
        return normed

    return norm


def _norm_linear(norm: Any, *projections: nn.Module) -> LinearFn:
    """RMSNorm, then the outputs of several projections side by side.

    Small plain layers are concatenated into one weight. In float32 on a CPU the norm's weight and sqrt(E) go into it as
    well: W (w * x * sqrt(E) / sqrt(|x|^2 + E eps)) = (W w sqrt(E)) (x / sqrt(|x|^2 + E eps)).
    """
    linear = [p for p in projections if type(p) is nn.Linear]  # not its subclasses: adapters, quantised layers
    biases: list[Tensor] = [p.bias for p in linear if p.bias is not None]
    can_concatenate = len(linear) == len(projections) and len(biases) in (0, len(linear))
    if not can_concatenate or sum(p.weight.numel() for p in linear) >= MAX_COPIED_NUMEL:
        normed = _rms_norm(norm)
        parts = [linear_fn(p.weight, p.bias) if type(p) is nn.Linear else p for p in projections]
        return lambda states: _concat_outputs(normed(states), parts)
    weight = torch.cat([p.weight for p in linear])
    weight = weight.to(matmul_dtype(weight))  # autocast keeps its copies of parameters only
    bias = torch.cat(biases) if biases else None
    if weight.dtype != torch.float32 or weight.is_cuda:
        normed = _rms_norm(norm)
        return lambda states: F.linear(normed(states), weight, bias)
    size = weight.shape[1]
    multiply = linear_fn(weight * norm.weight * size**0.5, bias)
    scaled_epsilon = size * norm.variance_epsilon
    return lambda states: multiply(states * _inverse_norm(states, scaled_epsilon))


def _inverse_norm(states: Tensor, epsilon: float) -> Tensor:
    """(B, 1) 1 / sqrt(|x|^2 + epsilon) of (B, E) states."""
    inverse: Tensor = torch.linalg.vecdot(states, states).add_(epsilon).rsqrt_()[:, None]
    return inverse


def _concat_outputs(states: Tensor, parts: Sequence[LinearFn | nn.Module]) -> Tensor:
    return torch.cat([part(states) for part in parts], dim=-1)


def _linear_add(projection: nn.Module) -> LinearAddFn:
    """The projection's output added to the residual stream, in one product where that loses no precision.

    Under autocast it would: the sum would be rounded to half precision, the residual stream with it.
    """
    if type(projection) is nn.Linear and projection.bias is None:
        weight = projection.weight
        if not torch.is_autocast_enabled(weight.device.type):
            return linear_add_fn(weight)
    return lambda states, residual: residual + projection(states)
