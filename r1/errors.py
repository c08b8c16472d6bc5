"""The one way r1 tells a user that something is wrong: what, where, what was given, what is allowed, what to do."""

from __future__ import annotations

import difflib
import os
import signal
from collections.abc import Iterable

CONFIG, DATA, MODEL, REWARD, STORAGE, LOCKED = 2, 3, 4, 5, 74, 75  # exit codes


class UserError(Exception):
    """An error the user caused and can mend; printed on one screen without a traceback.

    Args:
        what: what is wrong, one sentence.
        where: the config key (``stage.group_size``) or ``file:line``.
        given: the offending value, shown with ``repr``.
        allowed: what would have been accepted, in words or as a list of names.
        do: the next thing to try.
        code: the exit code, one of the constants above.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        given: object = None,
        allowed: str | Iterable[str] = "",
        do: str = "",
        code: int = CONFIG,
    ) -> None:
        self.what, self.where, self.given, self.do, self.code = what, where, given, do, code
        self.allowed = allowed if isinstance(allowed, str) else ", ".join(allowed)
        super().__init__(str(self))

    def __str__(self) -> str:
        given = "" if self.given is None else repr(self.given)
        lines = [("where", self.where), ("given", given), ("allowed", self.allowed), ("do", self.do)]
        return "\n".join([self.what, *(f"  {name:8} {text}" for name, text in lines if text)])


class Interrupted(Exception):
    """The run was asked to stop by a signal, and did so after finishing and saving its step."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def code(self) -> int:
        """128 + signal, as a shell reports it; 0 where a sweep agent asked, which would take it for a failure."""
        return 0 if os.environ.get("WANDB_SWEEP_ID") else 128 + self.number


def nearest(name: str, names: Iterable[str]) -> str:
    """``did you mean `x`?`` for the closest of ``names``, or an empty string."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else ""
