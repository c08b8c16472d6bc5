"""The folders of runs: making one, and reading a record back."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from r1.core import jsonl
from r1.core.errors import DATA, UserError
from r1.core.renamed import upgrade_config, upgrade_manifest, upgrade_metrics
from r1.core.types import Config
from r1.core.yaml import ConfigLoader


@dataclass(frozen=True)
class RunRecord:
    """A record read from disk; ``metrics`` are the rows of metrics.jsonl."""

    dir: Path
    manifest: dict[str, Any]
    config: Config
    metrics: list[dict[str, float]]


def read_run(path: str) -> RunRecord:
    """The run in a folder.

    Raises:
        UserError: the folder has no manifest.
        OSError, ValueError: its files cannot be read, e.g. while they are being written.
    """
    folder = Path(path)
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        message, hint = "this is not a run's folder: it has no manifest.json", f"looked in {folder.absolute()}"
        raise UserError(message, key="RUN", value=path, hint=hint, code=DATA)
    metrics = folder / "metrics.jsonl"
    return RunRecord(
        dir=folder.absolute(),
        manifest=upgrade_manifest(json.loads(manifest.read_text())),
        config=read_config(folder / "config.yaml"),
        metrics=[upgrade_metrics(row) for row in jsonl.read_rows(metrics)] if metrics.is_file() else [],
    )


def read_config(file: Path) -> Config:
    """A record's ``config.yaml`` under today's names.

    It is read as OmegaConf would, but several times faster: a sweep has hundreds of runs.

    Raises:
        OSError, ValueError: it cannot be read, or is not a mapping.
    """
    try:
        config = yaml.load(file.read_text(encoding="utf-8"), ConfigLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{file.name} is not YAML") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file.name} is not a mapping")
    return upgrade_config({str(key): value for key, value in config.items()})


def new_run_dir(name: str) -> Path:
    """Create outputs/<name>/<time>, with a number appended if two runs start in the same second."""
    base = Path("outputs") / name / time.strftime("%Y-%m-%d_%H-%M-%S")
    for i in count():
        folder = base.with_name(base.name + (f"_{i}" if i else ""))
        with suppress(FileExistsError):
            folder.mkdir(parents=True)  # creating it is the test: two processes cannot both succeed
            return folder
    raise AssertionError("count() does not end")
