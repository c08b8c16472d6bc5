"""What the end of a run means for its logger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.loggers import Logger

from r1.core.errors import Interrupted


class Closable(Logger):
    """A logger that holds a run of its own open, which must end as r1's does."""

    def close(self, exit_code: int, error: BaseException | None) -> None:
        raise NotImplementedError


@contextmanager
def closing(logger: Logger) -> Iterator[None]:
    """Close the logger at the end of the block and let it know how the run ended."""
    exit_code, error = 0, None
    try:
        yield
    except BaseException as caught:
        exit_code, error = caught.code if isinstance(caught, Interrupted) else 1, caught
        raise
    finally:
        if isinstance(logger, Closable):
            logger.close(exit_code, error)
        logger.finalize("failed" if exit_code else "success")
