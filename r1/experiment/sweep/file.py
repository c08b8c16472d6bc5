"""A W&B sweep file, read as ``wandb sweep`` reads it: the parameters, the metric, and the command of one point."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]

from r1.core.errors import UserError, UserErrors
from r1.core.yaml import UniqueKeyLoader
from r1.experiment.sweep.distributions import Spec
from r1.experiment.sweep.schema import sweep_file_errors

ENVVAR = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")  # the agent's macro for an environment variable


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
        """The arguments of ``r1.run`` for one point, exactly as ``wandb agent`` would write them."""
        start = self.command.index("r1.run") + 1
        point = [f"{name}={value}" for name, value in values.items()]
        parts = [ENVVAR.sub(lambda macro: os.environ.get(macro[1], macro[1]), part) for part in self.command[start:]]
        return [text for part in parts for text in (point if part == "${args_no_hyphens}" else [part])]


def read_sweep(path: str) -> Sweep:
    """The sweep in a file.

    Raises:
        UserErrors: everything wrong with the file itself; ``check_sweep`` also composes its points.
    """
    content = load_yaml(path)
    if errors := sweep_file_errors(content):
        errors[0].message = f"{path}: {errors[0].message}"
        raise UserErrors(errors)
    return parse_sweep(path, content)


def parse_sweep(path: str, content: dict[str, Any]) -> Sweep:
    """The content of a file, in which ``sweep_file_errors`` has found nothing, as a Sweep."""
    return Sweep(
        path=Path(path),
        name=content.get("name") or Path(path).stem,
        method=content["method"],
        metric=content["metric"]["name"],
        goal=content["metric"]["goal"],
        parameters=content["parameters"],
        command=content["command"],
        early_terminate=content.get("early_terminate"),
        run_cap=content.get("run_cap"),
    )


def load_yaml(path: str) -> Any:
    """The content of a YAML file.

    Raises:
        UserError: there is no such file, or it is not YAML, with the line.
    """
    if os.path.lexists(path) and not Path(path).is_file():  # a FIFO would block
        raise UserError("this is not a regular file", key="FILE", value=path)
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=UniqueKeyLoader)
    except OSError as error:
        message = f"the sweep file cannot be read: {error.strerror or error}"
        raise UserError(message, key="FILE", value=path, hint="the sweeps that r1 ships are in sweeps/") from None
    except UnicodeDecodeError:
        raise UserError("the sweep file is not text", key="FILE", value=path, expected="UTF-8") from None
    except yaml.MarkedYAMLError as error:
        key = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else path
        raise UserError("this is not YAML", key=key, hint=error.problem or str(error)) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
        raise UserError("this is not YAML", key=path, hint=str(error)) from None
