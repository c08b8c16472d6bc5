"""The interface of the logger options.

A new option is two files: ``r1/logger/<name>.py`` with a subclass of ``RunLogger``, and ``conf/logger/<name>.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch.loggers import Logger

from r1.core.errors import Interrupted
from r1.core.runs import read_metrics


class RunLogger(Logger):
    """A Lightning logger of one run.

    The constructor's positional parameters are ``folder`` (the run's record) and ``config`` (resolved, without
    secrets). Its keyword-only parameters are the keys of the option's YAML file.

    Attributes:
        extra: the package that the option needs, which is also the name of its pip extra; None: no further package.
    """

    extra: ClassVar[str | None] = None

    def close(self, exit_code: int, error: BaseException | None) -> None:
        """End whatever the logger holds open. Called once, before ``finalize``; ``error`` is None after a success."""


def recorded_metrics(folder: Path) -> list[tuple[dict[str, Any], int]]:
    """(metrics, step) of the rows that a resumed run's record has already; none of a new run's."""
    rows = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").is_file() else []
    return [(row, row.pop("step")) for row in rows]


@contextmanager
def closing(logger: Logger) -> Iterator[None]:
    """Close ``logger`` at the end of the block, with the exit code and the error of the run."""
    exit_code, error = 0, None
    try:
        yield
    except BaseException as caught:
        exit_code, error = caught.code if isinstance(caught, Interrupted) else 1, caught
        raise
    finally:
        if isinstance(logger, RunLogger):  # not a Lightning logger from a user's extension
            logger.close(exit_code, error)
        logger.finalize("failed" if exit_code else "success")
