"""The shared-prompt decoder for models built like llama (qwen2, qwen3, mistral, ...), with fewer and larger operations.

At one token per row a small model spends more time between operations than in them. This decoder walks through the
model's own layers and asks only its projections, adapters included; norms, rotation and residuals are done here.
Which models are built like that is listed: relatives differ in ways that a probe of a new model, or one in half
precision, cannot tell (a layer without rotation, a factor on the residuals, another pairing of the dimensions).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r1.rollout.shared import SharedDecoder, attend

LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3")


class LeanDecoder(SharedDecoder):
    """Reads the prompts as ``SharedDecoder`` does; steps on its own."""

    def next_logits(self, tokens: Tensor, positions: Tensor) -> Tensor:
        body: Any = self.model.base_model
        states = F.embedding(tokens, body.embed_tokens.weight)
        cos, sin = body.rotary_emb(states, position_ids=positions[:, None])
        half = cos.shape[-1] // 2
        turn = cos, torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        for number, layer in enumerate(body.layers):
            normed = _norm(states, layer.input_layernorm)
            states = states + self._attention(number, layer.self_attn, normed, turn)
            mlp, normed = layer.mlp, _norm(states, layer.post_attention_layernorm)
            inside = mlp.act_fn(_linear(normed, mlp.gate_proj)) * _linear(normed, mlp.up_proj)
            states = states + _linear(inside, mlp.down_proj)
        return F.linear(_norm(states, body.norm), self.head)

    def _attention(self, number: int, part: Any, states: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        query, key, value = (
            _linear(states, projection).unflatten(1, (-1, part.head_dim))
            for projection in (part.q_proj, part.k_proj, part.v_proj)
        )
        if hasattr(part, "q_norm"):
            query, key = _norm(query, part.q_norm), _norm(key, part.k_norm)
        both = torch.cat([query, key], dim=1)
        both = torch.addcmul(both * turn[0], both.roll(both.shape[2] // 2, dims=2), turn[1])
        heads = query.shape[1]
        layer = self.state.layers[number]
        layer.append(both[:, heads:], value, self.state.filled)
        seen: Tensor = attend(both[:, :heads] * part.scaling, layer, self.state)
        return _linear(seen.flatten(1), part.o_proj)


def _norm(states: Tensor, norm: Any) -> Tensor:
    """RMSNorm (Zhang and Sennrich 2019) over the last dimension, worked out in float32."""
    wide = states.float()
    scale = (torch.linalg.vecdot(wide, wide) / wide.shape[-1] + norm.variance_epsilon).rsqrt_()
    normed: Tensor = (wide * scale[..., None]).to(states.dtype) * norm.weight
    return normed


def _linear(states: Tensor, projection: nn.Module) -> Tensor:
    if type(projection) is nn.Linear:  # without the cost of a module's call
        return F.linear(states, projection.weight, projection.bias)
    out: Tensor = projection(states)
    return out
