"""Two ways to decode a batch of groups step by step: with shared prompts, and through transformers' own cache.

``SharedDecoder`` keeps the keys and values of each prompt once for its whole group and those of the completions in
buffers that are written in place. It replaces the model's attention and nothing else, so it serves any architecture
that ``works`` finds it right for; ``CachedDecoder`` serves the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from r1.forward import PROBE, inner, packs, plain
from r1.packing import attending, refuse_extras
from r1.sequences import padded, stack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIRST_CAPACITY = 32  # tokens; buffers double when they are full
_works: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


class Decoder(Protocol):
    """B rows, one per completion; rows of a group lie side by side."""

    def start(self, prompts: Sequence[list[int]], group_sizes: Sequence[int]) -> Tensor:
        """Read the prompts; (B, V) logits of the first token of each completion."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each row; (B, V) logits of the next."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""


def decoder(model: PreTrainedModel, longest: int) -> Decoder:
    """The decoder for sequences of at most ``longest`` tokens."""
    window = getattr(model.config, "sliding_window", None)
    shared = (window is None or longest <= window) and works(model)
    return SharedDecoder(model) if shared else CachedDecoder(model)


def works(model: PreTrainedModel) -> bool:
    """Whether ``SharedDecoder`` gives this model's own log-probs; tried once per model, on four short sequences."""
    if model not in _works:
        _works[model] = packs(model) and _decodes(model)
    return _works[model]


@torch.no_grad()
def _decodes(model: PreTrainedModel) -> bool:
    size = model.config.vocab_size
    pairs = [([i % size for i in prompt], [i % size for i in completion][:1]) for prompt, completion in PROBE]
    batch = stack(pairs, 0).to(model.device)
    made = SharedDecoder(model)
    try:
        first = made.start([pairs[0][0], pairs[2][0]], [2, 2])
        second = made.step(batch.completion_ids[:, 0])
    except (TypeError, ValueError, RuntimeError, AttributeError):  # whatever an architecture makes of it
        return False
    longer = stack([(p, [*c, n]) for (p, c), n in zip(pairs, second.argmax(-1).tolist(), strict=True)], 0)
    expected, _ = plain(model, longer.to(model.device), 1.0, False)
    steps = [logits.float().log_softmax(-1) for logits in (first, second)]
    found = [
        step[b, t] for b, (_, c) in enumerate(zip(pairs, longer.completion_ids.tolist(), strict=True))
        for step, t in zip(steps, c, strict=True)
    ]  # fmt: skip
    return bool((torch.stack(found) - expected).abs().max() < (1e-3 if model.dtype == torch.float32 else 0.3))


@dataclass
class Layer:
    """Keys and values of one layer: of the prompts (P, K, L, D), and of the completions (B, K, capacity, D)."""

    prompt_keys: Tensor
    prompt_values: Tensor
    keys: Tensor
    values: Tensor


@dataclass
class State:
    """What attention must know of the batch.

    Attributes:
        layers: filled by the first pass.
        groups: (B,) the prompt of each row.
        bias: (P, 1, 1, 1, L) 0 at a prompt's tokens and -inf at its padding; None where there is no padding.
        slots: (B,) each row's place in a (P x widest group) rectangle; None: the rows fill it in order.
        widest: rows of the largest group.
        t: completion tokens already in the buffers; -1 while the prompts are read.
    """

    groups: Tensor
    bias: Tensor | None
    layers: list[Layer] = field(default_factory=list)
    slots: Tensor | None = None
    widest: int = 1
    t: int = -1

    def place(self) -> None:
        """Work out ``slots`` and ``widest`` from ``groups``, which is sorted."""
        num_prompts = len(self.layers[0].prompt_keys)
        counts = torch.bincount(self.groups, minlength=num_prompts)
        self.widest = int(counts.max())
        starts = counts.cumsum(0) - counts
        within = torch.arange(len(self.groups), device=self.groups.device) - starts[self.groups]
        even = len(self.groups) == num_prompts * self.widest
        self.slots = None if even else self.groups * self.widest + within

    def spread(self, rows: Tensor) -> Tensor:
        """(B, ...) to (P, widest, ...), zeros where a group has no row."""
        if self.slots is not None:
            size = len(self.layers[0].prompt_keys) * self.widest
            rows = rows.new_zeros(size, *rows.shape[1:]).index_copy_(0, self.slots, rows)
        return rows.reshape(-1, self.widest, *rows.shape[1:])

    def gather(self, slots: Tensor) -> Tensor:
        """(P, widest, ...) back to (B, ...)."""
        flat = slots.flatten(0, 1)
        return flat if self.slots is None else flat.index_select(0, self.slots)


