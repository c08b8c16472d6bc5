"""GRPO's advantage: the reward against its group, in units of the group's standard deviation."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from torch import Tensor

from r1.stage.advantage.base import advantage_function, center_rewards, group_std


@advantage_function(min_group_size=2)
def group(rewards: Tensor, *, epsilon: Annotated[float, Gt(0)]) -> Tensor:
    """(r - mean) / (std + epsilon) within each group (DeepSeekMath sec. 4.1.2); (P, G) -> (P, G)."""
    return center_rewards(rewards) / (group_std(rewards) + epsilon)
