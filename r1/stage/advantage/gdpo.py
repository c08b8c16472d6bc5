"""GDPO's advantage: every reward term is normalised within the group on its own, then they are summed by weight."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from r1.stage.advantage.base import advantage_function, center_rewards, group_std, step_std


@advantage_function(min_group_size=2, per_term=True)
def gdpo(terms: Tensor, weights: Tensor, *, epsilon: Annotated[float, Gt(0)], scale_by_batch: bool) -> Tensor:
    """sum_k w_k (r_k - mean_k) / (std_k + epsilon) within each group (Liu et al. 2026, GDPO).

    Two completions with the same total and different terms get different advantages; after a sum before the
    normalisation they would be equal. With ``scale_by_batch`` the sums are then
    standardised over the step, as in the paper.

    Args:
        terms: (K, P, G) values of the reward terms, NaN where one does not apply.
        weights: (K,).

    Returns:
        (P, G).
    """
    scaled = torch.stack([center_rewards(term) / (group_std(term) + epsilon) for term in terms])
    advantages = (weights[:, None, None] * scaled).sum(0)
    if scale_by_batch:  # the mean needs no subtraction: it is 0 in every group
        advantages = advantages / (step_std(advantages, terms.isnan().all(0)) + epsilon)
    return advantages
