"""Log-probabilities and entropies straight from hidden states: the (tokens, V) matrix of logits never exists.

The output layer is applied in tiles of tokens x vocabulary, forward keeps one number per token, and backward works the
tiles out again. At V = 151,936 a thousand tokens of full logits are 600 MB, and their gradient is as much again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

VOCABULARY_CHUNK = 8192  # columns of a tile
TILE = {"cpu": 2**21, "cuda": 2**27}  # elements of a tile: small enough for a cache, large enough for a GPU


def head_logps(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float,
    entropy_gradient: bool = False,
    chunk: int = VOCABULARY_CHUNK,
) -> tuple[Tensor, Tensor]:
    """log p(target) and the entropy of p = softmax(hidden weight^T / temperature), tile by tile.

    Args:
        hidden: (N, H) outputs of the last layer at the positions that predict ``targets``.
        weight: (V, H) the output embedding.
        targets: (N,) token ids.
        entropy_gradient: whether the entropy is differentiated too; without, its gradient is zero.
        chunk: vocabulary entries per tile; cannot change the result beyond rounding.

    Returns:
        (N,) log-probabilities and (N,) entropies in nats, both float32.
    """
    apply: Any = _HeadLogps.apply
    logps, entropy = apply(hidden, weight, targets, temperature, chunk)
    return logps, entropy if entropy_gradient else entropy.detach()


class _HeadLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        cast = matmul_dtype(hidden)
        target, lse, entropy = (torch.empty(len(hidden), device=hidden.device) for _ in range(3))
        ctx.probs = None
        for rows in row_tiles(hidden, weight, chunk):
            target[rows], lse[rows], entropy[rows], probs = _forward_tile_stats(
                hidden[rows].to(cast), weight, targets[rows], temperature, chunk
            )
            if len(probs) == len(hidden) and probs.shape[1] == len(weight):
                ctx.probs = probs  # all in one tile: no larger than what backward would make again
        ctx.save_for_backward(hidden, weight, targets, lse, entropy)
        ctx.temperature, ctx.chunk, ctx.cast = temperature, chunk, cast
        ctx.set_materialize_grads(False)
        return target - lse, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, targets, lse, entropy = ctx.saved_tensors
        of_logps, of_entropy = gradients
        if of_logps is None:
            of_logps = torch.zeros_like(lse)
        to_hidden = torch.zeros_like(hidden)
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for rows in row_tiles(hidden, weight, ctx.chunk):
            states = hidden[rows].to(ctx.cast)
            for columns, probs, logps in _recompute_probs(ctx, states, weight, lse[rows], of_entropy is not None):
                slope = of_logps[rows, None]
                if of_entropy is not None:
                    slope = slope + of_entropy[rows, None] * (logps + entropy[rows, None])
                tile = probs * -slope
                _add_at_targets(tile, targets[rows], columns, of_logps[rows])
                tile = (tile / ctx.temperature if ctx.temperature != 1 else tile).to(ctx.cast)
                to_hidden[rows] += tile @ weight[columns].to(ctx.cast)
                if to_weight is not None:
                    accumulate(to_weight[columns], tile, states)
        return to_hidden, to_weight, None, None, None


def _recompute_probs(
    ctx: Any, states: Tensor, weight: Tensor, lse: Tensor, with_logps: bool
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(columns, probabilities, log-probabilities where they are wanted) tile by tile, as backward needs them."""
    if ctx.probs is not None and not with_logps:
        yield slice(0, len(weight)), ctx.probs, ctx.probs
        return
    for columns, logits in column_tiles(states, weight, ctx.temperature, ctx.chunk):
        probs, share = _softmax(logits)
        probs *= (share - lse).exp()[:, None]  # of the tile -> of the vocabulary
        yield columns, probs, logits.sub_(lse[:, None]) if with_logps else logits


def _forward_tile_stats(
    states: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per token: the target's logit, log sum exp and the entropy in one pass; and the last tile's probabilities."""
    target = torch.zeros(len(states), device=states.device)
    lse, entropy = torch.full_like(target, -torch.inf), torch.zeros_like(target)
    for columns, logits in column_tiles(states, weight, temperature, chunk):
        place = targets - columns.start
        inside = (place >= 0) & (place < logits.shape[1])
        found = logits.gather(1, place.clamp(0, logits.shape[1] - 1)[:, None]).squeeze(1)
        target = torch.where(inside, found, target)
        probs, share = _softmax(logits)
        both = torch.logaddexp(lse, share)
        before, here = (lse - both).exp(), (share - both).exp()  # the probability of the tiles before, and of this one
        mixing = -torch.xlogy(before, before) - torch.xlogy(here, here)
        entropy = before * entropy + here * (share - torch.linalg.vecdot(probs, logits)) + mixing
        lse = both
    return target, lse, entropy, probs


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """softmax over a tile, and log sum exp of each row: the largest probability is exp(largest logit - that)."""
    probs = logits.softmax(1)
    return probs, logits.amax(1) - probs.amax(1).log()


def matmul_dtype(hidden: Tensor) -> torch.dtype:
    """What the output layer multiplies in: autocast's type inside autocast, else the hidden states' own."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def row_tiles(hidden: Tensor, weight: Tensor, chunk: int) -> Iterator[slice]:
    """Tokens at a time, so that a tile of ``chunk`` columns keeps to its size."""
    size = max(1, TILE.get(hidden.device.type, TILE["cpu"]) // min(chunk, len(weight)))
    return (slice(start, start + size) for start in range(0, len(hidden), size))


def column_tiles(states: Tensor, weight: Tensor, temperature: float, chunk: int) -> Iterator[tuple[slice, Tensor]]:
    """(columns, (tokens, columns) logits in float32) tile by tile."""
    for start in range(0, len(weight), chunk):
        columns = slice(start, start + chunk)
        logits = (states @ weight[columns].to(states.dtype).T).float()
        yield columns, logits.div_(temperature) if temperature != 1 else logits


def _add_at_targets(tile: Tensor, targets: Tensor, columns: slice, amounts: Tensor) -> None:
    place = targets - columns.start
    inside = (place >= 0) & (place < tile.shape[1])
    tile.scatter_add_(1, place.clamp(0, tile.shape[1] - 1)[:, None], torch.where(inside, amounts, 0.0)[:, None])


def accumulate(into: Tensor, tile: Tensor, states: Tensor) -> None:
    """into += tile^T states, without a copy where the types allow it."""
    if into.dtype == tile.dtype:
        into.addmm_(tile.T, states)
    else:
        into += tile.T @ states
