"""A W&B sweep file, read as ``wandb sweep`` reads it: what varies, what is measured, and the command of one point."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]

Spec = dict[str, Any]  # one parameter as the file has it: value, values, min, max, distribution, ...


@dataclass(frozen=True)
class Sweep:
    """One sweep file.

    Attributes:
        name: the file's ``name``, or its stem.
        parameters: dotted name -> specification, as the file has it.
        command: as the file has it, macros included.
        early_terminate: W&B's hyperband, as the file has it.
        run_cap: runs at most; None: no limit.
    """

    path: Path
    name: str
    method: Literal["grid", "random", "bayes"]
    metric: str
    goal: Literal["maximize", "minimize"]
    parameters: dict[str, Spec]
    command: list[str]
    early_terminate: Spec | None
    run_cap: int | None

    def overrides(self, values: dict[str, Any]) -> list[str]:
        """What stands behind ``-m r1.run`` in the command of one point, exactly as ``wandb agent`` would write it."""
        start = self.command.index("r1.run") + 1
        point = [f"{name}={value}" for name, value in values.items()]
        return [text for part in self.command[start:] for text in (point if part == "${args_no_hyphens}" else [part])]


def read(path: str) -> Sweep:
    """The sweep that a file describes."""
    file = Path(path)
    held = yaml.safe_load(file.read_text(encoding="utf-8"))
    metric = held["metric"]
    return Sweep(
        path=file,
        name=held.get("name") or file.stem,
        method=held["method"],
        metric=metric["name"],
        goal=metric["goal"],
        parameters=held["parameters"],
        command=[str(part) for part in held["command"]],
        early_terminate=held.get("early_terminate"),
        run_cap=held.get("run_cap"),
    )
