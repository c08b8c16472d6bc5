"""GDPO's advantage: every reward term is normalised within the group on its own, then they are summed by weight."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from r1.stage.advantage.base import center_rewards, group_std


def gdpo(terms: Tensor, weights: Tensor, *, epsilon: Annotated[float, Gt(0)], scale_by_batch: bool) -> Tensor:
    """sum_k w_k (r_k - mean_k) / (std_k + epsilon) within each group (Liu et al. 2026, GDPO).

    Two completions with the same total and different terms get different advantages, which a sum before the
    normalisation cannot give. With ``scale_by_batch`` the sums are then standardised over the step, as the paper does.

    Args:
        terms: (K, P, G) values of the reward terms, NaN where one does not apply.
        weights: (K,).

    Returns:
        (P, G).
    """
    scaled = torch.stack([center_rewards(term) / (group_std(term) + epsilon) for term in terms])
    advantages = (weights[:, None, None] * scaled).sum(0)
    if scale_by_batch:  # their mean is 0 already
        count = (~terms.isnan().all(0)).sum()
        advantages = advantages / ((advantages.square().sum() / (count - 1).clamp(min=1)).sqrt() + epsilon)
    return advantages


gdpo.min_group_size = 2  # type: ignore[attr-defined]  # a group of one has no spread
gdpo.per_term = True  # type: ignore[attr-defined]  # takes terms and weights instead of their sum
