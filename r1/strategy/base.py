"""What a strategy is: how the devices of a run share its model, in Lightning's terms."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy as LightningStrategy


class Strategy:
    """What can be known of it without making it.

    Attributes:
        several: it takes more than one device.
        sharded: no device holds the whole model while it trains.
        float32: it trains weights in float32 alone.
        package: what it needs besides r1's own dependencies.
    """

    several: bool = True
    sharded: bool = False
    float32: bool = False
    package: str | None = None

    def lightning(self, timeout: timedelta) -> LightningStrategy | str:
        """The Trainer's strategy; a device that waits for another longer than ``timeout`` gives up."""
        raise NotImplementedError
