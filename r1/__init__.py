"""r1 composes DeepSeek-R1-style post-training experiments, runs them, and keeps records that reproduce every number."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r1.core.errors import UserError as UserError
    from r1.core.paths import CONF as CONF
    from r1.library import LoadedRun as LoadedRun
    from r1.library import compose as compose
    from r1.library import load as load
    from r1.library import run as run

__version__ = "0.2.0.dev0"
# as a library, r1/library.py; imported where they are used, for commands start fast
LAZY = {
    "CONF": "r1.core.paths",
    "LoadedRun": "r1.library",
    "UserError": "r1.core.errors",
    "compose": "r1.library",
    "load": "r1.library",
}
__all__ = ["CONF", "LoadedRun", "UserError", "__version__", "compose", "load", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":
        return import_module("r1.run")  # the command's module, which can be called
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
