"""Where records lie, and reading them back: what the verbs over finished runs share."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import yaml  # type: ignore[import-untyped]

from r1.core import jsonl
from r1.core.errors import DATA, UserError


@dataclass(frozen=True)
class RunRecord:
    """A record read from disk."""

    dir: Path
    manifest: dict[str, Any]
    config: dict[str, Any]
    metrics: list[dict[str, float]]


def read(path: str) -> RunRecord:
    """The run in a folder.

    Raises:
        UserError: there is no record.
    """
    folder = Path(path)
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise UserError(
            "this is not a run's folder: it has no manifest.json",
            key="RUN",
            value=path,
            hint=f"looked in {folder.absolute()}",
            code=DATA,
        )
    metrics = folder / "metrics.jsonl"
    return RunRecord(
        folder.absolute(),
        json.loads(manifest.read_text()),
        {str(key): value for key, value in _config(folder / "config.yaml").items()},
        jsonl.read(metrics) if metrics.is_file() else [],
    )


def _config(file: Path) -> dict[str, Any]:
    """What OmegaConf has written, as OmegaConf reads it and several times faster: a sweep has hundreds of runs.

    Raises:
        OSError, ValueError: it cannot be read, or is no mapping.
    """
    try:
        held = yaml.load(file.read_text(encoding="utf-8"), Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{file.name} is not YAML") from error
    if not isinstance(held, dict):
        raise ValueError(f"{file.name} holds no mapping")
    return held


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML in which dates are text and ``1e-6`` is a number, as in OmegaConf's."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, form) for tag, form in forms if not tag.endswith(":timestamp")]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), [*"-+0123456789"]
)


def new_folder(name: str) -> Path:
    """Make outputs/<name>/<time>, with a number behind it if two runs start in the same second."""
    base = Path("outputs") / name / time.strftime("%Y-%m-%d_%H-%M-%S")
    for i in count():
        folder = base.with_name(base.name + (f"_{i}" if i else ""))
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("count() does not end")
