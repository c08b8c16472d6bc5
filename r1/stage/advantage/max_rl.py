"""MaxRL's advantage: the reward against its group, in units of the group's mean."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from r1.stage.advantage.base import advantage_function, center_rewards


@advantage_function(min_group_size=2)
def max_rl(rewards: Tensor, *, min_mean: Annotated[float, Gt(0)]) -> Tensor:
    """(r - mean) / mean within each group (Tajwar et al. 2026, "Maximum Likelihood RL", arXiv:2602.02710).

    With rewards of 0 and 1 and K successes it is G (r / K - 1 / G): the mean score of the successes minus that of all,
    an unbiased gradient of the likelihood's expansion up to order G. A rare success weighs 1 / p. The paper's rewards
    are 0 and 1; a mean below ``min_mean``, of other rewards, is replaced by it. (P, G) -> (P, G).
    """
    mean = torch.nanmean(rewards, dim=1, keepdim=True).nan_to_num(0.0)
    return center_rewards(rewards) / mean.clamp(min=min_mean)
