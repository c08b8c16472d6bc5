"""Log-probabilities and entropies straight from hidden states: the (N, V) matrix of logits never exists as a whole.

The output layer is applied in tiles of tokens x vocabulary entries. Forward keeps one number per token and quantity,
and backward recomputes the tiles. At V = 151,936 the logits of a thousand tokens take 600 MB, and their gradient as
much again.

Shapes: N tokens, V vocabulary, E size of the hidden states, n x v a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from r1.model.attention import soft_cap

VOCABULARY_CHUNK = 8192  # v, columns of a tile
TILE = {"cpu": 2**21, "cuda": 2**27}  # n * v, elements: fits a CPU's cache; keeps a GPU busy (512 MiB in float32)


def head_logps(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float,
    entropy_gradient: bool = False,
    chunk: int = VOCABULARY_CHUNK,
    cap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """log p(target) and the entropy of p = softmax(hidden weight^T / temperature), tile by tile.

    Args:
        hidden: (N, E) hidden states at the positions that predict ``targets``.
        weight: (V, E) of the output layer.
        targets: (N,) token ids.
        entropy_gradient: whether the entropy is differentiable; without, its gradient is zero.
        chunk: vocabulary entries per tile; cannot change the result beyond rounding.
        cap: bounds ``hidden weight^T / temperature`` softly before the softmax; None: it does not.

    Returns:
        (N,) log-probabilities and (N,) entropies in nats, both float32.
    """
    apply: Any = _HeadLogps.apply
    logps, entropy = apply(hidden, weight, targets, temperature, chunk, cap)
    return logps, entropy if entropy_gradient else entropy.detach()


class _HeadLogps(torch.autograd.Function):
    """The gradients by the logits z, with p = softmax(z / temperature) and H its entropy.

    d log p_y / dz_v = ([v = y] - p_v) / temperature
    dH / dz_v = -p_v (log p_v + H) / temperature

    With a soft cap p = softmax(u), u = cap tanh(z / temperature / cap): both times 1 - (u_v / cap)^2.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int, cap: float | None
    ) -> tuple[Tensor, Tensor]:
        dtype = matmul_dtype(hidden)
        target_logits, lse, entropy = (torch.empty(len(hidden), device=hidden.device) for _ in range(3))
        ctx.probs = None
        for rows in row_tiles(hidden, weight, chunk):
            target_logits[rows], lse[rows], entropy[rows], probs = _tile_statistics(
                hidden[rows].to(dtype), weight, targets[rows], temperature, chunk, cap
            )
            if cap is None and len(probs) == len(hidden) and probs.shape[1] == len(weight):
                ctx.probs = probs  # a single tile: keeping it takes no more memory than recomputing it would
        ctx.save_for_backward(hidden, weight, targets, lse, entropy)
        ctx.temperature, ctx.chunk, ctx.cap, ctx.dtype = temperature, chunk, cap, dtype
        ctx.set_materialize_grads(False)  # an output without gradient arrives as None in backward
        return target_logits - lse, entropy

    @staticmethod
    def backward(ctx: Any, logps_grad: Tensor | None, entropy_grad: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, lse, entropy = ctx.saved_tensors
        if logps_grad is None:
            logps_grad = torch.zeros_like(lse)
        hidden_grad = torch.zeros_like(hidden)
        weight_grad = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None  # a frozen head has none
        for rows in row_tiles(hidden, weight, ctx.chunk):
            states = hidden[rows].to(ctx.dtype)
            for columns, probs, logits in _recompute_probs(ctx, states, weight, lse[rows], entropy_grad is not None):
                slope = logps_grad[rows, None]
                if entropy_grad is not None:
                    logps = logits - lse[rows, None]
                    slope = slope + entropy_grad[rows, None] * (logps + entropy[rows, None])
                logits_grad = probs * -slope
                _add_at_targets(logits_grad, targets[rows], columns, logps_grad[rows])
                if ctx.cap is not None:
                    logits_grad *= 1 - (logits / ctx.cap).square()
                logits_grad = (logits_grad / ctx.temperature if ctx.temperature != 1 else logits_grad).to(ctx.dtype)
                hidden_grad[rows] += logits_grad @ weight[columns].to(ctx.dtype)
                if weight_grad is not None:
                    accumulate(weight_grad[columns], logits_grad, states)
        return hidden_grad, weight_grad, None, None, None, None


def _recompute_probs(
    ctx: Any, states: Tensor, weight: Tensor, lse: Tensor, with_logits: bool
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(columns, (n, v) probabilities, logits) tile by tile; the last are undefined unless ``with_logits``."""
    if ctx.probs is not None and not with_logits:
        yield slice(0, len(weight)), ctx.probs, ctx.probs
        return
    for columns, logits in column_tiles(states, weight, ctx.temperature, ctx.chunk, ctx.cap):
        probs, tile_lse = _softmax(logits)
        probs *= (tile_lse - lse).exp()[:, None]  # from probabilities within the tile to those in the vocabulary
        yield columns, probs, logits


def _tile_statistics(
    states: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int, cap: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(n,) target logits, logsumexps and entropies over the vocabulary in one pass, and the last tile's softmax.

    The pass merges each tile into the statistics of those before it. With a and b = 1 - a the probabilities of the two
    parts, and H_a and H_b the entropies within them, the entropy of the union is a H_a + b H_b - a log a - b log b.
    """
    target_logits = torch.zeros(len(states), device=states.device)
    lse, entropy = torch.full_like(target_logits, -torch.inf), torch.zeros_like(target_logits)
    for columns, logits in column_tiles(states, weight, temperature, chunk, cap):
        index = targets - columns.start
        is_inside = (index >= 0) & (index < logits.shape[1])
        gathered = logits.gather(1, index.clamp(0, logits.shape[1] - 1)[:, None]).squeeze(1)
        target_logits = torch.where(is_inside, gathered, target_logits)
        probs, tile_lse = _softmax(logits)
        tile_entropy = tile_lse - torch.linalg.vecdot(probs, logits)
        merged_lse = torch.logaddexp(lse, tile_lse)
        before, tile = (lse - merged_lse).exp(), (tile_lse - merged_lse).exp()  # the probabilities of the two parts
        mixing = -torch.xlogy(before, before) - torch.xlogy(tile, tile)  # xlogy(0, 0) = 0 at the first tile
        entropy = before * entropy + tile * tile_entropy + mixing
        lse = merged_lse
    return target_logits, lse, entropy, probs


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(n, v) softmax within a tile and (n,) its logsumexp, read off the largest probability exp(max logit - lse)."""
    probs = logits.softmax(1)
    return probs, logits.amax(1) - probs.amax(1).log()


def matmul_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype of the output layer's product: autocast's inside autocast, else that of the hidden states."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def row_tiles(hidden: Tensor, weight: Tensor, chunk: int) -> Iterator[slice]:
    """Slices of tokens, so that a tile of ``chunk`` columns has at most ``TILE`` elements."""
    size = max(1, TILE.get(hidden.device.type, TILE["cpu"]) // min(chunk, len(weight)))
    return (slice(start, start + size) for start in range(0, len(hidden), size))


def column_tiles(
    states: Tensor, weight: Tensor, temperature: float, chunk: int, cap: float | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """(columns, (n, v) logits / temperature in float32, softly bounded by ``cap``) tile by tile."""
    for start in range(0, len(weight), chunk):
        columns = slice(start, start + chunk)
        logits = (states @ weight[columns].to(states.dtype).T).float()
        logits = logits.div_(temperature) if temperature != 1 else logits
        yield columns, logits if cap is None else soft_cap(logits, cap)


def _add_at_targets(tile: Tensor, targets: Tensor, columns: slice, amounts: Tensor) -> None:
    """Add (n,) amounts to a tile at the (n,) target columns that lie in it."""
    index = targets - columns.start
    is_inside = (index >= 0) & (index < tile.shape[1])
    tile.scatter_add_(1, index.clamp(0, tile.shape[1] - 1)[:, None], torch.where(is_inside, amounts, 0.0)[:, None])


def accumulate(gradient: Tensor, tile: Tensor, states: Tensor) -> None:
    """gradient += tile^T states, in place without a temporary where the dtypes agree."""
    if gradient.dtype == tile.dtype:
        gradient.addmm_(tile.T, states)
    else:
        gradient += tile.T @ states
