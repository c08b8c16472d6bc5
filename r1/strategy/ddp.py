"""A full replica of the model per device, gradients all-reduced (PyTorch's DistributedDataParallel)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from r1.strategy.base import Strategy

if TYPE_CHECKING:
    from lightning.pytorch.strategies import DDPStrategy


class Ddp(Strategy):
    """The gradient is all-reduced once per optimizer step, after its last micro-batch."""

    def lightning(self, timeout: timedelta) -> DDPStrategy:
        from lightning.pytorch.strategies import DDPStrategy

        return DDPStrategy(timeout=timeout, forward_sync_buffers=False, gradient_as_bucket_view=True)
