"""Adapters of the tests: rank 2 and no dropout unless set."""

from __future__ import annotations

from typing import Any

from r1.model.lora import Lora


def make_lora(**options: Any) -> Lora:
    defaults: dict[str, Any] = {
        "r": 2,
        "alpha": 4.0,
        "use_rslora": False,
        "dropout": 0.0,
        "target_modules": "all-linear",
        "modules_to_save": None,
    }
    return Lora(**(defaults | options))
