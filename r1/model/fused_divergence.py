"""Divergence of a student's next-token distribution from a teacher's, over the whole vocabulary, for every token.

As in fused_logprobs.py the (N, V) matrices never exist as a whole: both output layers are applied tile by tile, forward
keeps a few numbers per token, and backward recomputes the tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from r1.model.fused_logprobs import VOCABULARY_CHUNK, accumulate, column_tiles, matmul_dtype, row_tiles

Caps = tuple[float | None, float | None]  # soft bounds of the student's and the teacher's logits


class Divergence(Protocol):
    """``D(p, q) = sum over v of h(log p_v, log q_v)``, p the teacher and q the student, elementwise.

    Returns h and its slope, the derivative of h by log q; of any shape, both in nats. Backward needs the slope:
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
    caps: Caps = (None, None),
) -> Tensor:
    """(N,) divergences of softmax(hidden weight^T / temperature) from the teacher's, float32.

    Models with the same tokenizer may pad their vocabularies differently (Qwen2.5: 151,936 and 152,064): both
    distributions are taken over the entries that both have.

    Args:
        hidden, weight: (N, E) and (V, E) of the student, both differentiable.
        teacher_hidden, teacher_weight: (N, E') and (V', E') of the teacher, without gradient.
        chunk: vocabulary entries per tile; cannot change the result beyond rounding.
        caps: soft bounds of the logits / temperature of both.
    """
    size = min(len(weight), len(teacher_weight))
    apply: Any = _HeadDivergence.apply
    # an unnecessary slice would cost a second gradient of the weight's size in backward
    student_weight = weight if len(weight) == size else weight[:size]
    return apply(  # type: ignore[no-any-return]
        hidden, student_weight, teacher_hidden, teacher_weight[:size], temperature, divergence, chunk, caps
    )


def logits_divergence(logits: Tensor, teacher_logits: Tensor, temperature: float, divergence: Divergence) -> Tensor:
    """(...) divergences from (..., V) and (..., V') logits."""
    size = min(logits.shape[-1], teacher_logits.shape[-1])
    teacher_logps, logps = (z[..., :size].float().div(temperature).log_softmax(-1) for z in (teacher_logits, logits))
    return divergence(teacher_logps, logps)[0].sum(-1)


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
        caps: Caps,
    ) -> Tensor:
        dtypes = matmul_dtype(hidden), matmul_dtype(teacher_hidden)
        value, slope_sum = (torch.zeros(len(hidden), device=hidden.device) for _ in range(2))
        lse, teacher_lse = (torch.full_like(value, -torch.inf) for _ in range(2))
        for rows in row_tiles(hidden, weight, chunk):
            states = hidden[rows].to(dtypes[0]), teacher_hidden[rows].to(dtypes[1])
            # two passes: h is a function of normalised log-probs, which need the logsumexp over all tiles
            for _, logits, teacher_logits in _paired_tiles(*states, weight, teacher_weight, temperature, chunk, caps):
                lse[rows] = lse[rows].logaddexp(logits.logsumexp(1))
                teacher_lse[rows] = teacher_lse[rows].logaddexp(teacher_logits.logsumexp(1))
            for _, logits, teacher_logits in _paired_tiles(*states, weight, teacher_weight, temperature, chunk, caps):
                terms, slopes = divergence(teacher_logits - teacher_lse[rows, None], logits - lse[rows, None])
                value[rows] += terms.sum(1)
                slope_sum[rows] += slopes.sum(1)
        ctx.save_for_backward(hidden, weight, teacher_hidden, teacher_weight, slope_sum, lse, teacher_lse)
        ctx.dtypes, ctx.temperature, ctx.divergence, ctx.chunk = dtypes, temperature, divergence, chunk
        ctx.caps = caps
        return value

    @staticmethod
    def backward(ctx: Any, value_grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, teacher_hidden, teacher_weight, slope_sum, lse, teacher_lse = ctx.saved_tensors
        dtype, teacher_dtype = ctx.dtypes
        scale = value_grad / ctx.temperature
        hidden_grad = torch.zeros_like(hidden)
        weight_grad = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None  # a frozen head has none
        for rows in row_tiles(hidden, weight, ctx.chunk):
            states = hidden[rows].to(dtype), teacher_hidden[rows].to(teacher_dtype)
            tiles = _paired_tiles(*states, weight, teacher_weight, ctx.temperature, ctx.chunk, ctx.caps)
            for columns, logits, teacher_logits in tiles:
                logps = logits - lse[rows, None]
                _, slopes = ctx.divergence(teacher_logits - teacher_lse[rows, None], logps)
                logits_grad = (slopes - logps.exp_().mul_(slope_sum[rows, None])) * scale[rows, None]
                if ctx.caps[0] is not None:
                    logits_grad *= 1 - (logits / ctx.caps[0]).square()
                logits_grad = logits_grad.to(dtype)
                hidden_grad[rows] += logits_grad @ weight[columns].to(dtype)
                if weight_grad is not None:
                    accumulate(weight_grad[columns], logits_grad, states[0])
        return hidden_grad, weight_grad, None, None, None, None, None, None


def _paired_tiles(
    states: Tensor,
    teacher_states: Tensor,
    weight: Tensor,
    teacher_weight: Tensor,
    temperature: float,
    chunk: int,
    caps: Caps,
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(columns, the student's (n, v) logits, the teacher's) tile by tile."""
    student = column_tiles(states, weight, temperature, chunk, caps[0])
    teacher = column_tiles(teacher_states, teacher_weight, temperature, chunk, caps[1])
    for (columns, logits), (_, teacher_logits) in zip(student, teacher, strict=True):
        yield columns, logits, teacher_logits
