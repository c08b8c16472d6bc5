"""A W&B sweep file, read as ``wandb sweep`` reads it: what varies, what is measured, and the command of one point."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]

from r1.core.errors import UserError, UserErrors
from r1.experiment.sweep import schema

ENVVAR = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")  # the agent's macro for an environment variable
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
        parts = [ENVVAR.sub(lambda found: os.environ.get(found[1], found[1]), part) for part in self.command[start:]]
        return [text for part in parts for text in (point if part == "${args_no_hyphens}" else [part])]


def read(path: str) -> Sweep:
    """The sweep that a file describes.

    Raises:
        UserErrors: everything that is wrong with the file as a sweep file; what its points make of it, ``check`` says.
    """
    held = load(path)
    if found := schema.problems(held):
        raise UserErrors(found)
    return sweep(path, held)


def sweep(path: str, held: dict[str, Any]) -> Sweep:
    """What a file holds, as a Sweep; ``schema.problems`` has found nothing wrong with it."""
    return Sweep(
        path=Path(path),
        name=held.get("name") or Path(path).stem,
        method=held["method"],
        metric=held["metric"]["name"],
        goal=held["metric"]["goal"],
        parameters=held["parameters"],
        command=held["command"],
        early_terminate=held.get("early_terminate"),
        run_cap=held.get("run_cap"),
    )


def load(path: str) -> Any:
    """The YAML of a file.

    Raises:
        UserError: there is none, or none that can be read, with its line.
    """
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Strict)
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "the sweeps that r1 ships are in sweeps/"
        raise UserError(f"the sweep file cannot be read: {reason}", key="FILE", value=path, hint=hint) from None
    except UnicodeDecodeError:
        raise UserError("the sweep file is not text", key="FILE", value=path, expected="UTF-8") from None
    except (yaml.YAMLError, ValueError) as error:  # a date that is none
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        raise UserError("this is not YAML", key=where, hint=getattr(error, "problem", "") or str(error)) from None


class _Strict(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader, and a key that stands twice is an error, where YAML's readers silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set[str]()
        for key, _ in node.value:
            text = str(key.value)
            if text in seen:
                raise yaml.MarkedYAMLError(problem=f"the key `{text}` stands twice", problem_mark=key.start_mark)
            seen.add(text)
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return]