class SharedDecoder:
    """Prompts once per group; see the module."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = inner(model)
        self.head = self.model.get_output_embeddings().weight

    def start(self, prompts: Sequence[list[int]], group_sizes: Sequence[int]) -> Tensor:
        device = self.model.device
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        input_ids = padded(prompts, 0).to(device)
        columns = torch.arange(input_ids.shape[1], device=device)
        uneven = len({len(p) for p in prompts}) > 1
        bias = torch.where(columns < lengths[:, None], 0.0, -torch.inf)[:, None, None, None] if uneven else None
        sizes = torch.tensor(group_sizes, device=device)
        groups = torch.arange(len(prompts), device=device).repeat_interleave(sizes)
        self.state, self.lengths = State(groups, bias), lengths[groups]
        hidden = self._run(input_ids, columns.expand_as(input_ids))
        self.state.place()
        self.state.t = 0
        last = hidden[torch.arange(len(prompts), device=device), lengths - 1]
        return F.linear(last, self.head)[groups]

    def step(self, tokens: Tensor) -> Tensor:
        hidden = self._run(tokens[:, None], (self.lengths + self.state.t)[:, None])
        self.state.t += 1
        return F.linear(hidden[:, 0], self.head)

    def keep(self, rows: Tensor) -> None:
        state = self.state
        left, groups = state.groups[rows].unique(return_inverse=True)
        self.lengths, state.groups = self.lengths[rows], groups
        state.bias = state.bias[left] if state.bias is not None else None
        for layer in state.layers:
            if len(left) < len(layer.prompt_keys):
                layer.prompt_keys, layer.prompt_values = layer.prompt_keys[left], layer.prompt_values[left]
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        state.place()

    def _run(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        with attending(self.model, attention):
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
    refuse_extras(kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if state.t < 0:
        state.layers.append(_layer(key, value, len(state.groups)))
        grouped = key.shape[1] != query.shape[1]
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)
        return out.transpose(1, 2), None
    layer = state.layers[module.layer_idx]
    if state.t == layer.keys.shape[2]:
        layer.keys, layer.values = (F.pad(b, (0, 0, 0, b.shape[2])) for b in (layer.keys, layer.values))
    layer.keys[:, :, state.t], layer.values[:, :, state.t] = key[:, :, 0], value[:, :, 0]
    return _attend(query * scale, layer, state).flatten(1, 2)[:, None], None


def _layer(key: Tensor, value: Tensor, num_rows: int) -> Layer:
    buffers = (key.new_empty(num_rows, key.shape[1], FIRST_CAPACITY, s.shape[3]) for s in (key, value))
    return Layer(key.contiguous(), value.contiguous(), *buffers)


def _attend(query: Tensor, layer: Layer, state: State) -> Tensor:
    """(B, heads, 1, D) scaled queries to (B, K, heads / K, D): softmax over the prompt and the row's own past."""
    num_heads, width = layer.keys.shape[1], layer.prompt_keys.shape[2]
    own = slice(0, state.t + 1)
    queries = query[:, :, 0].unflatten(1, (num_heads, -1))  # (B, K, heads / K, D)
    spread = state.spread(queries).transpose(1, 2)  # (P, K, widest, heads / K, D)
    folded = spread.flatten(2, 3) @ layer.prompt_keys.transpose(2, 3)  # (P, K, widest * heads / K, L)
    scores = folded.unflatten(2, spread.shape[2:4])
    if state.bias is not None:
        scores = scores + state.bias
    prompt = state.gather(scores.transpose(1, 2))
    weights = torch.cat([prompt, queries @ layer.keys[:, :, own].transpose(2, 3)], dim=3)
    weights = weights.softmax(3, dtype=torch.float32).to(query.dtype)
    of_prompt = state.spread(weights[..., :width]).transpose(1, 2)
    seen = (of_prompt.flatten(2, 3) @ layer.prompt_values).unflatten(2, of_prompt.shape[2:4]).transpose(1, 2)
    return state.gather(seen) + weights[..., width:] @ layer.values[:, :, own]


class CachedDecoder:
    """transformers' forward and cache, prompts padded on the left and copied for every completion."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def start(self, prompts: Sequence[list[int]], group_sizes: Sequence[int]) -> Tensor:
        from transformers import DynamicCache

        length, device = max(map(len, prompts)), self.model.device
        input_ids = torch.tensor([[0] * (length - len(p)) + p for p in prompts], device=device)
        mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=device)
        self.cache = DynamicCache(config=self.model.config)
        logits = self._run(input_ids, mask, (mask.cumsum(1) - 1).clamp(min=0))
        sizes = torch.tensor(group_sizes, device=device)
        rows = torch.arange(len(prompts), device=device).repeat_interleave(sizes)
        self.cache.batch_select_indices(rows)
        self.mask = mask[rows]
        return logits[rows]

    def step(self, tokens: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        return self._run(tokens[:, None], self.mask, self.mask.sum(1, keepdim=True) - 1)

    def keep(self, rows: Tensor) -> None:
        self.mask = self.mask[rows]
        self.cache.batch_select_indices(rows)

    def _run(self, input_ids: Tensor, mask: Tensor, position_ids: Tensor) -> Tensor:
        out = self.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: Tensor = out.logits[:, -1]
        return logits
