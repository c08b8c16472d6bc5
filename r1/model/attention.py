"""Attention over keys that all lie in one tensor, with the parts that torch's own function lacks.

Soft caps (Gemma 2) and sinks (gpt-oss) change the scores before the softmax, which the fused kernels keep to
themselves: such models store all scores, as transformers' own "eager" attention does.

Shapes: N rows, H attention heads, K key/value heads, L queries, S keys, D head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float | None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """(N, H, L, D) queries, (N, K, S, D) keys and values to (N, H, L, D).

    Args:
        mask: (N or 1, 1, L, S) true where a query sees a key; None: causal.
        scale: of the scores; None: 1 / sqrt(D).
        softcap: bounds the scores softly to +-softcap.
        sinks: (H,) the score of a key without a value.
    """
    if softcap is not None or sinks is not None:
        return _attend_by_scores(query, key, value, mask, scale, dropout, softcap, sinks)
    grouped = key.shape[1] != query.shape[1]
    # no fused CUDA kernel takes both a mask and fewer key/value heads; the unfused one would store all scores
    if grouped and mask is not None and query.is_cuda:
        key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for states in (key, value))
        grouped = False
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        dropout_p=dropout,
        enable_gqa=grouped,
    )


def _attend_by_scores(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float | None,
    dropout: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    num_kv_heads, num_keys = key.shape[1:3]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query.unflatten(1, (num_kv_heads, -1)) @ key[:, :, None].mT * scale  # (N, K, H / K, L, S)
    if softcap is not None:
        scores = soft_cap(scores, softcap)
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()[None, None]
    scores = scores.masked_fill(~mask[:, None], -torch.inf)
    if sinks is not None:
        extra = sinks.to(scores.dtype).view(num_kv_heads, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, extra], dim=-1)
    weights = scores.softmax(-1, dtype=torch.float32)[..., :num_keys].to(value.dtype)
    return (F.dropout(weights, dropout) @ value[:, :, None]).flatten(1, 2)


def soft_cap(values: Tensor, cap: float) -> Tensor:
    """Values bounded smoothly to +-cap, almost unchanged where they are much smaller."""
    return torch.tanh(values / cap) * cap
