"""Interfaces of Lightning strategies under which no device holds the whole policy, or the whole gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class ShardedPolicy(ABC):
    """The policy's parameters are sharded; each method is a collective."""

    @abstractmethod
    def gather_policy(self) -> PreTrainedModel:
        """A copy of the policy on the CPU; only on rank 0 it has the weights."""

    @abstractmethod
    def full_params(self) -> AbstractContextManager[None]:
        """Inside, every device has all weights, and a forward pass needs no communication."""


class ShardedGradient(ABC):
    """The gradient is not in ``parameter.grad``."""

    @abstractmethod
    def clip_grad_norm(self, max_norm: float) -> Tensor:
        """Clip the gradient of the next optimizer step; returns its norm before, infinite if it is not finite."""
