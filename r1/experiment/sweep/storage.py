"""Where a sweep's study is kept: SQLite or Optuna's journal, beside a copy of the file that it came from."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import yaml  # type: ignore[import-untyped]
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from r1.core.errors import STORAGE, UserError
from r1.core.files import write_atomic
from r1.core.provenance import differences
from r1.core.secrets import REDACTED, redact, redact_values
from r1.experiment.sweep.file import Sweep

COPY, DATABASE = "sweep.yaml", "study.db"
WAIT_S = 60  # for another process that writes into the database
CHANGEABLE_KEYS = ("run_cap", "name", "description", "project", "entity")  # what may change between two commands


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Only one process at a time is in such a block: the others wait."""
    with (folder / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def url(folder: Path, given: str | None) -> str:
    """The storage as the user, Optuna and its dashboard name it.

    Raises:
        UserError: it is none that several workers on one machine can share.
    """
    if given is None:
        return f"sqlite:///{folder / DATABASE}"
    if not given.startswith("sqlite:///") and (not given.endswith(".log") or "://" in given):
        expected = "sqlite:///FILE, or FILE.log (a journal)"
        raise UserError("sweeps are kept in SQLite or in a journal", key="--storage", value=given, expected=expected)
    return given


def begin(sweep: Sweep, folder: Path, place: str) -> optuna.Study:
    """The study of a sweep; made if need be, with a copy of its file.

    Raises:
        UserError: the folder holds another sweep, the file holds a secret, or nothing can be written.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    text = sweep.path.read_text(encoding="utf-8")
    _check_secrets(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(folder):
            copy = folder / COPY
            if copy.is_file():
                _check_same(sweep, copy, text)
                _check_there(folder, place)
            write_atomic(copy, text)
            return optuna.create_study(
                study_name=sweep.name,
                storage=_open(place),
                direction=sweep.goal,
                sampler=optuna.samplers.RandomSampler(),  # never asked: study.py chooses the points
                load_if_exists=True,
            )
    except OSError as error:
        message = f"the sweep's folder cannot be written: {error.strerror}"
        raise UserError(message, key="--name", value=str(folder), code=STORAGE) from None


def _open(place: str) -> BaseStorage:
    if place.endswith(".log"):
        return JournalStorage(JournalFileBackend(place))
    return RDBStorage(place, engine_kwargs={"connect_args": {"timeout": WAIT_S}})


def _check_secrets(text: str) -> None:
    held = yaml.safe_load(text)
    if redact(held) != held or redact_values(text) != text:
        changed = [key for key, _, hidden in differences(held, redact(held)) if REDACTED in str(hidden)]
        hint = "name an environment variable instead (teacher.api_key_env), and export it"
        where = changed[0] if changed else "FILE"
        raise UserError("a sweep file must hold no secret: it is copied and sent", key=where, value=REDACTED, hint=hint)


def _check_same(sweep: Sweep, copy: Path, text: str) -> None:
    now, then = (_identity_keys(yaml.safe_load(held)) for held in (text, copy.read_text(encoding="utf-8")))
    if changed := [f"{key}: {before} -> {after}" for key, before, after in differences(then, now)]:
        message = f"the sweep `{sweep.name}` was begun with another file, and can only go on as it was"
        hint = f"--name OTHER for a new sweep; the file as it was is {copy}"
        raise UserError(message, key=str(sweep.path), value="; ".join(changed), hint=hint)


def _identity_keys(held: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in held.items() if key not in CHANGEABLE_KEYS}


def _check_there(folder: Path, place: str) -> None:
    """The study that went with the records must not be lost out of sight."""
    file = Path(place.removeprefix("sqlite:///"))
    if not file.is_file() and any(folder.glob("runs/*")):
        hint = "--storage as it was given at first"
        raise UserError("this sweep's study is not there", key="--storage", value=str(file), hint=hint)
