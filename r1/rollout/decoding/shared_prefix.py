"""A decoder that stores each prompt once per group and writes the completions' keys and values in place.

It replaces the model's attention and nothing else, so it serves every architecture that accepts another attention
function. Short prompts are copied into the buffers of their completions instead: one matrix product then covers prompt
and completion.

Shapes: B rows (completions), P prompts, G the largest group, H attention heads, K key/value heads, D head size, L the
longest prompt, C the capacity of the rows' buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from r1.model.sequences import padded
from r1.model.transformers_adapter import check_unsupported_attention, custom_attention, output_layer, unwrap_peft

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIRST_CAPACITY = 32  # completion tokens; buffers double when they are full
PREFILL = -1


@dataclass
class LayerCache:
    """Keys and values of one layer: of the prompts, (P, K, L, D), and of the rows, (B, K, C, D)."""

    prompt_keys: Tensor
    prompt_values: Tensor
    keys: Tensor
    values: Tensor

    def append(self, key: Tensor, value: Tensor, state: DecoderState) -> None:
        """Write (B, K, D) keys and values as the next token of each row."""
        position = state.cache_position
        if position == self.keys.shape[2]:
            self.keys, self.values = (F.pad(b, (0, 0, 0, b.shape[2])) for b in (self.keys, self.values))
        self.keys[:, :, position], self.values[:, :, position] = key, value


@dataclass
class DecoderState:
    """The attention state of a batch.

    Attributes:
        groups: (B,) the prompt of each row, sorted.
        copied_length: length of the prompts in the rows' own buffers; 0 where prompts are shared.
        prompt_bias: 0 at a prompt's tokens and -inf at its padding; None without padding. (P, 1, 1, 1, L) where prompts
            are shared, (B, 1, 1, L) where they are copied.
        layers: appended to while the prompts are read.
        slots: (B,) each row's index in a (P, G) rectangle; None: the rows fill it in order.
        max_group_size: G.
        cache_position: tokens in the rows' buffers, the index of the next one; ``PREFILL`` while the prompts are read.
        empty_bias: (1, 1, C) -inf at the empty positions of the rows' buffers, 0 elsewhere. None: the buffers are cut
            at ``num_visible`` instead.
    """

    groups: Tensor
    copied_length: int
    prompt_bias: Tensor | None
    layers: list[LayerCache] = field(default_factory=list)
    slots: Tensor | None = None
    max_group_size: int = 1
    cache_position: int = PREFILL
    empty_bias: Tensor | None = None

    @property
    def num_visible(self) -> int:
        """Positions of the rows' buffers that attention reads, including the token that is being decoded."""
        return self.cache_position + 1

    def update_slots(self) -> None:
        """Derive ``slots`` and ``max_group_size`` from ``groups``."""
        num_prompts = len(self.layers[0].prompt_keys)
        counts = torch.bincount(self.groups, minlength=num_prompts)
        self.max_group_size = int(counts.max())
        starts = counts.cumsum(0) - counts
        index_in_group = torch.arange(len(self.groups), device=self.groups.device) - starts[self.groups]
        is_full = len(self.groups) == num_prompts * self.max_group_size
        self.slots = None if is_full else self.groups * self.max_group_size + index_in_group

    def to_groups(self, rows: Tensor) -> Tensor:
        """(B, ...) to (P, G, ...), zeros where a group has fewer than G rows."""
        if self.slots is not None:
            size = len(self.layers[0].prompt_keys) * self.max_group_size
            rows = rows.new_zeros(size, *rows.shape[1:]).index_copy_(0, self.slots, rows)
        return rows.reshape(-1, self.max_group_size, *rows.shape[1:])

    def from_groups(self, groups: Tensor) -> Tensor:
        """(P, G, ...) back to (B, ...)."""
        rows = groups.flatten(0, 1)
        return rows if self.slots is None else rows.index_select(0, self.slots)


