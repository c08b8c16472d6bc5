"""A decoder that keeps each prompt once for its whole group and writes the completions' keys and values in place.

It replaces the model's attention and nothing else, so it serves any architecture that takes another attention function.
A short prompt is copied into the buffers of its completions instead: two products then become one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from r1.model.forward import unwrap_peft
from r1.model.packing import check_unsupported_attention, custom_attention
from r1.model.sequences import padded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIRST_CAPACITY = 32  # completion tokens; buffers double when they are full


@dataclass
class Layer:
    """Keys and values of one layer: of the shared prompts (P, K, L, D), and of the rows (B, K, capacity, D)."""

    prompt_keys: Tensor
    prompt_values: Tensor
    keys: Tensor
    values: Tensor

    def append(self, key: Tensor, value: Tensor, state: State) -> None:
        """Write (B, K, D) keys and values as the next token of each row."""
        place = state.filled
        if place == self.keys.shape[2]:
            self.keys, self.values = (F.pad(b, (0, 0, 0, b.shape[2])) for b in (self.keys, self.values))
        self.keys[:, :, place], self.values[:, :, place] = key, value


@dataclass
class State:
    """What attention must know of the batch.

    Attributes:
        groups: (B,) the prompt of each row, sorted.
        copied: length of the prompts in the rows' own buffers; 0 where prompts are shared.
        bias: 0 at a prompt's tokens and -inf at its padding: (P, 1, 1, 1, L) where prompts are shared, (B, 1, 1, L)
            where they are copied; None where nothing is padded.
        layers: filled while the prompts are read.
        slots: (B,) each row's place in a (P x widest group) rectangle; None: the rows fill it in order.
        widest: rows of the largest group.
        filled: tokens in the rows' buffers; -1 while the prompts are read.
        unseen: (1, 1, capacity) -inf at the places of the rows' buffers that are empty; None: ``seen`` cuts them off.
    """

    groups: Tensor
    copied: int
    bias: Tensor | None
    layers: list[Layer] = field(default_factory=list)
    slots: Tensor | None = None
    max_group_size: int = 1
    filled: int = -1
    unseen: Tensor | None = None

    @property
    def seen(self) -> int:
        """Tokens of the rows' buffers that attention looks at, the one that is being decoded included."""
        return self.filled + 1

    def place(self) -> None:
        """Work out ``slots`` and ``widest`` from ``groups``."""
        num_prompts = len(self.layers[0].prompt_keys)
        counts = torch.bincount(self.groups, minlength=num_prompts)
        self.max_group_size = int(counts.max())
        starts = counts.cumsum(0) - counts
        within = torch.arange(len(self.groups), device=self.groups.device) - starts[self.groups]
        even = len(self.groups) == num_prompts * self.max_group_size
        self.slots = None if even else self.groups * self.max_group_size + within

    def to_groups(self, rows: Tensor) -> Tensor:
        """(B, ...) to (P, widest, ...), zeros where a group has no row."""
        if self.slots is not None:
            size = len(self.layers[0].prompt_keys) * self.max_group_size
            rows = rows.new_zeros(size, *rows.shape[1:]).index_copy_(0, self.slots, rows)
        return rows.reshape(-1, self.max_group_size, *rows.shape[1:])

    def gather(self, slots: Tensor) -> Tensor:
        """(P, widest, ...) back to (B, ...)."""
        flat = slots.flatten(0, 1)
        return flat if self.slots is None else flat.index_select(0, self.slots)


