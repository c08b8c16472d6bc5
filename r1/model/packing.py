"""Forward passes without padding and with shared prompts, through any transformers model.

All tokens of a micro-batch lie in one row: every prompt once, then the completions, those of similar lengths side by
side. Everything in a model but attention works on single tokens and does not care. Attention is registered with
transformers under a name of ours and told by a ``Layout`` which tokens may see which: a completion sees its prompt's
keys and values and its own past. Gradients flow back into a shared prompt from all of its completions.
With G completions of C tokens for a prompt of P tokens, P + G C tokens are worked out instead of G (P + C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from r1.model.sequences import Sequences

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

MIN_FILL = 0.8  # rows shorter than this share of a segment's width go into a segment of their own


@dataclass(frozen=True)
class Segment:
    """``rows`` x ``width`` tokens of the packed row, from ``start``; attention runs once per segment.

    Attributes:
        mask: (rows or 1, 1, width, prompt width + width) what each token sees; None: its own past and no prompt.
        prompts: (rows,) the prompt that each row continues, an index into the first segment; None: no prompt.
    """

    start: int
    rows: int
    width: int
    mask: Tensor | None = None
    prompts: Tensor | None = None

    @property
    def end(self) -> int:
        return self.start + self.rows * self.width

    def of(self, states: Tensor) -> Tensor:
        """This segment's part of (1, heads, N, D) states, as (rows, heads, width, D)."""
        own = states[0, :, self.start : self.end]
        return own.reshape(len(own), self.rows, self.width, -1).transpose(0, 1)


@dataclass(frozen=True)
class Layout:
    """One packed row.

    Attributes:
        input_ids: (1, N).
        position_ids: (1, N), of each token in its own sequence.
        segments: in order; where prompts are shared, they are the first.
        sources: (targets,) the packed position that predicts each completion token, row by row.
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: list[Segment]
    sources: Tensor

    @cached_property
    def shared(self) -> Segment:
        return self.segments[0]


def pack(batch: Sequences, share_prompts: bool) -> Layout:
    """Lay a batch out; with ``share_prompts`` false every completion brings its prompt along."""
    return _shared(batch) if share_prompts else _whole(batch)


def _shared(batch: Sequences) -> Layout:
    device, (num_prompts, width) = batch.prompt_ids.device, batch.prompt_ids.shape
    lengths = torch.tensor(batch.prompt_lengths, device=device)
    index = torch.tensor(batch.prompt_index, device=device)
    columns = torch.arange(width, device=device)
    tokens, positions = [batch.prompt_ids.flatten()], [columns.repeat(num_prompts)]
    segments = [Segment(0, num_prompts, width)]
    sources = torch.zeros_like(batch.completion_ids)
    sources[:, 0] = index * width + lengths[index] - 1
    for rows, longest in _similar([length - 1 for length in batch.lengths]):
        own = torch.arange(longest, device=device)
        prompts = index[rows]
        even = min(batch.prompt_lengths) == width  # then one mask does for all rows
        mask = _visible(columns < lengths[prompts[:1] if even else prompts, None], own)
        segments.append(Segment(segments[-1].end, len(rows), longest, mask, prompts))
        tokens.append(batch.completion_ids[rows, :longest].flatten())
        positions.append((lengths[prompts, None] + own).flatten())
        place = torch.arange(len(rows), device=device)[:, None] * longest + own
        sources[rows, 1 : longest + 1] = segments[-1].start + place
    return Layout(torch.cat(tokens)[None], torch.cat(positions)[None], segments, sources[batch.mask])


def _visible(prompt: Tensor, own: Tensor) -> Tensor:
    """(rows, 1, width, prompt width + width): the real tokens of the prompt and the row's own past."""
    past = own[:, None] >= own
    sees_prompt = prompt[:, None, :].expand(-1, len(own), -1)
    return torch.cat([sees_prompt, past.expand(len(prompt), -1, -1)], dim=2)[:, None]


