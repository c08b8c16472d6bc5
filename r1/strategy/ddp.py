"""One full copy of the model per device, gradients averaged (PyTorch's DistributedDataParallel)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch.strategies import DDPStrategy


class Ddp:
    """The gradient is summed once per optimizer step, after its last micro-batch."""

    several, package = True, None

    def lightning(self, timeout: timedelta) -> DDPStrategy:
        from lightning.pytorch.strategies import DDPStrategy

        return DDPStrategy(timeout=timeout, forward_sync_buffers=False, gradient_as_bucket_view=True)
