"""Dr. GRPO's advantage: the reward against its group, not divided by anything."""

from __future__ import annotations

from torch import Tensor

from r1.stage.advantage.base import advantage_function, center_rewards


@advantage_function(min_group_size=2)
def center(rewards: Tensor) -> Tensor:
    """r - mean within each group (Liu et al. 2025, sec. 3); (P, G) -> (P, G)."""
    return center_rewards(rewards)
