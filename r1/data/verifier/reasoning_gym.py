"""The scores of the package reasoning-gym for answers to its own tasks (data=reasoning_gym).

The package runs in processes that are killed at a time limit (reasoning_gym_worker.py). No answer is run as code.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar

from annotated_types import Gt

from r1.core.errors import REWARD, UserError
from r1.core.worker_pool import WorkerDied, WorkerPool
from r1.data.base import Row
from r1.data.verifier import reasoning_gym_worker
from r1.data.verifier.counting import CountingVerifier

NUM_WORKERS = min(4, os.cpu_count() or 1)
RIGHT = 1 - 1e-9  # some scores are computed from a distance


class ReasoningGym(CountingVerifier):
    """The task's own score, from 0 to 1, which may give partial credit; an answer with 1 is right.

    Args:
        seconds: time limit for one answer, whose process is ended then.
    """

    reasons: ClassVar[tuple[str, ...]] = ("timeouts", "died")

    def __init__(self, *, seconds: Annotated[float, Gt(0)]) -> None:
        super().__init__()
        self.seconds = seconds

    def check(self) -> None:
        require_package()

    def __call__(self, answer: str, row: Row) -> bool:
        return self.verify_batch([answer], [row])[0]

    def verify_batch(self, answers: Sequence[str], rows: Sequence[Row]) -> list[bool]:
        return [score >= RIGHT for score in self.score_batch(answers, rows)]

    def score_batch(self, answers: Sequence[str], rows: Sequence[Row]) -> list[float]:
        with ThreadPoolExecutor(NUM_WORKERS) as threads:
            return list(threads.map(self._score, answers, rows))

    def _score(self, answer: str, row: Row) -> float:
        if not isinstance(problem := row.get("problem"), dict):
            return 0.0
        try:
            return float(POOL.run(problem | {"answer": answer}, self.seconds))
        except (TimeoutError, WorkerDied) as error:
            self.count(["timeouts" if isinstance(error, TimeoutError) else "died"])
            return 0.0

    def same(self, answers: Sequence[str], others: Sequence[str], rows: Sequence[Row]) -> list[bool]:
        """Two answers are one vote if their text is the same: a score compares with the problem, not with an answer."""
        return [answer.strip() == other.strip() for answer, other in zip(answers, others, strict=True)]

    def reads(self, rows: Sequence[Row]) -> list[bool]:
        return [isinstance(row.get("problem"), dict) for row in rows]


def require_package() -> None:
    """Raises: UserError: reasoning-gym is not installed."""
    if find_spec("reasoning_gym") is None:
        message = "these tasks come from the package reasoning-gym, which is not installed"
        raise UserError(message, hint="pip install -e '.[reasoning-gym]'", code=REWARD)


def query(job: dict[str, Any], seconds: float) -> Any:
    """What the package replies.

    Raises:
        UserError: it is not installed.
        TimeoutError, WorkerDied: there is no reply.
    """
    require_package()
    return POOL.run(job, seconds)


POOL = WorkerPool(NUM_WORKERS, reasoning_gym_worker.__file__, name="reasoning-gym", code=REWARD)
"""The processes that all verifiers of this process share."""
