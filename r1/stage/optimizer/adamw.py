"""AdamW (Loshchilov and Hutter 2019)."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Interval
from torch import nn, optim
from torch.optim import Optimizer

from r1.stage.optimizer.base import decay_groups


def adamw(
    policy: nn.Module,
    lr: float,
    *,
    weight_decay: Annotated[float, Ge(0)],
    beta1: Annotated[float, Interval(ge=0, lt=1)],
    beta2: Annotated[float, Interval(ge=0, lt=1)],
) -> Optimizer:
    """PyTorch's fused AdamW; biases and norms are not decayed."""
    groups = decay_groups(policy.parameters())
    return optim.AdamW(groups, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay, fused=True)
