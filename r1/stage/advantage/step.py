"""Magistral's advantage: the reward against its group, in units of the spread over the minibatch."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from torch import Tensor

from r1.stage.advantage.base import advantage_function
from r1.stage.advantage.batch import batch


@advantage_function(min_group_size=2, per_minibatch=True)
def step(rewards: Tensor, *, epsilon: Annotated[float, Gt(0)]) -> Tensor:
    """(r - group mean) / (its std over the minibatch + epsilon) (Magistral, arXiv:2506.10910, sec. 2.1).

    The paper also subtracts the minibatch's mean, which is 0 over whole groups. (P, G) of a minibatch -> (P, G). With
    ``steps_per_rollout`` 1 the minibatch is the rollout batch, and this is ``batch``.
    """
    return batch(rewards, epsilon=epsilon)
