"""Truncated importance sampling: each token's ratio, bounded above."""

from __future__ import annotations

from torch import Tensor

from r1.stage.importance.base import High


def token(log_ratio: Tensor, *, cap: High) -> Tensor:
    """min(pi_trainer / pi_engine, cap) (Yao et al. 2025, TIS; TRL's ``token_truncate``); (B, T) -> (B, T)."""
    return log_ratio.exp().clamp(max=cap)
