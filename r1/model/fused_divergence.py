"""How far a student's next-token distribution is from a teacher's, over the whole vocabulary, for every token.

As in head.py the (tokens, V) matrices never exist: both output layers are applied tile by tile, forward keeps a few
numbers per token, and backward works the tiles out again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from r1.model.fused_logprobs import VOCABULARY_CHUNK, accumulate, column_tiles, matmul_dtype, row_tiles


class Divergence(Protocol):
    """``D(p, q) = sum over v of h(log p_v, log q_v)``, p the teacher and q the student, elementwise.

    Returns h and its slope, the derivative of h by log q; of any shape, both in nats. The slope is what backward needs:
    dD/dz_v = (slope_v - q_v * sum of all slopes) / temperature for the student's logits z.
    """

    def __call__(self, teacher_logps: Tensor, logps: Tensor, /) -> tuple[Tensor, Tensor]: ...


def head_divergence(
    hidden: Tensor,
    weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    temperature: float,
    divergence: Divergence,
    chunk: int = VOCABULARY_CHUNK,
) -> Tensor:
    """(N,) divergences of softmax(hidden weight^T / temperature) from the teacher's, float32.

    Models that share a tokenizer may differ in how far their vocabulary is padded (Qwen2.5: 151,936 and 152,064): both
    distributions are taken over the entries that both have.

    Args:
        hidden, weight: (N, H) and (V, H) of the student; its gradient goes into both.
        teacher_hidden, teacher_weight: (N, H') and (V', H') of the teacher, which get none.
        chunk: vocabulary entries per tile; cannot change the result beyond rounding.
    """
    size = min(len(weight), len(teacher_weight))
    apply: Any = _HeadDivergence.apply
    ours = weight if len(weight) == size else weight[:size]
    return apply(hidden, ours, teacher_hidden, teacher_weight[:size], temperature, divergence, chunk)  # type: ignore[no-any-return]


def logits_divergence(logits: Tensor, teacher_logits: Tensor, temperature: float, divergence: Divergence) -> Tensor:
    """The same from (..., V) logits that are there already; (...)."""
    size = min(logits.shape[-1], teacher_logits.shape[-1])
    theirs, ours = (z[..., :size].float().div(temperature).log_softmax(-1) for z in (teacher_logits, logits))
    return divergence(theirs, ours)[0].sum(-1)


class _HeadDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        teacher_hidden: Tensor,
        teacher_weight: Tensor,
        temperature: float,
        divergence: Divergence,
        chunk: int,
    ) -> Tensor:
        casts = matmul_dtype(hidden), matmul_dtype(teacher_hidden)
        value, slope = (torch.zeros(len(hidden), device=hidden.device) for _ in range(2))
        lse, teacher_lse = (torch.full_like(value, -torch.inf) for _ in range(2))
        for rows in row_tiles(hidden, weight, chunk):
            states = hidden[rows].to(casts[0]), teacher_hidden[rows].to(casts[1])
            for _, logits, theirs in _tiles(*states, weight, teacher_weight, temperature, chunk):
                lse[rows] = lse[rows].logaddexp(logits.logsumexp(1))
                teacher_lse[rows] = teacher_lse[rows].logaddexp(theirs.logsumexp(1))
            for _, logits, theirs in _tiles(*states, weight, teacher_weight, temperature, chunk):
                terms, slopes = divergence(theirs - teacher_lse[rows, None], logits - lse[rows, None])
                value[rows] += terms.sum(1)
                slope[rows] += slopes.sum(1)
        ctx.save_for_backward(hidden, weight, teacher_hidden, teacher_weight, slope, lse, teacher_lse)
        ctx.casts, ctx.temperature, ctx.divergence, ctx.chunk = casts, temperature, divergence, chunk
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, teacher_hidden, teacher_weight, slope, lse, teacher_lse = ctx.saved_tensors
        scale = gradients[0] / ctx.temperature
        to_hidden = torch.zeros_like(hidden)
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for rows in row_tiles(hidden, weight, ctx.chunk):
            states = hidden[rows].to(ctx.casts[0]), teacher_hidden[rows].to(ctx.casts[1])
            for columns, logits, theirs in _tiles(*states, weight, teacher_weight, ctx.temperature, ctx.chunk):
                logps = logits - lse[rows, None]
                _, slopes = ctx.divergence(theirs - teacher_lse[rows, None], logps)
                tile = ((slopes - logps.exp_().mul_(slope[rows, None])) * scale[rows, None]).to(ctx.casts[0])
                to_hidden[rows] += tile @ weight[columns].to(ctx.casts[0])
                if to_weight is not None:
                    accumulate(to_weight[columns], tile, states[0])
        return to_hidden, to_weight, None, None, None, None, None


def _tiles(
    states: Tensor, teacher_states: Tensor, weight: Tensor, teacher_weight: Tensor, temperature: float, chunk: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(columns, the student's logits, the teacher's) tile by tile."""
    ours = column_tiles(states, weight, temperature, chunk)
    others = column_tiles(teacher_states, teacher_weight, temperature, chunk)
    for (columns, logits), (_, theirs) in zip(ours, others, strict=True):
        yield columns, logits, theirs
