"""Rate limits: so many requests, or tokens, per minute."""

from __future__ import annotations

import time
from threading import Event, Lock


class RateLimiter:
    """Whoever goes first pays, and the next waits until it is paid off: no bursts, and exact in the long run.

    Args:
        per_minute: None: no limit.
    """

    def __init__(self, per_minute: int | None) -> None:
        self.seconds_each = 60.0 / per_minute if per_minute else 0.0
        self._free_at, self._lock = 0.0, Lock()

    def reserve(self, amount: int) -> float:
        """Take ``amount`` off the rate; seconds to wait for what was taken before."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._free_at)
            self._free_at = start + amount * self.seconds_each
            return start - now

    def wait(self, amount: int, stop: Event) -> None:
        """Wait until ``amount`` more may go out, or until ``stop``."""
        stop.wait(self.reserve(amount))
