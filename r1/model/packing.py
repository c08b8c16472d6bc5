"""Forward passes without padding and with shared prompts, through any transformers model.

All tokens of a micro-batch lie in one row: every prompt once, then the completions, those of similar lengths together.
Everything in a model but attention works on single tokens, so only attention depends on this layout. ``attention``
replaces the model's own; a ``Layout`` tells it which tokens may see which: a completion sees its prompt's keys and
values and its own past. Gradients reach a shared prompt from all of its completions.

With G completions of C tokens for a prompt of L tokens, the model processes L + G C tokens instead of G (L + C).

Shapes: N tokens of the packed row, B completions of P prompts, H attention heads, K key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from r1.model.attention import attend
from r1.model.sequences import Sequences
from r1.model.transformers_adapter import MaskPattern, check_attention

MIN_FILL = 0.8  # rows shorter than this share of a segment's width go into another segment


@dataclass(frozen=True)
class Segment:
    """A rectangle of ``rows`` x ``width`` tokens of the packed row; attention runs once per segment.

    Attributes:
        start: index of its first token.
        positions: (rows or 1, width) of the tokens in their own sequences.
        mask: (rows or 1, 1, width, prompt width + width) true where a token sees another; None: causal, no prompt.
        prompts: (rows,) the prompt that each row continues, as a row of the first segment; None: no prompt.
    """

    start: int
    rows: int
    width: int
    positions: Tensor
    mask: Tensor | None = None
    prompts: Tensor | None = None

    @property
    def end(self) -> int:
        return self.start + self.rows * self.width

    def select(self, states: Tensor) -> Tensor:
        """This segment's part of (1, heads, N, D) states, as (rows, heads, width, D)."""
        tokens = states[0, :, self.start : self.end]
        return tokens.reshape(len(tokens), self.rows, self.width, -1).transpose(0, 1)

    def mask_within(self, pattern: MaskPattern) -> Tensor:
        """``mask`` where a token sees only a part of its past."""
        keys = self.positions
        if self.mask is not None:
            columns = torch.arange(self.mask.shape[-1] - self.width, device=keys.device)
            keys = torch.cat([columns.expand(len(keys), -1), keys], dim=1)
        visible = pattern.visible(self.positions[:, None, :, None], keys[:, None, None, :])
        return visible if self.mask is None else self.mask & visible


@dataclass(frozen=True)
class Layout:
    """A packed micro-batch.

    Attributes:
        input_ids: (1, N).
        position_ids: (1, N) the position of each token in its own sequence.
        segments: in order; where prompts are shared, they are the first.
        sources: (completion tokens,) the packed position that predicts each of them, completion by completion.
        longest: tokens of the longest sequence.
        masks: of the segments within each pattern of this forward pass, by pattern and start.
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: list[Segment]
    sources: Tensor
    longest: int
    masks: dict[tuple[MaskPattern, int], Tensor] = field(default_factory=dict)

    def mask(self, segment: Segment, pattern: MaskPattern | None) -> Tensor | None:
        """The segment's mask; the layers of a pattern share it."""
        if pattern is None or self.longest <= pattern.reach:
            return segment.mask
        key = pattern, segment.start
        if key not in self.masks:
            self.masks[key] = segment.mask_within(pattern)
        return self.masks[key]


def pack(batch: Sequences, share_prompts: bool) -> Layout:
    """Lay out a batch; without ``share_prompts`` each completion has a copy of its prompt."""
    return _pack_shared(batch) if share_prompts else _pack_separate(batch)


def _pack_shared(batch: Sequences) -> Layout:
    """One segment of prompts, padded to (P, width), then segments of completions."""
    device, (num_prompts, prompt_width) = batch.prompt_ids.device, batch.prompt_ids.shape
    prompt_lengths = torch.tensor(batch.prompt_lengths, device=device)
    prompt_index = torch.tensor(batch.prompt_index, device=device)
    columns = torch.arange(prompt_width, device=device)
    is_even = min(batch.prompt_lengths) == prompt_width  # without padding one mask serves all rows
    input_ids, position_ids = [batch.prompt_ids.flatten()], [columns.repeat(num_prompts)]
    segments = [Segment(0, num_prompts, prompt_width, columns[None])]
    # the last token of a prompt predicts the first of its completions, and completion token t - 1 predicts token t
    sources = torch.zeros_like(batch.completion_ids)
    sources[:, 0] = prompt_index * prompt_width + prompt_lengths[prompt_index] - 1
    # the last token of a completion predicts nothing that is trained on: it is left out
    for rows, width in _group_by_length([length - 1 for length in batch.lengths]):
        offsets = torch.arange(width, device=device)
        prompts = prompt_index[rows]
        positions = prompt_lengths[prompts, None] + offsets
        sees_prompt = columns < prompt_lengths[prompts[:1] if is_even else prompts, None]
        mask = _mask(sees_prompt, offsets)
        segment = Segment(segments[-1].end, len(rows), width, positions[: len(mask)], mask, prompts)
        segments.append(segment)
        input_ids.append(batch.completion_ids[rows, :width].flatten())
        position_ids.append(positions.flatten())
        row_starts = torch.arange(len(rows), device=device)[:, None] * width
        sources[rows, 1 : width + 1] = segment.start + row_starts + offsets
    return _layout(batch, input_ids, position_ids, segments, sources)


