"""Decoding a batch of groups step by step: the decoder interface, and which decoder serves a model.

From fastest to slowest, each compared with the model's own log-probs before it is used:

* ``GraphDecoder``: llama-like models on a GPU, one CUDA graph per step.
* ``LlamaDecoder``: llama-like models elsewhere.
* ``SharedPrefixDecoder``: models that accept another attention function.
* ``CachedDecoder``: transformers' own forward and cache.
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
from r1.rollout.decoding.llama_decoder import LlamaDecoder, is_llama_like
from r1.rollout.decoding.shared_prefix import SharedPrefixDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_fastest_by_model: WeakKeyDictionary[Any, type[SharedPrefixDecoder] | None] = WeakKeyDictionary()


class Decoder(Protocol):
    """Decodes B rows, one per completion; the rows of a group are adjacent.

    Attributes:
        compact_below: dropping finished rows pays off once less than this share of the rows is alive.
    """

    compact_below: float

    def start(self, prompts: Sequence[list[int]], group_sizes: Sequence[int]) -> Tensor:
        """Prefill the prompts; (B, V) logits of the first token of each completion."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each row, (B,); (B, V) logits of the next."""

    def select_rows(self, rows: Tensor) -> None:
        """Drop all rows but these, given as sorted indices."""


def make_decoder(model: PreTrainedModel, max_length: int) -> Decoder:  # noqa: ARG001
    """The fastest decoder for sequences of at most ``max_length`` tokens, prompt included."""
    kind = fastest_decoder(model)
    return kind(model) if kind else CachedDecoder(model)


def fastest_decoder(model: PreTrainedModel) -> type[SharedPrefixDecoder] | None:
    """The fastest decoder that gives this model's own log-probs, or None; tried once per model on four sequences."""
    if model not in _fastest_by_model:
        kinds: list[type[SharedPrefixDecoder]] = [SharedPrefixDecoder]
        if is_llama_like(model.config):
            kinds = [LlamaDecoder, *kinds]
            if model.device.type == "cuda":
                kinds = [GraphDecoder, *kinds]
        with torch.autocast(model.device.type, enabled=False):  # autocast rounds by more than the tolerance
            candidates = kinds if supports_packing(model) else []
            _fastest_by_model[model] = next((kind for kind in candidates if matches_model(kind, model)), None)
    return _fastest_by_model[model]


@torch.no_grad()
def matches_model(kind: type[SharedPrefixDecoder], model: PreTrainedModel) -> bool:
    """Whether two steps of this decoder, with a row dropped in between, give the model's own log-probs."""
    vocab_size = model.config.vocab_size
    pairs = [([i % vocab_size for i in prompt], [completion[0] % vocab_size]) for prompt, completion in PROBE]
    first_tokens = torch.tensor([completion[0] for _, completion in pairs], device=model.device)
    remaining = [0, 2, 3]
    rows = torch.tensor(remaining, device=model.device)
    decoder = kind(model)
    try:
        first_logits = decoder.start([pairs[0][0], pairs[2][0]], [2, 2])
        decoder.select_rows(rows)
        second_logits = decoder.step(first_tokens[rows])
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):  # an architecture may fail in any way
        return False
    sequences = [
        (pairs[b][0], [*pairs[b][1], int(token)]) for b, token in zip(remaining, second_logits.argmax(-1), strict=True)
    ]
    expected, _ = padded_forward(model, stack(sequences, 0).to(model.device), 1.0, False)
    logps = [
        logits[row].float().log_softmax(-1)[completion[t]]
        for row, (_, completion) in enumerate(sequences)
        for t, logits in enumerate((first_logits[rows], second_logits))
    ]
    return bool((torch.stack(logps) - expected).abs().max() < TOLERANCE.get(model.dtype, 0.3))


class CachedDecoder:
    """transformers' forward and cache; prompts are padded on the left and repeated for each completion."""

    compact_below = 0.8

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def start(self, prompts: Sequence[list[int]], group_sizes: Sequence[int]) -> Tensor:
        from transformers import DynamicCache

        length, device = max(map(len, prompts)), self.model.device
        input_ids = torch.tensor([[0] * (length - len(p)) + p for p in prompts], device=device)
        attention_mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=device)
        self.cache = DynamicCache(config=self.model.config)
        logits = self._forward(input_ids, attention_mask, (attention_mask.cumsum(1) - 1).clamp(min=0))
        rows = torch.arange(len(prompts), device=device).repeat_interleave(torch.tensor(group_sizes, device=device))
        self.cache.batch_select_indices(rows)
        self.attention_mask = attention_mask[rows]
        return logits[rows]

    def step(self, tokens: Tensor) -> Tensor:
        mask = self.attention_mask
        self.attention_mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        position_ids = self.attention_mask.sum(1, keepdim=True) - 1
        return self._forward(tokens[:, None], self.attention_mask, position_ids)

    def select_rows(self, rows: Tensor) -> None:
        self.attention_mask = self.attention_mask[rows]
        self.cache.batch_select_indices(rows)

    def _forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        """(B, V) logits at the last position."""
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: Tensor = out.logits[:, -1]
        return logits
