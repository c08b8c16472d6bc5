"""Verifiers that count the answers which are wrong for another reason than a comparison."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from typing import ClassVar

from r1.data.base import Verifier


class CountingVerifier(Verifier):
    """A verifier whose ``reasons``, such as ``timeouts``, are logged as ``val/scorer/<reason>``."""

    reasons: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()  # asynchronous rollouts are scored in another thread

    def count(self, outcomes: Iterable[object]) -> None:
        """Count those outcomes that are one of ``reasons``."""
        with self._lock:
            self._counts.update(str(outcome) for outcome in outcomes if outcome in self.reasons)

    def pop_error_counts(self) -> dict[str, int]:
        with self._lock:
            return {reason: self._counts.pop(reason, 0) for reason in self.reasons}
