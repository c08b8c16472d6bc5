"""One importance weight per completion: the product of its tokens' ratios, truncated or masked."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from r1.stage.importance.base import High, Low, zero_outside


def sequence(log_ratio: Tensor, *, low: Low | None, high: High | None, outside: Literal["truncate", "mask"]) -> Tensor:
    """rho = prod_t pi_trainer / pi_engine, brought into [low, high], or 0 outside of it; (B, T) -> (B, 1).

    The exact importance weight of a completion, up to the bounds (TRL's ``sequence_truncate`` and ``sequence_mask``).
    Its spread grows with the length: it is of little use on long completions of an engine that is far off.
    """
    ratio = log_ratio.sum(1, keepdim=True).exp()
    return zero_outside(ratio, low, high) if outside == "mask" else ratio.clamp(low, high)
