"""Where records lie, and reading them back: what the verbs over finished runs share."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from r1 import jsonl
from r1.errors import DATA, UserError


@dataclass(frozen=True)
class Run:
    """A record read from disk."""

    dir: Path
    manifest: dict[str, Any]
    config: dict[str, Any]
    metrics: list[dict[str, float]]


def read(path: str) -> Run:
    """The run in a folder.

    Raises:
        UserError: there is no record.
    """
    from omegaconf import OmegaConf

    folder = Path(path)
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise UserError(
            "this is not a run's folder: it has no manifest.json",
            where="RUN",
            given=path,
            do=f"looked in {folder.absolute()}",
            code=DATA,
        )
    config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    assert isinstance(config, dict)
    metrics = folder / "metrics.jsonl"
    return Run(
        folder.absolute(),
        json.loads(manifest.read_text()),
        {str(k): v for k, v in config.items()},
        jsonl.read(metrics) if metrics.is_file() else [],
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
