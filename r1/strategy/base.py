"""A strategy: how the devices of a run share its model, and the Lightning strategy that does it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy as LightningStrategy


class Strategy:
    """The class attributes are checked against the config before anything is built.

    Attributes:
        multi_device: supports more than one device.
        sharded: no device holds the whole model during training.
        requires_float32: trains float32 weights only.
        package: an optional package that it needs.
    """

    multi_device: ClassVar[bool] = True
    sharded: ClassVar[bool] = False
    requires_float32: ClassVar[bool] = False
    package: ClassVar[str | None] = None

    def lightning(self, timeout: timedelta) -> LightningStrategy | str:
        """The Trainer's strategy; a device that waits for another longer than ``timeout`` fails."""
        raise NotImplementedError