def _layout(
    batch: Sequences, input_ids: list[Tensor], position_ids: list[Tensor], segments: list[Segment], sources: Tensor
) -> Layout:
    longest = max(batch.prompt_lengths[p] + n for p, n in zip(batch.prompt_index, batch.lengths, strict=True))
    return Layout(torch.cat(input_ids)[None], torch.cat(position_ids)[None], segments, sources[batch.mask], longest)


def _mask(sees_prompt: Tensor, offsets: Tensor) -> Tensor:
    """(rows, 1, width, prompt width + width): a row's prompt, (rows, prompt width), and its own past."""
    is_past = offsets[:, None] >= offsets
    prompt_part = sees_prompt[:, None, :].expand(-1, len(offsets), -1)
    return torch.cat([prompt_part, is_past.expand(len(sees_prompt), -1, -1)], dim=2)[:, None]


def _pack_separate(batch: Sequences) -> Layout:
    """Segments of whole sequences, each a prompt and its completion without a gap."""
    device = batch.completion_ids.device
    prompt_lengths = [batch.prompt_lengths[p] for p in batch.prompt_index]
    input_ids, position_ids, segments, start = [], [], [], 0
    sources = torch.zeros_like(batch.completion_ids)
    steps = torch.arange(batch.completion_ids.shape[1], device=device)
    lengths = [p + c - 1 for p, c in zip(prompt_lengths, batch.lengths, strict=True)]
    for rows, width in _group_by_length(lengths):
        columns = torch.arange(width, device=device)
        row_prompt_lengths = torch.tensor([prompt_lengths[b] for b in rows], device=device)[:, None]
        prompts = torch.tensor([batch.prompt_index[b] for b in rows], device=device)
        # prompts and completions are padded separately: gather closes the gap between the two
        padded = torch.cat([batch.prompt_ids[prompts], batch.completion_ids[rows]], dim=1)
        gap = batch.prompt_ids.shape[1] - row_prompt_lengths
        index = torch.where(columns < row_prompt_lengths, columns, columns + gap)
        input_ids.append(padded.gather(1, index.clamp(max=padded.shape[1] - 1)).flatten())
        position_ids.append(columns.repeat(len(rows)))
        segments.append(Segment(start, len(rows), width, columns[None]))
        row_starts = start + torch.arange(len(rows), device=device)[:, None] * width
        sources[rows] = row_starts + row_prompt_lengths - 1 + steps
        start = segments[-1].end
    return _layout(batch, input_ids, position_ids, segments, sources)


def _group_by_length(lengths: list[int]) -> Iterator[tuple[list[int], int]]:
    """(row indices, longest length) of groups of similar lengths, longest first; rows of length 0 are left out."""
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
    attention_mask: Any,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (1, H, N, D) queries, (1, K, N, D) keys and values to (1, N, H, D).

    Raises:
        ValueError: the model's attention has a part that is not implemented here.
    """
    pattern = check_attention(attention_mask, kwargs)
    outputs = []
    for segment in layout.segments:
        keys, values = (_with_prompt(layout, segment, states) for states in (key, value))
        mask = layout.mask(segment, pattern)
        out = attend(segment.select(query), keys, values, mask, scaling, dropout, softcap, s_aux)
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None], None


def _with_prompt(layout: Layout, segment: Segment, states: Tensor) -> Tensor:
    """A segment's keys or values, (rows, K, width, D), after those of each row's prompt."""
    completion = segment.select(states)
    if segment.prompts is None:
        return completion
    prompts = layout.segments[0].select(states)
    # as an embedding lookup: the same as index_select, with a much faster gradient
    per_row = F.embedding(segment.prompts, prompts.flatten(1)).view(-1, *prompts.shape[1:])
    return torch.cat([per_row, completion], dim=2)
