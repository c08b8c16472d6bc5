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

from r1.model.attention import attend, soft_cap
from r1.model.logit_scale import LogitScale, logit_scale
from r1.model.sequences import padded
from r1.model.transformers_adapter import (
    MaskPattern,
    body,
    check_attention,
    custom_attention,
    output_layer,
    unwrap_peft,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIRST_CAPACITY = 32  # completion tokens; buffers double when they are full
PREFILL = -1


@dataclass
class LayerCache:
    """Keys and values of one layer: of the prompts, (P, K, L, D), and of the rows, (B, K, C, D).

    Attributes:
        pattern: the part of its past that a token sees; None: all of it.
        softcap: bounds the scores softly; None: it does not.
        sinks: (H,) the score of a key without a value; None: there is none.
        scale: of the scores.
    """

    prompt_keys: Tensor
    prompt_values: Tensor
    keys: Tensor
    values: Tensor
    pattern: MaskPattern | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    scale: float = 1.0

    def append(self, key: Tensor, value: Tensor, state: DecoderState) -> None:
        """Write (B, K, D) keys and values as the next token of each row."""
        position = state.cache_position
        if position == self.keys.shape[2]:
            self.keys, self.values = _doubled(self.keys), _doubled(self.values)
        self.keys[:, :, position], self.values[:, :, position] = key, value


def _doubled(buffer: Tensor) -> Tensor:
    """(B, K, C, D) to (B, K, 2 C, D), the second half undefined: zeros would touch memory that may never be read."""
    rows, heads, capacity, size = buffer.shape
    larger = buffer.new_empty(rows, heads, 2 * capacity, size)
    larger[:, :, :capacity] = buffer
    return larger


@dataclass
class DecoderState:
    """The attention state of a batch.

    Attributes:
        groups: (B,) the prompt of each row, sorted.
        prompt_lengths: (B,) tokens of each row's prompt.
        longest_prompt: L.
        copied_length: length of the prompts in the rows' own buffers; 0 where prompts are shared.
        prompt_bias: 0 at a prompt's tokens and -inf at its padding; None without padding. (P, 1, 1, 1, L) where prompts
            are shared, (B, 1, 1, L) where they are copied.
        layers: appended to while the prompts are read.
        slots: (B,) each row's index in a (P, G) rectangle; None: the rows fill it in order.
        max_group_size: G.
        cache_position: tokens in the rows' buffers, the index of the next one; ``PREFILL`` while the prompts are read.
        empty_bias: (1, 1, C) -inf at the empty positions of the rows' buffers, 0 elsewhere. None: the buffers are cut
            at ``num_visible`` instead.
        positions: (B,) of the tokens that are being decoded.
        pattern_biases: of this step, see ``pattern_bias``.
    """

    groups: Tensor
    prompt_lengths: Tensor
    longest_prompt: int
    copied_length: int
    prompt_bias: Tensor | None
    layers: list[LayerCache] = field(default_factory=list)
    slots: Tensor | None = None
    max_group_size: int = 1
    cache_position: int = PREFILL
    empty_bias: Tensor | None = None
    positions: Tensor = field(default_factory=lambda: torch.empty(0))
    pattern_biases: dict[MaskPattern, tuple[Tensor | None, Tensor]] = field(default_factory=dict)

    @property
    def num_visible(self) -> int:
        """Positions of the rows' buffers that attention reads, including the token that is being decoded."""
        return self.cache_position + 1

    def begin_step(self, positions: Tensor) -> None:
        self.positions, self.pattern_biases = positions, {}

    def pattern_bias(self, pattern: MaskPattern | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """Biases that hide what the pattern does not show: (P, 1, 1, 1, L) of shared prompts, (B, 1, 1, visible).

        They are finite: a window may lie behind the whole prompt, and a softmax over nothing is undefined.
        """
        longest = self.longest_prompt + self.num_visible - self.copied_length
        if pattern is None or longest <= pattern.reach or self.window_start(pattern):
            return None, None
        if pattern not in self.pattern_biases:
            hidden, queries = torch.finfo(dtype).min / 2, self.positions[:, None]
            columns = torch.arange(self.longest_prompt, device=queries.device)
            index = torch.arange(self.num_visible, device=queries.device)
            keys = torch.where(
                index < self.copied_length, index, self.prompt_lengths[:, None] + index - self.copied_length
            )
            past = torch.zeros_like(keys, dtype=dtype).masked_fill(~pattern.visible(queries, keys), hidden)
            prompt = None
            if not self.copied_length:
                first = self.to_groups(queries)[:, 0]  # the rows of a group are at the same position
                prompt = torch.zeros(len(first), len(columns), dtype=dtype, device=first.device)
                prompt = prompt.masked_fill(~pattern.visible(first, columns), hidden)[:, None, None, None]
            self.pattern_biases[pattern] = prompt, past[:, None, None]
        return self.pattern_biases[pattern]

    def window_start(self, pattern: MaskPattern | None) -> int:
        """Where a sliding window begins in the rows' buffers once it lies behind all prompts; 0: not yet, or none."""
        if pattern is None or self.empty_bias is not None or self.num_visible - pattern.reach < self.copied_length:
            return 0
        return self.num_visible - pattern.reach if pattern.slides else 0

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
        self.logit_scale = logit_scale(model) or LogitScale()

    def start(self, prompts: Sequence[list[int]], group_sizes: Sequence[int]) -> Tensor:
        device = self.model.device
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        input_ids = padded(prompts, 0).to(device)  # on the right: a causal mask hides the padding from real tokens
        width = input_ids.shape[1]
        columns = torch.arange(width, device=device)
        groups = torch.arange(len(prompts), device=device).repeat_interleave(torch.tensor(group_sizes, device=device))
        copied_length = width if width < self.shared_from else 0
        bias = None
        if min(map(len, prompts)) < width:
            bias = torch.zeros(len(prompts), width, device=device).masked_fill(columns >= lengths[:, None], -torch.inf)
            bias = bias[groups, None, None] if copied_length else bias[:, None, None, None]
        self.state = DecoderState(groups, lengths[groups], width, copied_length, bias)
        hidden_states = self._forward(input_ids, columns.expand_as(input_ids))
        self.state.update_slots()
        self.state.cache_position, self.num_steps = copied_length, 0
        last = hidden_states[torch.arange(len(prompts), device=device), lengths - 1]
        return self.logit_scale.apply(F.linear(last, self.head))[groups]

    def step(self, tokens: Tensor) -> Tensor:
        logits = self.next_logits(tokens, self.state.prompt_lengths + self.num_steps)
        self.state.cache_position += 1
        self.num_steps += 1
        return logits

    def next_logits(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """(B,) tokens at their (B,) positions to (B, V) logits; appends their keys and values to the cache."""
        self.state.begin_step(positions)
        hidden_states = self._forward(tokens[:, None], positions[:, None])
        return self.logit_scale.apply(F.linear(hidden_states[:, 0], self.head))

    def select_rows(self, rows: Tensor) -> None:
        state = self.state
        prompts, groups = state.groups[rows].unique(return_inverse=True)  # prompts without rows are dropped, too
        state.prompt_lengths, state.groups = state.prompt_lengths[rows], groups
        if state.prompt_bias is not None:
            state.prompt_bias = state.prompt_bias[rows if state.copied_length else prompts]
        for layer in state.layers:
            if len(prompts) < len(layer.prompt_keys):
                layer.prompt_keys, layer.prompt_values = layer.prompt_keys[prompts], layer.prompt_values[prompts]
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        state.update_slots()

    def _forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """(N, L or 1) tokens to their last hidden states."""
        with custom_attention(self.model, attention, self.state):
            out = body(self.model)(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                position_ids=position_ids,
                use_cache=False,
            )
        hidden_states: Tensor = out.last_hidden_state
        return hidden_states


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    state: DecoderState,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (N, H, L or 1, D) queries to (N, L or 1, H, D).

    Raises:
        ValueError: the model's attention has a part that is not implemented here.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if state.cache_position == PREFILL:
        pattern = check_attention(attention_mask, kwargs)
        prompts, rows = zip(_buffers(key, state), _buffers(value, state), strict=True)
        state.layers.append(LayerCache(*prompts, *rows, pattern, softcap, s_aux, scale))
        mask = None
        if pattern is not None and state.longest_prompt > pattern.reach:
            columns = torch.arange(state.longest_prompt, device=query.device)
            mask = pattern.visible(columns[:, None], columns)[None, None]
        return attend(query, key, value, mask, scale, 0.0, softcap, s_aux).transpose(1, 2), None
    layer = state.layers[module.layer_idx]
    layer.append(key[:, :, 0], value[:, :, 0], state)
    return shared_prefix_attention(query[:, :, 0], layer, state)[:, None], None


def _buffers(prompts: Tensor, state: DecoderState) -> tuple[Tensor, Tensor]:
    """The prompts' (P, K, L, D) keys or values, and the rows' buffers of them."""
    rows = prompts.new_empty(
        len(state.groups), prompts.shape[1], state.copied_length + FIRST_CAPACITY, prompts.shape[3]
    )
    rows[:, :, : state.copied_length] = prompts[state.groups, :, : state.copied_length]
    return prompts.contiguous(), rows


def shared_prefix_attention(query: Tensor, layer: LayerCache, state: DecoderState) -> Tensor:
    """Attention of one token per row over its prompt and its own past; (B, H, D) to (B, H, D).

    Where prompts are shared, a row's past and its prompt are attended to separately, each in its own layout. The two
    results are averaged with weights proportional to exp(logsumexp) of their scores, which is exactly the softmax over
    all keys (Milakov and Gimelshein 2018).
    """
    query_groups = query.unflatten(1, (layer.keys.shape[1], -1))  # (B, K, H / K, D)
    prompt_pattern, past_pattern = state.pattern_bias(layer.pattern, query.dtype)
    start = state.window_start(layer.pattern)
    keys, values = (buffer.flatten(0, 1)[:, start : state.num_visible] for buffer in (layer.keys, layer.values))
    scores = _scores(query_groups.flatten(0, 1), keys, layer.scale, layer.softcap, state.empty_bias)
    scores = scores.unflatten(0, query_groups.shape[:2])  # (B, K, H / K, visible)
    if past_pattern is not None:
        scores += past_pattern
    if state.copied_length or start:
        if state.prompt_bias is not None and not start:
            scores[..., : state.copied_length] += state.prompt_bias
        if layer.sinks is not None:
            return _with_sinks(*_partial_attention(scores, values), layer.sinks)
        weights = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
        return torch.bmm(weights.flatten(0, 1), values).view(*query.shape[:2], -1)
    past_out, past_lse = _partial_attention(scores, values)

    # one product per prompt and key/value head: all G * H / K queries of its group against the prompt's keys
    grouped = state.to_groups(query_groups).transpose(1, 2)  # (P, K, G, H / K, D)
    prompt_keys = layer.prompt_keys.flatten(0, 1)
    scores = _scores(grouped.flatten(2, 3).flatten(0, 1), prompt_keys, layer.scale, layer.softcap)
    scores = scores.view(*grouped.shape[:-1], -1)  # (P, K, G, H / K, L)
    for bias in (state.prompt_bias, prompt_pattern):
        if bias is not None:
            scores += bias
    partial = _partial_attention(scores, layer.prompt_values.flatten(0, 1))
    prompt_out, prompt_lse = (state.from_groups(part.transpose(1, 2)) for part in partial)

    # exp(prompt_lse) / (exp(prompt_lse) + exp(past_lse)), without overflow
    prompt_weight = (prompt_lse - past_lse).sigmoid_().to(past_out.dtype)  # under autocast not the queries' dtype
    out = torch.lerp(past_out, prompt_out, prompt_weight)
    if layer.sinks is not None:
        return _with_sinks(out, torch.logaddexp(prompt_lse, past_lse), layer.sinks)
    return out.view(*query.shape[:2], -1)


def _with_sinks(out: Tensor, lse: Tensor, sinks: Tensor) -> Tensor:
    """(B, K, H / K, D) outputs and (B, K, H / K, 1) logsumexp of the other scores to (B, H, D)."""
    weight = (lse - sinks.float().view(*lse.shape[1:])).sigmoid()
    return (out * weight.to(out.dtype)).flatten(1, 2)


def _scores(query: Tensor, keys: Tensor, scale: float, softcap: float | None, bias: Tensor | None = None) -> Tensor:
    """(N, M, D) and (N, L, D) to (N, M, L) scores plus a (1, 1, L) bias, without a soft cap in one kernel."""
    if softcap is not None:
        scores = soft_cap(query @ keys.mT * scale, softcap)
        return scores if bias is None else scores + bias
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
