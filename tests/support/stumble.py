"""A reward that fails on rank 1 only, in the second step."""

from __future__ import annotations

import os
from itertools import count

calls = count(1)


def stumble(completions: list[str]) -> list[float]:
    if os.environ.get("RANK") == "1" and next(calls) == 3:
        raise KeyError("nothing of that name")
    return [0.0 for _ in completions]
