"""RLOO's advantage: the reward against the mean of the other completions of its group."""

from __future__ import annotations

from torch import Tensor

from r1.stage.advantage.base import advantage_function, center_rewards


@advantage_function(min_group_size=2)
def rloo(rewards: Tensor) -> Tensor:
    """r_i minus the mean of the other n - 1, which is n / (n - 1) (r_i - mean) (Ahmadian et al. 2024, eq. 6).

    (P, G) -> (P, G); n counts the rewards that are not missing.
    """
    count = (~rewards.isnan()).sum(1, keepdim=True)
    return center_rewards(rewards) * count / (count - 1).clamp(min=1)
