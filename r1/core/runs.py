"""The folders of runs: making one, and reading a record back."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from r1.core import jsonl
from r1.core.errors import DATA, UserError
from r1.core.manifest import load_manifest
from r1.core.renamed import upgrade_config, upgrade_manifest, upgrade_metrics
from r1.core.storage import damaged, read_text, require_regular
from r1.core.types import Config
from r1.core.yaml import ConfigLoader

NUM_CHECKPOINTS = 2  # that a run keeps; if the newest is damaged, the one before it is resumed
TOO_DEEP = re.compile(r"(?:[\[{]\s*){1000}")  # the process would die of a stack overflow in libyaml


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
        UserError: the folder has no manifest, or names the file that is damaged.
    """
    folder = Path(path)
    file = folder / "manifest.json"
    if not os.path.lexists(file):
        message, hint = "this is not a run's folder: it has no manifest.json", f"looked in {folder.absolute()}"
        raise UserError(message, key="RUN", value=path, hint=hint, code=DATA)
    manifest, metrics = load_manifest(file), folder / "metrics.jsonl"
    if missing := [key for key in ("status", "metrics") if not manifest.get(key)]:
        raise damaged(file, f"it has no `{missing[0]}`")
    require_regular(metrics)
    return RunRecord(
        dir=folder.absolute(),
        manifest=upgrade_manifest(manifest),
        config=read_config(folder / "config.yaml"),
        metrics=[upgrade_metrics(row) for row in read_metrics(metrics)] if metrics.is_file() else [],
    )


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``: a step and numbers.

    Raises:
        UserError: names the line that is not one.
    """
    rows = jsonl.read_rows(file)
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("step"), int) or not all(isinstance(value, int | float) for value in row.values()):
            raise damaged(file, "the line is not a step with its metrics", number)
    return rows


def read_config(file: Path) -> Config:
    """A record's ``config.yaml`` under today's names.

    It is read as OmegaConf would, but several times faster: a sweep has hundreds of runs.

    Raises:
        UserError: it cannot be read, or is not a config.
    """
    text = read_text(file)
    if TOO_DEEP.search(text):
        raise damaged(file, "its brackets are nested too deeply")
    try:
        config = yaml.load(text, ConfigLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise damaged(file, "it is not YAML") from None
    if not isinstance(config, dict):
        raise damaged(file, "it is not a mapping")
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