class SharedPrefixDecoder:
    """A ``Decoder`` that runs the model's own forward with ``attention`` below in place of its attention."""

    compact_below = 0.8
    shared_from = 64  # tokens; shorter prompts are copied

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = unwrap_peft(model)
        self.head = output_layer(model).weight

    def start(self, prompts: Sequence[list[int]], group_sizes: Sequence[int]) -> Tensor:
        device = self.model.device
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        input_ids = padded(prompts, 0).to(device)  # on the right: a causal mask hides the padding from real tokens
        width = input_ids.shape[1]
        columns = torch.arange(width, device=device)
        groups = torch.arange(len(prompts), device=device).repeat_interleave(torch.tensor(group_sizes, device=device))
        self.prompt_lengths = lengths[groups]
        copied_length = width if width < self.shared_from else 0
        bias = None
        if min(map(len, prompts)) < width:
            bias = torch.zeros(len(prompts), width, device=device).masked_fill(columns >= lengths[:, None], -torch.inf)
            bias = bias[groups, None, None] if copied_length else bias[:, None, None, None]
        self.state = DecoderState(groups, copied_length, bias)
        hidden_states = self._forward(input_ids, columns.expand_as(input_ids))
        self.state.update_slots()
        self.state.cache_position, self.num_steps = copied_length, 0
        last = hidden_states[torch.arange(len(prompts), device=device), lengths - 1]
        return F.linear(last, self.head)[groups]

    def step(self, tokens: Tensor) -> Tensor:
        logits = self.next_logits(tokens, self.prompt_lengths + self.num_steps)
        self.state.cache_position += 1
        self.num_steps += 1
        return logits

    def next_logits(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """(B,) tokens at their (B,) positions to (B, V) logits; appends their keys and values to the cache."""
        return F.linear(self._forward(tokens[:, None], positions[:, None])[:, 0], self.head)

    def select_rows(self, rows: Tensor) -> None:
        state = self.state
        prompts, groups = state.groups[rows].unique(return_inverse=True)  # prompts without rows are dropped, too
        self.prompt_lengths, state.groups = self.prompt_lengths[rows], groups
        if state.prompt_bias is not None:
            state.prompt_bias = state.prompt_bias[rows if state.copied_length else prompts]
        for layer in state.layers:
            if len(prompts) < len(layer.prompt_keys):
                layer.prompt_keys, layer.prompt_values = layer.prompt_keys[prompts], layer.prompt_values[prompts]
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        state.update_slots()

    def _forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """(N, L or 1) tokens to their last hidden states."""
        with custom_attention(self.model, attention):
            out = self.model.base_model(
                input_ids=input_ids, position_ids=position_ids, use_cache=False, state=self.state
            )
        hidden_states: Tensor = out.last_hidden_state
        return hidden_states


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    state: DecoderState,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (N, H, L or 1, D) queries to (N, L or 1, H, D).

    Raises:
        ValueError: the model's attention has a part that is not implemented here.
    """
    check_unsupported_attention(kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if state.cache_position == PREFILL:
        state.layers.append(_new_layer_cache(key, value, state))
        grouped = key.shape[1] != query.shape[1]
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)
        return out.transpose(1, 2), None
    layer = state.layers[module.layer_idx]
    layer.append(key[:, :, 0], value[:, :, 0], state)
    return shared_prefix_attention(query[:, :, 0], scale, layer, state)[:, None], None


def _new_layer_cache(key: Tensor, value: Tensor, state: DecoderState) -> LayerCache:
    """From the prompts' (P, K, L, D) keys and values."""
    buffers = []
    for prompt in (key, value):
        size = (len(state.groups), prompt.shape[1], state.copied_length + FIRST_CAPACITY, prompt.shape[3])
        buffers.append(prompt.new_empty(size))
        buffers[-1][:, :, : state.copied_length] = prompt[state.groups, :, : state.copied_length]
    return LayerCache(key.contiguous(), value.contiguous(), *buffers)


def shared_prefix_attention(query: Tensor, scale: float, layer: LayerCache, state: DecoderState) -> Tensor:
    """Attention of one token per row over its prompt and its own past; (B, H, D) to (B, H, D).

    Where prompts are shared, a row's past and its prompt are attended to separately, each in its own layout. The two
    results are averaged with weights proportional to exp(logsumexp) of their scores, which is exactly the softmax over
    all keys (Milakov and Gimelshein 2018).
    """
    query_groups = query.unflatten(1, (layer.keys.shape[1], -1))  # (B, K, H / K, D)
    keys, values = (buffer.flatten(0, 1)[:, : state.num_visible] for buffer in (layer.keys, layer.values))
    scores = _scaled_scores(query_groups.flatten(0, 1), keys, scale, state.empty_bias)
    scores = scores.unflatten(0, query_groups.shape[:2])  # (B, K, H / K, visible)
    if state.copied_length:
        if state.prompt_bias is not None:
            scores[..., : state.copied_length] += state.prompt_bias
        weights = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
        return torch.bmm(weights.flatten(0, 1), values).view(query.shape)
    past_out, past_lse = _partial_attention(scores, values)

    # one product per prompt and key/value head: all G * H / K queries of its group against the prompt's keys
    grouped = state.to_groups(query_groups).transpose(1, 2)  # (P, K, G, H / K, D)
    scores = _scaled_scores(grouped.flatten(2, 3).flatten(0, 1), layer.prompt_keys.flatten(0, 1), scale)
    scores = scores.view(*grouped.shape[:-1], -1)  # (P, K, G, H / K, L)
    if state.prompt_bias is not None:
        scores += state.prompt_bias
    partial = _partial_attention(scores, layer.prompt_values.flatten(0, 1))
    prompt_out, prompt_lse = (state.from_groups(part.transpose(1, 2)) for part in partial)

    # exp(prompt_lse) / (exp(prompt_lse) + exp(past_lse)), without overflow
    prompt_weight = (prompt_lse - past_lse).sigmoid_().to(past_out.dtype)  # under autocast not the queries' dtype
    return torch.lerp(past_out, prompt_out, prompt_weight).view(query.shape)


def _scaled_scores(query: Tensor, keys: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """(N, M, D) and (N, L, D) to (N, M, L) scores plus a (1, 1, L) bias, in one kernel."""
    if bias is None:  # beta=0: the first argument is ignored
        return torch.baddbmm(query.new_empty(1, 1, 1), query, keys.mT, beta=0, alpha=scale)
    return torch.baddbmm(bias, query, keys.mT, alpha=scale)


def _partial_attention(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over some of the keys: (..., D) outputs and (..., 1) logsumexp of the (..., L) scores.

    ``values`` are (N, L, D), N the product of the first two dimensions of ``scores``.
    """
    weights = scores.softmax(-1, dtype=torch.float32)
    # the largest weight is exp(largest score - lse): reading lse off it saves a second pass of exponentials
    lse = scores.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).log()
    out = torch.bmm(weights.to(values.dtype).view(len(values), -1, scores.shape[-1]), values)
    return out.view(*scores.shape[:-1], -1), lse
