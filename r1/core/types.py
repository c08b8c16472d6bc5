"""Types that every part uses."""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]  # a composed, resolved config or a node of it
