"""The shared-prompt decoder for models built like llama (qwen2, qwen3, mistral, ...), with fewer and larger operations.

At one token per row a small model spends more time between operations than in them. This decoder walks through the
model's own layers and asks only its projections, adapters included; norms, rotation and residuals are done here.
Which models are built like that is listed: relatives differ in ways that a probe of a new model, or one in half
precision, cannot tell (a layer without rotation, a factor on the residuals, another pairing of the dimensions).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r1.rollout.shared import SharedDecoder, attend

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3")


FUSED_BELOW = 2**22  # weights; projections of the same states become one product, at the price of a copy
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Block:
    """A layer's operations, looked up once: at this scale looking them up at every token is a cost."""

    first_norm: Product
    query_key_value: Product
    head_norms: tuple[Product, Product] | None
    head_dim: int
    query_heads: int
    key_heads: int
    scaling: float
    output: Product
    second_norm: Product
    gate_up: Product
    activation: Product
    down: Product


class LeanDecoder(SharedDecoder):
    """Reads the prompts as ``SharedDecoder`` does; steps on its own."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        body: Any = self.model.base_model
        self.embedding, self.rotation, self.norm = body.embed_tokens.weight, body.rotary_emb, _norm(body.norm)
        self.blocks = [_block(layer) for layer in body.layers]

    def next_logits(self, tokens: Tensor, positions: Tensor) -> Tensor:
        states = F.embedding(tokens, self.embedding)
        cos, sin = self.rotation(states, position_ids=positions[:, None])
        half = cos.shape[-1] // 2
        turn = cos, torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        for number, block in enumerate(self.blocks):
            states = states + self._attention(number, block, block.first_norm(states), turn)
            gate, up = block.gate_up(block.second_norm(states)).chunk(2, dim=1)
            states = states + block.down(block.activation(gate) * up)
        return F.linear(self.norm(states), self.head)

    def _attention(self, number: int, block: Block, states: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        heads = block.query_key_value(states).view(len(states), -1, block.head_dim)
        both, value = heads[:, : -block.key_heads], heads[:, -block.key_heads :]
        if block.head_norms:
            parts = both[:, : block.query_heads], both[:, block.query_heads :]
            both = torch.cat([norm(part) for norm, part in zip(block.head_norms, parts, strict=True)], dim=1)
        both = torch.addcmul(both * turn[0], both.roll(block.head_dim // 2, dims=2), turn[1])
        layer = self.state.layers[number]
        layer.append(both[:, block.query_heads :], value, self.state.filled)
        seen = attend(both[:, : block.query_heads] * block.scaling, layer, self.state)
        return block.output(seen.flatten(1))


def _block(layer: Any) -> Block:
    part, mlp = layer.self_attn, layer.mlp
    return Block(
        first_norm=_norm(layer.input_layernorm),
        query_key_value=_joined(part.q_proj, part.k_proj, part.v_proj),
        head_norms=(_norm(part.q_norm), _norm(part.k_norm)) if hasattr(part, "q_norm") else None,
        head_dim=part.head_dim,
        query_heads=part.q_proj.out_features // part.head_dim,
        key_heads=part.k_proj.out_features // part.head_dim,
        scaling=part.scaling,
        output=_joined(part.o_proj),
        second_norm=_norm(layer.post_attention_layernorm),
        gate_up=_joined(mlp.gate_proj, mlp.up_proj),
        activation=mlp.act_fn,
        down=_joined(mlp.down_proj),
    )


def _norm(module: Any) -> Product:
    """RMSNorm (Zhang and Sennrich 2019) over the last dimension, worked out in float32."""
    weight, epsilon = module.weight, module.variance_epsilon

    def norm(states: Tensor) -> Tensor:
        wide = states.float()
        scale = torch.linalg.vecdot(wide, wide).div_(wide.shape[-1]).add_(epsilon).rsqrt_()
        normed: Tensor = (wide * scale[..., None]).to(states.dtype).mul_(weight)
        return normed

    return norm


def _joined(*projections: nn.Module) -> Product:
    """The projections' outputs side by side. Adapters and quantised layers are asked as they are."""
    linear = [p for p in projections if type(p) is nn.Linear]
    biases: list[Tensor] = [p.bias for p in linear if p.bias is not None]
    if len(linear) == len(projections) and len(biases) in (0, len(linear)):
        if len(linear) == 1:
            return partial(F.linear, weight=linear[0].weight, bias=linear[0].bias)
        if sum(p.weight.numel() for p in linear) < FUSED_BELOW:
            bias = torch.cat(biases) if biases else None
            weights: list[Tensor] = [p.weight for p in linear]
            return partial(F.linear, weight=torch.cat(weights), bias=bias)
    if len(projections) == 1:
        return projections[0]
    return lambda states: torch.cat([projection(states) for projection in projections], dim=-1)
