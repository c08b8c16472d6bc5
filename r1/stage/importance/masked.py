"""IcePop: a token whose ratio lies outside two bounds has no gradient."""

from __future__ import annotations

from torch import Tensor

from r1.stage.importance.base import High, Low, zero_outside


def masked(log_ratio: Tensor, *, low: Low, high: High) -> Tensor:
    """k = pi_trainer / pi_engine where low <= k <= high, else 0 (IcePop; TRL's ``token_mask``); (B, T) -> (B, T).

    A token of weight 0 still counts in the loss's denominator, as in TRL. Source: "Small Leak Can Sink a Great Ship"
    (Ant Group 2025). A later post of its authors confirms the range; the default bounds 0.5 and 5 are the usual ones
    and could not be checked against either.
    """
    return zero_outside(log_ratio.exp(), low, high)
