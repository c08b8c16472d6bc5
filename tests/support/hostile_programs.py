"""Programs that try to pass tests without solving them, or to harm the machine that runs them."""

from __future__ import annotations

from pathlib import Path

TEXT = Path(__file__).with_suffix(".txt").read_text().replace("SURROGATE", "\ud800")
HOSTILE = dict(part.split("\n", 1) for part in TEXT.removeprefix("### ").split("\n### "))
"""Name -> program, for a test that reads ``2 3`` and expects ``5``, and for a function ``solve`` of 2 and 3."""
