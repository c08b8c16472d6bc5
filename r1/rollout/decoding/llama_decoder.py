"""The shared-prefix decoder without the model's forward, with fewer and larger operations.

It walks through the model's layers and calls only their projections, LoRA adapters included, and their experts; norms,
rotation and residuals are implemented here (layer_ops.py, rotary.py). families.py describes the layers that are known.
Like every decoder it is compared with the model before it is used.

Shapes: as in shared_prefix.py, with E the size of the hidden states.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from r1.model.transformers_adapter import body, custom_experts
from r1.rollout.decoding.experts import experts_of_few_tokens
from r1.rollout.decoding.families import family_of
from r1.rollout.decoding.layer_ops import Norm, linear_add, mlp_add, norm_linear, norm_of
from r1.rollout.decoding.onednn import LinearAddFn, LinearFn, linear_fn
from r1.rollout.decoding.rotary import RotaryTable
from r1.rollout.decoding.shared_prefix import SharedPrefixDecoder, shared_prefix_attention

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

QKV = (("q_proj", "k_proj", "v_proj"), ("qkv_proj",), ("query_key_value",), ("c_attn",))
OUTPUTS = ("o_proj", "dense", "c_proj")
QK_NORMS = (("q_norm", "k_norm"), ("query_layernorm", "key_layernorm"))


@dataclass(frozen=True)
class LayerOps:
    """The operations of one layer, looked up once: at this scale an attribute lookup per token is a cost.

    Attributes:
        qkv: input norm and the query, key and value projections, (B, E) to (B, (H + 2K) D).
        qk_norms: norms of queries and keys, or None.
        norms_span_heads: whether the norms are over all heads together.
        rotary: None: queries and keys are not rotated.
        add_attention: the output projection, added to the residual stream.
        add_mlp: the MLP of the first argument, added to the residual stream.
    """

    qkv: LinearFn
    qk_norms: tuple[Norm, Norm] | None
    norms_span_heads: bool
    rotary: RotaryTable | None
    add_attention: LinearAddFn
    add_mlp: LinearAddFn


def is_llama_like(config: PretrainedConfig) -> bool:
    """Whether ``LlamaDecoder`` knows the layers of this model."""
    return family_of(config) is not None


class LlamaDecoder(SharedPrefixDecoder):
    """A ``Decoder`` that prefills as ``SharedPrefixDecoder`` does, and steps without the model's forward.

    Raises:
        ValueError: families.py does not describe this model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        family = family_of(self.model.config)
        if family is None:
            raise ValueError(f"no description of {self.model.config.model_type}")
        self.family, self.body = family, body(self.model)
        self.norm = norm_of(self.body.get_submodule(family.final_norm)).apply
        self.parallel = family.parallel(self.model.config)
        self.rotary_tables: dict[str, RotaryTable] = {}
        layers = self.body.get_submodule(family.layers)
        self.layer_ops = [self._layer_ops(layer, layer_idx) for layer_idx, layer in enumerate(layers)]
        self.lm_head = linear_fn(self.head)

    def extend_rotary_tables(self, length: int) -> None:
        """Make the tables cover at least ``length`` positions."""
        for table in self.rotary_tables.values():
            table.extend(length)

    def next_logits(self, tokens: Tensor, positions: Tensor) -> Tensor:
        self.state.begin_step(positions)
        self.extend_rotary_tables(self.state.longest_prompt + self.num_steps + 1)
        rotary = {table: table.at(positions) for table in self.rotary_tables.values()}
        hidden_states = self.family.embed(self.body, tokens, positions)  # (B, E)
        is_cpu = hidden_states.device.type == "cpu"
        with custom_experts(self.model.config, experts_of_few_tokens) if is_cpu else nullcontext():
            for layer_idx, ops in enumerate(self.layer_ops):
                attended = self._attention(layer_idx, ops, hidden_states, rotary)
                after_attention = ops.add_attention(attended, hidden_states)
                mlp_input = hidden_states if self.parallel else after_attention
                hidden_states = ops.add_mlp(mlp_input, after_attention)
        return self.logit_scale.apply(self.lm_head(self.norm(hidden_states)))

    def _attention(
        self,
        layer_idx: int,
        ops: LayerOps,
        hidden_states: Tensor,
        rotary: dict[RotaryTable, tuple[Tensor, Tensor]],
    ) -> Tensor:
        """(B, E) to (B, H D): projections, rotation, attention over the cache."""
        layer = self.state.layers[layer_idx]
        _, num_kv_heads, _, head_dim = layer.keys.shape
        qkv = ops.qkv(hidden_states).view(len(hidden_states), -1, head_dim)  # (B, H + 2K, D)
        if self.family.qkv_by_head:
            qkv = qkv.unflatten(1, (-1, 3)).transpose(1, 2).flatten(1, 2)
        qk, v = qkv[:, :-num_kv_heads], qkv[:, -num_kv_heads:]
        if ops.rotary and self.family.norm_after_rotation:
            qk = ops.rotary.apply(qk, rotary[ops.rotary])
        if ops.qk_norms:
            parts = qk[:, :-num_kv_heads], qk[:, -num_kv_heads:]
            qk = torch.cat(
                [_normed(norm, x, ops.norms_span_heads) for norm, x in zip(ops.qk_norms, parts, strict=True)], 1
            )
        if ops.rotary and not self.family.norm_after_rotation:
            qk = ops.rotary.apply(qk, rotary[ops.rotary])  # queries and keys at once
        q, k = qk[:, :-num_kv_heads], qk[:, -num_kv_heads:]
        layer.append(k, v, self.state)
        return shared_prefix_attention(q, layer, self.state).flatten(1)

    def _layer_ops(self, layer: Any, layer_idx: int) -> LayerOps:
        family = self.family
        attention = layer.get_submodule(family.attention)
        before, after, before_mlp, after_mlp = (norm_of(layer.get_submodule(n)) if n else None for n in family.norms)
        factor = vars(layer).get("residual_multiplier", 1.0)
        parts: dict[str, Any] = dict(attention.named_children())
        qkv = next(names for names in QKV if set(names) <= parts.keys())
        output = next(name for name in OUTPUTS if name in parts)
        norms = next((names for names in QK_NORMS if set(names) <= parts.keys()), None)
        rotary = self._rotary_table(attention, layer_idx) if family.rotates(attention) else None
        return LayerOps(
            qkv=norm_linear(before, *(parts[name] for name in qkv)),
            qk_norms=(norm_of(parts[norms[0]]), norm_of(parts[norms[1]])) if norms else None,
            norms_span_heads=norms is not None and _spans_heads(attention, parts[norms[0]]),
            rotary=rotary,
            add_attention=linear_add(parts[output], after, factor),
            add_mlp=mlp_add(layer.get_submodule(family.mlp), before_mlp, after_mlp, factor),
        )

    def _rotary_table(self, attention: Any, layer_idx: int) -> RotaryTable:
        """One table for all layers of a type."""
        layer_type = (vars(self.model.config).get("layer_types") or {layer_idx: ""})[layer_idx]
        if layer_type not in self.rotary_tables:
            head_dim = _head_dim(attention)
            table = RotaryTable(self.body.rotary_emb, attention, head_dim, layer_type, self.head)
            self.rotary_tables[layer_type] = table
        return self.rotary_tables[layer_type]


def _head_dim(attention: Any) -> int:
    return int(next(vars(attention)[name] for name in ("head_dim", "head_size") if name in vars(attention)))


def _spans_heads(attention: Any, norm: Any) -> bool:
    """Whether a norm of queries is over all heads together."""
    weight = dict(norm.named_parameters()).get("weight")
    return weight is not None and weight.ndim == 1 and len(weight) != _head_dim(attention)


def _normed(norm: Norm, states: Tensor, spans_heads: bool) -> Tensor:
    """(B, heads, D) queries or keys, normed head by head or over all heads together."""
    return norm.apply(states.flatten(1)).view(states.shape) if spans_heads else norm.apply(states)
