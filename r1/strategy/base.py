"""A strategy: how the devices of a run share its model, and the Lightning strategy that does it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Literal

from r1.model.loading import Precision

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy as LightningStrategy


class Strategy:
    """The class attributes are checked against the config before anything is built.

    Attributes:
        multi_device: supports more than one device.
        sharded: no device holds the whole model during training.
        requires_float32: trains float32 weights only.
        requires_adamw: shards the optimizer state, which it can for AdamW only.
        package: an optional package that it needs.
    """

    multi_device: ClassVar[bool] = True
    sharded: ClassVar[bool] = False
    requires_float32: ClassVar[bool] = False
    requires_adamw: ClassVar[bool] = False
    package: ClassVar[str | None] = None

    def lightning(self, timeout: timedelta) -> LightningStrategy | str:
        """The Trainer's strategy; a device that waits for another longer than ``timeout`` fails."""
        raise NotImplementedError


def resolve_precision(precision: Precision, accelerator: str) -> Literal["32-true", "bf16-mixed"]:
    """``auto``: bfloat16 products where the device has units for them, a GPU of compute capability 8 or higher."""
    import torch

    if precision != "auto":
        return precision
    is_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if is_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
