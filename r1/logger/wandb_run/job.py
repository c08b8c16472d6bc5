"""The messages between a run and its W&B worker process.

The worker reads two lines of JSON on stdin: a ``WandbJob``, and at the end of the run a ``RunEnd``. It writes lines of
text to stdout, each behind one of the prefixes below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

INFO, WARNING, ERROR = "info:", "warning:", "error:"


@dataclass(frozen=True)
class WandbJob:
    """The settings of one W&B run.

    Attributes:
        folder: the record.
        config: dotted leaves, without secrets.
        run_id: None: the id in the record, or a new one.
        start_timeout: seconds that W&B may take to answer at the start.
        finish_timeout: seconds that W&B may take to receive the rest at the end.
        log_model: upload the model as an artifact.
        previous_error: why the worker process before this one failed; empty: this is the first one.
    """

    folder: str
    config: dict[str, Any]
    project: str
    entity: str | None
    group: str | None
    name: str | None
    tags: list[str]
    mode: str
    log_model: bool
    run_id: str | None
    start_timeout: float
    finish_timeout: float
    previous_error: str = ""


@dataclass(frozen=True)
class RunEnd:
    """How the run ended; ``error`` is one line, None after a success."""

    exit_code: int
    error: str | None


KILLED = RunEnd(1, "the run was killed")  # stdin ended without a RunEnd
