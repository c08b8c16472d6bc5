"""The shared-prompt decoder for models built like llama (qwen2, qwen3, mistral, ...), with fewer and larger operations.

At one token per row a small model spends more time between operations than in them. This decoder walks through the
model's own layers and asks only its projections, adapters included; norms, rotation and residuals are done here.
Which models are built like that is listed: relatives differ in ways that a probe of a new model, or one in half
precision, cannot tell (a layer without rotation, a factor on the residuals, another pairing of the dimensions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r1.rollout.decoding.onednn import COPIED_BELOW, AddedProduct, Product, linear_add_fn, linear_fn
from r1.rollout.decoding.shared_prefix import SharedPrefixDecoder, shared_prefix_attention

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3")
BY_LENGTH = ("dynamic", "longrope")  # rotations that depend on the longest sequence so far
ROTATIONS = 256  # positions whose rotation is worked out at once


@dataclass(frozen=True)
class Block:
    """A layer's operations, looked up once: at this scale looking them up at every token is a cost."""

    query_key_value: Product  # norm included
    head_norms: tuple[Product, Product] | None
    head_dim: int
    query_heads: int
    key_heads: int
    scaling: float
    output: AddedProduct
    gate_up: Product  # norm included
    activation: Product
    down: AddedProduct


def like_llama(config: PretrainedConfig) -> bool:
    rotation = getattr(config, "rope_parameters", None) or {}
    return config.model_type in LIKE_LLAMA and rotation.get("rope_type") not in BY_LENGTH


class LlamaDecoder(SharedPrefixDecoder):
    """Reads the prompts as ``SharedPrefixDecoder`` does; steps on its own."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        body: Any = self.model.base_model
        self.embedding, self.rotation, self.norm = body.embed_tokens.weight, body.rotary_emb, _norm(body.norm)
        self.blocks = [_block(layer) for layer in body.layers]
        self.last = linear_fn(self.head)
        self.turns = self.embedding.new_empty(0)

    def start(self, prompts: Sequence[list[int]], group_sizes: Sequence[int]) -> Tensor:
        self.longest_prompt = max(map(len, prompts))
        return super().start(prompts, group_sizes)

    def rotary_at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, D) cosines, and sines with the sign of the half they are for."""
        self.extend_rotary_cache(self.longest_prompt + self.length + 1)
        turns = self.turns[positions]
        return turns[:, :1], turns[:, 1:]

    def extend_rotary_cache(self, length: int) -> None:
        """Have the rotations of at least ``length`` positions ready."""
        if length > len(self.turns):
            ahead = torch.arange(length + ROTATIONS, device=self.embedding.device)
            cos, sin = self.rotation(self.embedding, position_ids=ahead[None])
            half = cos.shape[-1] // 2
            self.turns = torch.stack([cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)], dim=1)

    def next_logits(self, tokens: Tensor, positions: Tensor) -> Tensor:
        states = F.embedding(tokens, self.embedding)
        turn = self.rotary_at(positions)
        for number, block in enumerate(self.blocks):
            states = block.output(self._attention(number, block, states, turn), states)
            gate, up = block.gate_up(states).chunk(2, dim=1)
            states = block.down(block.activation(gate) * up, states)
        return self.last(self.norm(states))

    def _attention(self, number: int, block: Block, states: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        heads = block.query_key_value(states).view(len(states), -1, block.head_dim)
        both, value = heads[:, : -block.key_heads], heads[:, -block.key_heads :]
        if block.head_norms:
            parts = both[:, : block.query_heads], both[:, block.query_heads :]
            both = torch.cat([norm(part) for norm, part in zip(block.head_norms, parts, strict=True)], dim=1)
        both = torch.addcmul(both * turn[0], both.roll(block.head_dim // 2, dims=2), turn[1])
        layer = self.state.layers[number]
        layer.append(both[:, block.query_heads :], value, self.state)
        return shared_prefix_attention(both[:, : block.query_heads], block.scaling, layer, self.state).flatten(1)


def _block(layer: Any) -> Block:
    part, mlp = layer.self_attn, layer.mlp
    return Block(
        query_key_value=_normed(layer.input_layernorm, part.q_proj, part.k_proj, part.v_proj),
        head_norms=(_norm(part.q_norm), _norm(part.k_norm)) if hasattr(part, "q_norm") else None,
        head_dim=part.head_dim,
        query_heads=part.q_proj.out_features // part.head_dim,
        key_heads=part.k_proj.out_features // part.head_dim,
        scaling=part.scaling,
        output=_residual_linear(part.o_proj),
        gate_up=_normed(layer.post_attention_layernorm, mlp.gate_proj, mlp.up_proj),
        activation=mlp.act_fn,
        down=_residual_linear(mlp.down_proj),
    )


def _norm(module: Any) -> Product:
    """RMSNorm (Zhang and Sennrich 2019) over the last dimension, worked out in float32."""
    weight, epsilon = module.weight, module.variance_epsilon
    if weight.is_cuda:  # one kernel; on a CPU it is slower than what follows
        return lambda states: F.rms_norm(states, weight.shape, weight, epsilon)

    def norm(states: Tensor) -> Tensor:
        wide = states.float()
        scale = torch.linalg.vecdot(wide, wide).div_(wide.shape[-1]).add_(epsilon).rsqrt_()
        normed: Tensor = (wide * scale[..., None]).to(states.dtype).mul_(weight)
        return normed

    return norm


def _normed(norm: Any, *projections: nn.Module) -> Product:
    """RMSNorm and the projections' outputs side by side; in float32 on a CPU the norm's constants go into a copied
    weight."""
    linear = [p for p in projections if type(p) is nn.Linear]
    biases: list[Tensor] = [p.bias for p in linear if p.bias is not None]
    plain = len(linear) == len(projections) and len(biases) in (0, len(linear))
    if not plain or sum(p.weight.numel() for p in linear) >= COPIED_BELOW:
        before, parts = _norm(norm), [linear_fn(p.weight, p.bias) if type(p) is nn.Linear else p for p in projections]
        return lambda states: _side_by_side(before(states), parts)
    weight = torch.cat([p.weight for p in linear])
    bias = torch.cat(biases) if biases else None
    if weight.dtype != torch.float32 or weight.is_cuda:
        before = _norm(norm)
        return lambda states: F.linear(before(states), weight, bias)
    width = weight.shape[1]
    multiply = linear_fn(weight * norm.weight * width**0.5, bias)
    floor = width * norm.variance_epsilon
    return lambda states: multiply(states * _inverse_norm(states, floor))


def _inverse_norm(states: Tensor, floor: float) -> Tensor:
    """(B, 1) 1 / sqrt(|x|^2 + floor)."""
    inverse: Tensor = torch.linalg.vecdot(states, states).add_(floor).rsqrt_()[:, None]
    return inverse


def _side_by_side(states: Tensor, parts: Sequence[Product | nn.Module]) -> Tensor:
    """Adapters and quantised layers are asked as they are, and large ones one by one."""
    return torch.cat([part(states) for part in parts], dim=-1)


def _residual_linear(projection: nn.Module) -> AddedProduct:
    """The projection's output added to the residual stream, in one product where that loses no precision."""
    if type(projection) is nn.Linear and projection.bias is None:
        weight = projection.weight
        if not torch.is_autocast_enabled(weight.device.type):
            return linear_add_fn(weight)
    return lambda states, residual: residual + projection(states)
