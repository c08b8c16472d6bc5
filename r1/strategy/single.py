"""One process on one device."""

from __future__ import annotations

from datetime import timedelta


class Single:
    """Lightning's choice for one device."""

    several, package = False, None

    def lightning(self, timeout: timedelta) -> str:
        return "auto"