def _whole(batch: Sequences) -> Layout:
    device = batch.completion_ids.device
    prompts = [batch.prompt_lengths[p] for p in batch.prompt_index]
    tokens, positions, segments, start = [], [], [], 0
    sources = torch.zeros_like(batch.completion_ids)
    for rows, longest in _similar([p + c - 1 for p, c in zip(prompts, batch.lengths, strict=True)]):
        place, own = torch.arange(longest, device=device), torch.arange(batch.completion_ids.shape[1], device=device)
        before = torch.tensor([prompts[b] for b in rows], device=device)[:, None]
        index = torch.tensor([batch.prompt_index[b] for b in rows], device=device)
        row_start = start + torch.arange(len(rows), device=device)[:, None] * longest
        both = torch.cat([batch.prompt_ids[index], batch.completion_ids[rows]], dim=1)
        at = torch.where(place < before, place, place - before + batch.prompt_ids.shape[1])
        tokens.append(both.gather(1, at.clamp(max=both.shape[1] - 1)).flatten())
        positions.append(place.repeat(len(rows)))
        segments.append(Segment(start, len(rows), longest))
        sources[rows] = row_start + before - 1 + own
        start = segments[-1].end
    return Layout(torch.cat(tokens)[None], torch.cat(positions)[None], segments, sources[batch.mask])


def _similar(lengths: list[int]) -> Iterator[tuple[list[int], int]]:
    """Rows in groups of similar lengths, longest first: (row indices, longest); rows of length 0 are left out."""
    order = sorted((b for b, length in enumerate(lengths) if length > 0), key=lambda b: -lengths[b])
    start = 0
    for end in range(1, len(order) + 1):
        longest = lengths[order[start]]
        if end == len(order) or lengths[order[end]] < MIN_FILL * longest:
            yield order[start:end], longest
            start = end


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (1, heads, N, D) states to (1, N, heads, D).

    Raises:
        ValueError: the model's attention has a part of its own that is not worked out here.
    """
    check_unsupported_attention(kwargs)
    parts = []
    for segment in layout.segments:
        keys, values = (_with_prompt(layout, segment, states) for states in (key, value))
        grouped = key.shape[1] != query.shape[1]
        if grouped and segment.mask is not None and query.is_cuda:  # no fused CUDA kernel takes both
            keys, values = (s.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for s in (keys, values))
            grouped = False
        out = F.scaled_dot_product_attention(
            segment.of(query),
            keys,
            values,
            attn_mask=segment.mask,
            is_causal=segment.mask is None,
            scale=scaling,
            dropout_p=dropout,
            enable_gqa=grouped,
        )
        parts.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)[None], None


def check_unsupported_attention(kwargs: dict[str, Any]) -> None:
    """A soft cap, sinks or a position bias on the scores: such a model keeps its own attention."""
    if extras := [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]:
        raise ValueError(f"attention with {', '.join(extras)}")


def _with_prompt(layout: Layout, segment: Segment, states: Tensor) -> Tensor:
    own = segment.of(states)
    if segment.prompts is None:
        return own
    shared = layout.shared.of(states)
    prompts = F.embedding(segment.prompts, shared.flatten(1))  # index_select, with a much faster gradient
    return torch.cat([prompts.view(-1, *shared.shape[1:]), own], dim=2)


@contextmanager
def custom_attention(model: PreTrainedModel, function: Callable[..., Any]) -> Iterator[None]:
    """Inside, the model's attention is ``function``, which also gets what is handed to the model's forward by name."""
    from transformers import AttentionInterface

    name = f"r1_{function.__module__}"
    AttentionInterface.register(name, function)
    with _attention_named(model.config, name):
        yield


@contextmanager
def _attention_named(config: PretrainedConfig, name: str) -> Iterator[None]:
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def checkpoint_contexts(config: PretrainedConfig) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For gradient checkpointing: contexts of a layer's forward and recomputation, for ``custom_attention``."""
    return nullcontext(), _attention_named(config, config._attn_implementation)
