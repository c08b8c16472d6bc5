"""Learn from the best completion of each group and from nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from r1.stage.advantage.base import advantage_function, has_signal


@advantage_function(min_group_size=2)
def best_of_group(rewards: Tensor) -> Tensor:
    """1 for the best completion of a group, shared where several are best; 0 for the others; (P, G) -> (P, G).

    With the ratio at 1 this is supervised learning on the policy's best answers. A group of equal rewards has no best.
    """
    known = rewards.nan_to_num(-torch.inf)
    best = (known == known.amax(1, keepdim=True)) & has_signal(rewards)
    return best / best.sum(1, keepdim=True).clamp(min=1)
