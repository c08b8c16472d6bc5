"""One process on one device."""

from __future__ import annotations

from datetime import timedelta

from r1.strategy.base import Strategy


class Single(Strategy):
    """Lightning's choice for one device."""

    multi_device = False

    def lightning(self, timeout: timedelta) -> str:
        return "auto"
