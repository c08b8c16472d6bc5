"""REINFORCE++'s advantage: the reward against its group, in units of the spread over the whole step."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from torch import Tensor

from r1.stage.advantage.base import center_rewards


def batch(rewards: Tensor, *, epsilon: Annotated[float, Gt(0)]) -> Tensor:
    """(r - group mean) / (its std over the step + epsilon) (Hu et al. 2025, REINFORCE++-baseline); (P, G) -> (P, G).

    A group whose rewards hardly differ is not blown up to the same size as one whose rewards do.
    """
    gaps = center_rewards(rewards)
    count = (~rewards.isnan()).sum()
    return gaps / ((gaps.square().sum() / (count - 1).clamp(min=1)).sqrt() + epsilon)


batch.min_group_size = 2  # type: ignore[attr-defined]  # a group of one is its own mean
