"""The folders of runs: making one, and reading a record back."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import UnionType
from typing import Any

import yaml  # type: ignore[import-untyped]

from r1.core import jsonl
from r1.core.errors import CONFIG, DATA, STORAGE, UserError, UserErrors
from r1.core.manifest import load_manifest, read_manifest, write_manifest
from r1.core.renamed import upgrade_config, upgrade_manifest, upgrade_metrics
from r1.core.storage import damaged, read_text, require_regular
from r1.core.types import Config
from r1.core.yaml import ConfigLoader

NUM_SHOWN_PROMPTS = 8  # of a validation, whose completions a training stage keeps, and W&B gets
START_FILES = (".lock", ".runner", "output.log", "sweep.yaml")  # in a record's folder before its manifest


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
    require_keys(file, manifest, ("status",), str)
    require_keys(file, manifest, ("metrics",), dict)
    require_keys(file, manifest["metrics"], ("start", "final"))
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
    try:
        config = yaml.load(text, ConfigLoader)
    except (yaml.MarkedYAMLError, ValueError):
        raise damaged(file, "it is not YAML") from None
    except yaml.YAMLError as error:
        raise damaged(file, str(error)) from None
    if not isinstance(config, dict):
        raise damaged(file, "it is not a mapping")
    extensions = config.get("extensions") or []
    if not isinstance(extensions, list) or not all(isinstance(name, str) for name in extensions):
        raise damaged(file, "its `extensions` are no list of names")
    return upgrade_config({str(key): value for key, value in config.items()})


def check_output_dir(folder: Path, value: str) -> None:
    """A new record's folder must be empty: the files in any other one are the user's.

    The manifest is the first file of a record. Before it there are only locks, and the output of a run that was started
    by a pipeline or a sweep.

    Raises:
        UserError: the folder has other files, and is no record.
    """
    if is_record(folder) or not folder.is_dir():
        return
    names = sorted(path.name for path in folder.iterdir() if not _is_start_file(path))
    names.sort(key=lambda name: name != "manifest.json")  # a damaged one, or another program's
    if names:
        raise UserError(
            f"this folder is not a record of r1 and is not empty, so its files would mix with the run's: {names[0]}",
            key="output_dir",
            value=value,
            expected="a new folder, an empty one, or the record of a run that is resumed",
            hint="take another output_dir",
            code=STORAGE if "manifest.json" in names else CONFIG,
        )


def is_record(folder: Path) -> bool:
    """Whether the folder has a manifest, and one of r1's."""
    return {"schema", "status", "overrides"} <= read_manifest(folder).keys()


def _is_start_file(path: Path) -> bool:
    if path.name == "steps" and path.is_dir() and not path.is_symlink():  # of a pipeline, copied without its manifest
        return all(is_record(step) or step.suffix == ".log" for step in path.glob("*/*"))
    is_own = path.name in START_FILES or re.fullmatch(r"(manifest\.json|sweep\.yaml)\.tmp\.\d+", path.name) is not None
    return is_own and path.is_file() and not path.is_symlink()


def made_progress(folder: Path) -> bool:
    """Whether a run has made what a new start in its folder would lose: a step, or answers of its policy.

    A pipeline's record counts as progress, too.
    """
    made = [*saved_checkpoints(folder / "checkpoints"), *folder.glob("model/*"), folder / "traces" / "samples.jsonl"]
    manifest = read_manifest(folder)
    if manifest.get("status") == "finished" or "steps" in manifest or any(path.exists() for path in made):
        return True
    try:
        return any(row.get("step", 0) > 0 for row in jsonl.read_rows(folder / "metrics.jsonl"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, UserError):  # damaged: it may hold steps
        return True


def discard_progress(folder: Path) -> None:
    """Make a record one of a run that failed before its first step; the answers of a teacher stay."""
    for path in [*saved_checkpoints(folder / "checkpoints"), folder / "model"]:
        shutil.rmtree(path, ignore_errors=True)
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    manifest = read_manifest(folder)  # last: until here the record is seen to be damaged
    write_manifest(folder, {**manifest, "status": "failed", "outputs": {}, "best": None})


def saved_checkpoints(folder: Path) -> list[Path]:
    """The published checkpoints, the oldest first; a name such as ``step_backup`` is the user's."""
    paths = [path for path in folder.glob("step_*") if re.fullmatch(r"step_\d{6,}", path.name)]
    return sorted(paths, key=lambda path: int(path.name.removeprefix("step_")))


def require_keys(file: Path, content: Config, keys: Iterable[str], kind: type | UnionType = object) -> None:
    """A manifest or a config needs these keys, each with a value of one kind.

    Raises:
        UserError: names the file and the first key that it lacks.
    """
    if missing := [key for key in keys if key not in content or not isinstance(content[key], kind)]:
        raise damaged(file, f"it has no `{missing[0]}`")


def refuse_pipeline(folder: Path, config: Config) -> None:
    """Raises: UserError: the folder is a pipeline's record, whose config is that of no run."""
    if steps := config.get("steps"):
        message = "this is the record of a pipeline, and a run's is needed"
        hint = f"take a step's, a folder below {folder / 'steps'}: {', '.join(map(str, steps))}"
        raise UserError(message, key="RUN", value=str(folder), hint=hint, code=DATA)


@contextmanager
def errors_of(file: Path) -> Iterator[None]:
    """Name a record's config in the errors that its values cause inside the block."""
    try:
        yield
    except UserError as error:
        message = "the config of this record cannot be run"
        raise UserErrors([UserError(message, key=str(file), code=error.code), error]) from None


def next_to(folder: Path, suffix: str) -> str:
    """A new folder beside another one: its name with a suffix, and a number if that is taken."""
    names = (folder.with_name(f"{folder.name}-{suffix}{i or ''}") for i in count())
    return str(next(path for path in names if not path.exists()))


def new_run_dir(name: str) -> Path:
    """Create outputs/<name>/<time>, with a number appended if two runs start in the same second."""
    base = Path("outputs") / name / time.strftime("%Y-%m-%d_%H-%M-%S")
    for i in count():
        folder = base.with_name(base.name + (f"_{i}" if i else ""))
        with suppress(FileExistsError):
            folder.mkdir(parents=True)  # creating it is the test: two processes cannot both succeed
            return folder
    raise AssertionError("count() does not end")


def published(line: dict[str, Any]) -> dict[str, Any]:
    """A line of ``samples.jsonl`` for a page or W&B: without the row, and completions to a private question."""
    hidden = ("row", "completion") if line.get("private") else ("row",)
    return {name: value for name, value in line.items() if name not in hidden}
