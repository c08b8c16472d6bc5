"""The one way r1 tells a user that something is wrong: what, where, what was given, what is allowed, what to do."""

from __future__ import annotations

import difflib
import os
import re
import signal
from collections.abc import Iterable, Sequence

from r1.secrets import HIDDEN, SECRET_KEY, redact

CONFIG, DATA, MODEL, REWARD, STORAGE, LOCKED = 2, 3, 4, 5, 74, 75  # exit codes
MAX_CHARS = 400  # of one line of a message: an error fits on one screen
MAX_ERRORS = 4  # shown at once
MAYBE_SECRET = re.compile(r"key|token(?!iz)|secret|passw|auth|cred", re.IGNORECASE)
NOTHING = object()  # ``given`` where there is no value to show; None is a value, null


class UserError(Exception):
    """An error the user caused and can mend; printed on one screen without a traceback.

    Args:
        what: what is wrong, one sentence.
        where: the config key (``stage.group_size``) or ``file:line``.
        given: the offending value; hidden if the key or the value looks like a secret.
        allowed: what would have been accepted, in words or as a list of names.
        do: the next thing to try.
        code: the exit code, one of the constants above.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        given: object = NOTHING,
        allowed: str | Iterable[str] = "",
        do: str = "",
        code: int = CONFIG,
    ) -> None:
        self.what, self.where, self.given, self.do, self.code = what, where, given, do, code
        self.allowed = allowed if isinstance(allowed, str) else ", ".join(allowed)
        super().__init__(str(self))

    def __str__(self) -> str:
        given = "" if self.given is NOTHING else shown(self.given, self.where)
        lines = [("where", self.where), ("given", given), ("allowed", self.allowed), ("do", self.do)]
        return "\n".join([one_line(self.what), *(f"  {name:8} {one_line(text)}" for name, text in lines if text)])


class UserErrors(UserError):
    """Several errors at once, printed below each other; the first decides the exit code."""

    def __init__(self, errors: Sequence[UserError]) -> None:
        self.errors = errors
        super().__init__(errors[0].what, where=errors[0].where, given=errors[0].given, code=errors[0].code)

    def __str__(self) -> str:
        texts = [str(error) for error in self.errors[:MAX_ERRORS]]
        rest = len(self.errors) - len(texts)
        return "\n\n".join(texts + ([f"and {rest} more"] if rest else []))


class Interrupted(Exception):
    """The run was asked to stop by a signal, and did so after finishing and saving its step."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def code(self) -> int:
        """128 + signal, as a shell reports it; 0 where a sweep agent asked, which would take it for a failure."""
        return 0 if os.environ.get("WANDB_SWEEP_ID") else 128 + self.number


def shown(value: object, where: str = "") -> str:
    """A value as it would be written in YAML, never a secret."""
    if SECRET_KEY.search(where) or (isinstance(value, str) and MAYBE_SECRET.search(where.rpartition(".")[2])):
        return HIDDEN
    text = repr(redact(value))
    return {"None": "null", "True": "true", "False": "false"}.get(text, text)


def one_line(text: str) -> str:
    """Printable, without secrets, on one line and not too long: what is shown may come from anywhere."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(redact(text).split()))
    return line if len(line) <= MAX_CHARS else f"{line[: MAX_CHARS - 4]} ..."


def nearest(name: str, names: Iterable[str]) -> str:
    """``did you mean `x`?`` for the closest of ``names``, or an empty string."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else ""