class SharedPrefixDecoder:
    """Prompts once per group; see the module."""

    compact_below = 0.8
    shared_from = 64  # tokens; shorter prompts are copied

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = unwrap_peft(model)
        self.head = self.model.get_output_embeddings().weight

    def start(self, prompts: Sequence[list[int]], group_sizes: Sequence[int]) -> Tensor:
        device = self.model.device
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        input_ids = padded(prompts, 0).to(device)
        width = input_ids.shape[1]
        columns = torch.arange(width, device=device)
        groups = torch.arange(len(prompts), device=device).repeat_interleave(torch.tensor(group_sizes, device=device))
        self.lengths = lengths[groups]
        copied = width if width < self.shared_from else 0
        bias = None
        if min(map(len, prompts)) < width:
            bias = torch.zeros(len(prompts), width, device=device).masked_fill(columns >= lengths[:, None], -torch.inf)
            bias = bias[groups, None, None] if copied else bias[:, None, None, None]
        self.state = State(groups, copied, bias)
        hidden = self._run(input_ids, columns.expand_as(input_ids))
        self.state.place()
        self.state.filled, self.length = copied, 0
        last = hidden[torch.arange(len(prompts), device=device), lengths - 1]
        return F.linear(last, self.head)[groups]

    def step(self, tokens: Tensor) -> Tensor:
        logits = self.next_logits(tokens, self.lengths + self.length)
        self.state.filled += 1
        self.length += 1
        return logits

    def next_logits(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """(B,) tokens at their (B,) positions to (B, V) logits; the keys and values are added to the state."""
        return F.linear(self._run(tokens[:, None], positions[:, None])[:, 0], self.head)

    def keep(self, rows: Tensor) -> None:
        state = self.state
        left, groups = state.groups[rows].unique(return_inverse=True)
        self.lengths, state.groups = self.lengths[rows], groups
        if state.bias is not None:
            state.bias = state.bias[rows if state.copied else left]
        for layer in state.layers:
            if len(left) < len(layer.prompt_keys):
                layer.prompt_keys, layer.prompt_values = layer.prompt_keys[left], layer.prompt_values[left]
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        state.place()

    def _run(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        with custom_attention(self.model, attention):
            out = self.model.base_model(
                input_ids=input_ids, position_ids=position_ids, use_cache=False, state=self.state
            )
        hidden: Tensor = out.last_hidden_state
        return hidden


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    state: State,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (rows, heads, L or 1, D) states to (rows, L or 1, heads, D)."""
    check_unsupported_attention(kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if state.filled < 0:
        state.layers.append(_layer(key, value, state))
        grouped = key.shape[1] != query.shape[1]
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)
        return out.transpose(1, 2), None
    layer = state.layers[module.layer_idx]
    layer.append(key[:, :, 0], value[:, :, 0], state)
    return shared_prefix_attention(query[:, :, 0], scale, layer, state)[:, None], None


def _layer(key: Tensor, value: Tensor, state: State) -> Layer:
    buffers = []
    for states in (key, value):
        size = (len(state.groups), states.shape[1], state.copied + FIRST_CAPACITY, states.shape[3])
        buffers.append(states.new_empty(size))
        buffers[-1][:, :, : state.copied] = states[state.groups, :, : state.copied]
    return Layer(key.contiguous(), value.contiguous(), *buffers)


def shared_prefix_attention(query: Tensor, scale: float, layer: Layer, state: State) -> Tensor:
    """(B, heads, D) queries to (B, heads, D): softmax over the prompt and the row's own past.

    Where prompts are shared the two parts are worked out apart, each in the layout that suits it, and then weighed by
    their shares of the whole softmax, exp(lse) each (Milakov and Gimelshein 2018).
    """
    queries = query.unflatten(1, (layer.keys.shape[1], -1))  # (B, K, heads / K, D)
    keys, values = (buffer.flatten(0, 1)[:, : state.seen] for buffer in (layer.keys, layer.values))
    scores = _scaled(queries.flatten(0, 1), keys, scale, state.unseen).unflatten(0, queries.shape[:2])
    if state.copied:
        if state.bias is not None:
            scores[..., : state.copied] += state.bias
        weights = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
        return torch.bmm(weights.flatten(0, 1), values).view(query.shape)
    of_own, own_share = _part(scores, values)
    spread = state.to_groups(queries).transpose(1, 2)  # (P, K, widest, heads / K, D)
    folded = _scaled(spread.flatten(2, 3).flatten(0, 1), layer.prompt_keys.flatten(0, 1), scale)
    scores = folded.view(*spread.shape[:-1], -1)
    if state.bias is not None:
        scores += state.bias
    of_prompt, prompt_share = _part(scores, layer.prompt_values.flatten(0, 1))
    of_prompt, prompt_share = (state.gather(part.transpose(1, 2)) for part in (of_prompt, prompt_share))
    weight = (prompt_share - own_share).sigmoid_().to(query.dtype)
    return torch.lerp(of_own, of_prompt, weight).view(query.shape)


def _scaled(queries: Tensor, keys: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """(N, M, D) and (N, L, D) to (N, M, L) scores, a (1, 1, L) bias added."""
    if bias is None:
        return torch.baddbmm(queries.new_empty(1, 1, 1), queries, keys.mT, beta=0, alpha=scale)
    return torch.baddbmm(bias, queries, keys.mT, alpha=scale)


def _part(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over a part of the keys: (..., D) and its log sum exp (..., 1); values are (N, L, D)."""
    weights = scores.softmax(-1, dtype=torch.float32)
    share = scores.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).log()
    seen = torch.bmm(weights.to(values.dtype).view(len(values), -1, scores.shape[-1]), values)
    return seen.view(*scores.shape[:-1], -1), share
