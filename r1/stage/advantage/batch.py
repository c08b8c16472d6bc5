"""REINFORCE++'s advantage: the reward against its group, in units of the spread over the whole step."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from torch import Tensor

from r1.stage.advantage.base import advantage_function, center_rewards, step_std


@advantage_function(min_group_size=2)
def batch(rewards: Tensor, *, epsilon: Annotated[float, Gt(0)]) -> Tensor:
    """(r - group mean) / (its std over the step + epsilon) (Hu et al. 2025, REINFORCE++-baseline); (P, G) -> (P, G).

    A group with nearly equal rewards keeps small advantages: its own small std would scale them up to order 1.
    """
    centered = center_rewards(rewards)
    return centered / (step_std(centered, rewards.isnan()) + epsilon)
