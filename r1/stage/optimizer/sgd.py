"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Interval
from torch import nn, optim
from torch.optim import Optimizer

from r1.stage.optimizer.base import decay_groups


def sgd(
    policy: nn.Module,
    lr: float,
    *,
    weight_decay: Annotated[float, Ge(0)],
    momentum: Annotated[float, Interval(ge=0, lt=1)],
    nesterov: bool,
) -> Optimizer:
    """PyTorch's SGD; biases and norms are not decayed.

    Raises:
        ValueError: ``nesterov`` without momentum.
    """
    groups = decay_groups(policy.parameters())
    return optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
