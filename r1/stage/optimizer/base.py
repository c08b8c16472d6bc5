"""The interface of the optimizers, and the parameters that weight decay leaves alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer


class OptimizerFactory(Protocol):
    """``f(policy, lr)``: an optimizer of the trainable parameters. Each group's ``lr`` is its peak rate."""

    def __call__(self, policy: nn.Module, lr: float) -> Optimizer: ...


def decay_groups(parameters: Iterable[Tensor]) -> list[dict[str, Any]]:
    """Parameter groups in which biases and norms are not decayed."""
    trained = [p for p in parameters if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2]},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]  # adapters have no vectors
