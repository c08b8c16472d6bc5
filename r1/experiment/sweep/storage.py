"""The storage of a sweep's study: SQLite or Optuna's journal, with a copy of the sweep file beside it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import yaml  # type: ignore[import-untyped]
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from r1.core.console import console, status_line
from r1.core.errors import UserError
from r1.core.files import open_lock, write_atomic
from r1.core.provenance import differences
from r1.core.runs import made_progress
from r1.core.secrets import REDACTED, redact, redact_values
from r1.core.storage import damaged, disk_fault, named, read_text, require_regular, storage_errors
from r1.core.yaml import UniqueKeyLoader
from r1.experiment.sweep.file import Sweep

SWEEP_COPY, DATABASE = "sweep.yaml", "study.db"
DATABASE_TIMEOUT_S = 60  # for another process that writes into the database
CHANGEABLE_KEYS = ("run_cap", "name", "description", "project", "entity")  # these may change when a sweep is resumed


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """A block that one process at a time may run; the others wait."""
    with open_lock(folder / ".lock", os.O_RDWR | os.O_CREAT) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def storage_url(folder: Path, option: str | None) -> str:
    """The storage as the user, Optuna and its dashboard name it.

    Args:
        option: the value of ``--storage``; None: the database in ``folder``.

    Raises:
        UserError: several workers on one machine cannot share such a storage.
    """
    if option is None:
        return f"sqlite:///{folder / DATABASE}"
    if not option.startswith("sqlite:///") and (not option.endswith(".log") or "://" in option):
        message, expected = "sweeps are stored in SQLite or in a journal", "sqlite:///FILE, or FILE.log (a journal)"
        raise UserError(message, key="--storage", value=option, expected=expected)
    return option


def open_study(sweep: Sweep, folder: Path, url: str) -> optuna.Study:
    """The study of a sweep; a new one is created with a copy of the sweep file.

    Raises:
        UserError: the folder holds another sweep, the file holds a secret, or nothing can be written.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    text = sweep.path.read_text(encoding="utf-8")
    _check_secrets(text)
    with storage_errors():
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(folder):  # of several workers that start together, one creates the study
            copy = folder / SWEEP_COPY
            for file in (copy, file_of(url)):
                require_regular(file)
            if copy.is_file():
                _check_study_exists(folder, url)
                if changes := _changes(copy, text):
                    _start_over(sweep, folder, url, changes)
            write_atomic(copy, text)
            with named(file_of(url)), errors_of_storage(file_of(url)):
                return _create_study(sweep, url)


def _create_study(sweep: Sweep, url: str) -> optuna.Study:
    return optuna.create_study(
        study_name=sweep.name,
        storage=_open_storage(url),
        direction=sweep.goal,
        sampler=optuna.samplers.RandomSampler(),  # not used: study.py chooses the points
        load_if_exists=True,
    )


@contextmanager
def errors_of_storage(file: Path) -> Iterator[None]:
    """Read a storage: SQLAlchemy and Optuna raise many kinds of errors for a file that is damaged.

    Raises:
        UserError: names the file.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if disk_fault(error):
            raise
        raise damaged(file, f"{type(error).__name__}: {error}".partition("\n")[0]) from None


def file_of(url: str) -> Path:
    """The file of a storage."""
    return Path(url.removeprefix("sqlite:///"))


def _open_storage(url: str) -> BaseStorage:
    if url.endswith(".log"):
        return JournalStorage(JournalFileBackend(url))
    return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": DATABASE_TIMEOUT_S}})


def _check_secrets(text: str) -> None:
    content = yaml.load(text, Loader=UniqueKeyLoader)
    if redact(content) != content or redact_values(text) != text:
        secrets = [key for key, _, redacted in differences(content, redact(content)) if REDACTED in str(redacted)]
        message = "a sweep file must not hold a secret: it is copied and sent"
        hint = "name an environment variable instead (teacher.api_key_env), and export it"
        raise UserError(message, key=secrets[0] if secrets else "FILE", value=REDACTED, hint=hint)


def _changes(copy: Path, text: str) -> list[str]:
    """The differences that make the file of a sweep another one than its copy."""
    try:
        contents = [yaml.load(source, Loader=UniqueKeyLoader) for source in (text, read_text(copy))]
    except (yaml.YAMLError, ValueError):
        raise damaged(copy, "it is not YAML") from None
    if not isinstance(contents[1], dict):
        raise damaged(copy, "it is not a mapping")
    now, then = ({key: value for key, value in content.items() if key not in CHANGEABLE_KEYS} for content in contents)
    return [f"{key}: {before} -> {after}" for key, before, after in differences(then, now)]


def _start_over(sweep: Sweep, folder: Path, url: str, changes: list[str]) -> None:
    """Delete the study of a sweep whose file was corrected after all points had failed before their first step.

    Raises:
        UserError: it would lose something.
    """
    with named(file_of(url)), errors_of_storage(file_of(url)):
        have_failed = all(trial.state is TrialState.FAIL for trial in _create_study(sweep, url).trials)
        if have_failed and not any(map(made_progress, folder.glob("runs/*"))):
            optuna.delete_study(study_name=sweep.name, storage=_open_storage(url))
            console.print(status_line(f"no point of {folder} has made a step, so the corrected file starts anew"))
            return
    message = f"the sweep `{sweep.name}` was started with a different file; only the same file resumes it"
    hint = f"--name OTHER for a new sweep; the original file is {folder / SWEEP_COPY}"
    raise UserError(message, key=str(sweep.path), value="; ".join(changes), hint=hint)


def _check_study_exists(folder: Path, url: str) -> None:
    """A folder with records needs its study: a new one would run all points again."""
    file = file_of(url)
    if not file.is_file() and any(folder.glob("runs/*")):
        message, hint = "there is no study for this sweep's records", "the --storage of the first command"
        raise UserError(message, key="--storage", value=str(file), hint=hint)
