"""Limits on the requests, or tokens, per minute."""

from __future__ import annotations

import time
from threading import Event, Lock


class RateLimiter:
    """Token-bucket limiter without bursts: each request delays the next by its cost.

    Args:
        per_minute: None: no limit.
    """

    def __init__(self, per_minute: int | None) -> None:
        self.seconds_per_unit = 60.0 / per_minute if per_minute else 0.0
        self._free_at, self._lock = 0.0, Lock()

    def reserve(self, cost: int) -> float:
        """Spend ``cost``. Returns the seconds to wait until the earlier costs are paid off."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._free_at)
            self._free_at = start + cost * self.seconds_per_unit
            return start - now

    def wait(self, cost: int, stop: Event) -> None:
        """Spend ``cost`` and wait until the earlier costs are paid off, or until ``stop`` is set."""
        stop.wait(self.reserve(cost))
