"""Decoding a batch of groups step by step: what a decoder does, and which one serves a model.

Four of them, each held against the model's own log-probs before it is used: ``GraphDecoder`` (llama and its like, on a
GPU), ``LlamaDecoder`` (the same elsewhere), ``SharedPrefixDecoder`` (whatever takes another attention function), and
``CachedDecoder``, transformers' forward and cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from r1.model.forward import PROBE, TOLERANCE, padded_forward, supports_packing
from r1.model.sequences import stack
from r1.rollout.decoding.cuda_graph import GraphDecoder
from r1.rollout.decoding.llama_decoder import LlamaDecoder, like_llama
from r1.rollout.decoding.shared_prefix import SharedPrefixDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_fitting: WeakKeyDictionary[Any, type[SharedPrefixDecoder] | None] = WeakKeyDictionary()


class Decoder(Protocol):
    """B rows, one per completion; rows of a group lie side by side.

    Attributes:
        compact_below: finished rows are worth dropping once fewer than this share of the rows is still alive.
    """

    compact_below: float

    def start(self, prompts: Sequence[list[int]], group_sizes: Sequence[int]) -> Tensor:
        """Read the prompts; (B, V) logits of the first token of each completion."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each row; (B, V) logits of the next."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""


def decoder(model: PreTrainedModel, longest: int) -> Decoder:
    """The decoder for sequences of at most ``longest`` tokens."""
    window = getattr(model.config, "sliding_window", None)
    kind = fastest_decoder(model) if window is None or longest <= window else None
    return kind(model) if kind else CachedDecoder(model)


def fastest_decoder(model: PreTrainedModel) -> type[SharedPrefixDecoder] | None:
    """The fastest decoder that gives this model's own log-probs; tried once per model, on four short sequences."""
    if model not in _fitting:
        kinds: list[type[SharedPrefixDecoder]] = (
            [LlamaDecoder, SharedPrefixDecoder] if like_llama(model.config) else [SharedPrefixDecoder]
        )
        if like_llama(model.config) and model.device.type == "cuda":
            kinds = [GraphDecoder, *kinds]
        with torch.autocast(model.device.type, enabled=False):  # its rounding is larger than the tolerance
            fits = supports_packing(model)
            _fitting[model] = next((kind for kind in kinds if fits and matches_model(kind, model)), None)
    return _fitting[model]


@torch.no_grad()
def matches_model(kind: type[SharedPrefixDecoder], model: PreTrainedModel) -> bool:
    """Whether two steps of this decoder, with a row dropped in between, give the model's own log-probs."""
    size = model.config.vocab_size
    pairs = [([i % size for i in prompt], [i % size for i in completion][:1]) for prompt, completion in PROBE]
    first_tokens = torch.tensor([completion[0] for _, completion in pairs], device=model.device)
    kept = torch.tensor([0, 2, 3], device=model.device)
    made = kind(model)
    try:
        first = made.start([pairs[0][0], pairs[2][0]], [2, 2])
        made.keep(kept)
        second = made.step(first_tokens[kept])
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):  # whatever an architecture makes of it
        return False
    rows = kept.tolist()
    longer = [([*pairs[b][0]], [*pairs[b][1], int(n)]) for b, n in zip(rows, second.argmax(-1), strict=True)]
    expected, _ = padded_forward(model, stack(longer, 0).to(model.device), 1.0, False)
    steps = (first[kept], second)
    found = [
        logits[b].float().log_softmax(-1)[completion[t]]
        for b, (_, completion) in enumerate(longer)
        for t, logits in enumerate(steps)
    ]
    return bool((torch.stack(found) - expected).abs().max() < TOLERANCE.get(model.dtype, 0.3))


class CachedDecoder:
    """transformers' forward and cache, prompts padded on the left and copied for every completion."""

    compact_below = 0.8

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
