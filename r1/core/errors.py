"""Errors that a user can cause: message, key, value, expected, hint; and the exit codes."""

from __future__ import annotations

import difflib
import os
import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from r1.core.secrets import REDACTED, SECRET_KEY, redact

CONFIG, DATA, MODEL, REWARD, HALTED, STORAGE, LOCKED = 2, 3, 4, 5, 6, 74, 75  # exit codes
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # ask a run to save and end
SWEEPS = ("WANDB_SWEEP_ID", "R1_SWEEP")  # in the environment of a run that a sweep has started
MAX_CHARS = 400  # of one line of a message: an error fits on one screen
MAX_ERRORS = 4  # shown at once
NO_KEY = "no key at all"
MAYBE_SECRET = re.compile(r"key(?!\w*_env)|token(?!iz)|secret|passw|auth|cred", re.IGNORECASE)
ALIASES = {  # other frameworks' words
    "num_generations": "group_size",
    "beta": "kl_coef",
    "learning_rate": "lr",
    "max_new_tokens": "max_completion_length",
    "max_tokens": "max_completion_length",
    "batch_size": "examples_per_step",
    "num_steps": "max_steps",
    "gradient_clip_val": "max_grad_norm",
}


class UserError(Exception):
    """An error that the user caused and can correct; printed on one screen, without a traceback.

    Args:
        message: what is wrong, one sentence.
        key: the config key (``stage.group_size``) or ``file:line``. A component does not know where it is mounted and
            raises a relative key: ``.buffer`` for its own key of that name, an empty one for itself.
        value: the value at fault, hidden if the key or the value looks like a secret; None: there is none to show
            (``as_yaml_null(value)`` for a value that may be None).
        expected: accepted values, in words or as a list of names.
        hint: the next thing to try.
        code: the exit code, one of the constants above.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str = "",
        value: object = None,
        expected: str | Iterable[str] = "",
        hint: str = "",
        code: int = CONFIG,
    ) -> None:
        self.message, self.key, self.value, self.hint, self.code = message, key, value, hint, code
        self.expected = expected if isinstance(expected, str) else ", ".join(expected)
        super().__init__(message)

    def mounted_at(self, key: str) -> Self:
        """The same error, its relative key (``.buffer``) completed by the key that the component is mounted at."""
        if self.key.startswith(".") or not self.key:
            self.key = f"{key}{self.key}"
        return self

    def __str__(self) -> str:
        value = "" if self.value is None else format_value(self.value, self.key)
        lines = [("key", self.key), ("value", value), ("expected", self.expected), ("hint", self.hint)]
        return "\n".join([one_line(self.message), *(f"  {name:8} {one_line(text)}" for name, text in lines if text)])


@contextmanager
def errors_mounted_at(key: str) -> Iterator[None]:
    """Complete the relative keys of errors that the component at ``key`` raises inside the block."""
    try:
        yield
    except UserError as error:
        error.mounted_at(key)
        raise


class UserErrors(UserError):
    """Several errors at once, printed below each other; the first decides the exit code."""

    def __init__(self, errors: Sequence[UserError]) -> None:
        self.errors = errors
        super().__init__(errors[0].message, key=errors[0].key, value=errors[0].value, code=errors[0].code)

    def __str__(self) -> str:
        texts = [str(error) for error in self.errors[:MAX_ERRORS]]
        rest = len(self.errors) - len(texts)
        return "\n\n".join(texts + ([f"and {rest} more"] if rest else []))


class Interrupted(Exception):
    """The run was asked to stop by a signal, and did so after finishing and saving its step.

    Attributes:
        folder: the record that it can go on in.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.folder: str | None = None

    @property
    def code(self) -> int:
        """128 + signal, as a shell reports it; 0 where a sweep asked: a run that it stops early has not failed."""
        return 0 if any(map(os.environ.get, SWEEPS)) else 128 + self.number


class TrainingHalted(UserError):
    """A guard stopped the run: to continue would have trained a model that nobody wants."""

    def __init__(self, message: str, value: float) -> None:
        hint = "the record's best/ holds the best model so far; a lower stage.lr is the usual remedy"
        super().__init__(f"the run was stopped: {message}", value=value, hint=hint, code=HALTED)


class RankFailed(UserError):
    """A process of a run on several devices has ended, and with it the run.

    Args:
        message: the rank's own error, or what another process observed.
        rank: None: all ranks, for the same reason.
        code: the run's exit code.
        host: the rank's machine.
        rest: as UserError's.
    """

    def __init__(self, message: str, rank: int | None, code: int, host: str = "", **rest: Any) -> None:
        self.fields = {"message": message, "rank": rank, "code": code, "host": host, **rest}
        prefix = "" if rank is None else f"rank {rank}{f' on {host}' if host else ''}: "
        super().__init__(f"{prefix}{message}", code=code, **rest)

    @classmethod
    def of(cls, error: BaseException, rank: int | None, host: str) -> RankFailed:
        """Another error, as that of this rank."""
        if not isinstance(error, UserError):
            return cls(one_line(f"{type(error).__name__}: {error}"), rank, 1, host)
        rest = {"key": error.key, "value": redact(error.value), "expected": error.expected, "hint": error.hint}
        return cls(error.message, rank, error.code, host, **rest)


class YamlNull:
    """The value None of a config, which YAML writes as null."""

    def __repr__(self) -> str:
        return "null"


def as_yaml_null(value: object) -> object:
    """``value`` as it can be shown, also where it is None."""
    return YamlNull() if value is None else value


def format_value(value: object, key: str = "") -> str:
    """A value as it would be written in YAML, never a secret."""
    if SECRET_KEY.search(key) or (isinstance(value, str) and MAYBE_SECRET.search(key.rpartition(".")[2])):
        return REDACTED
    text = repr(redact(value))
    return {"True": "true", "False": "false"}.get(text, one_line(text, MAX_CHARS // 2))


def one_line(text: str, max_chars: int = MAX_CHARS) -> str:
    """Printable, without secrets, on one line and not too long: what is shown may come from anywhere."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(redact(text).split()))
    return line if len(line) <= max_chars else f"{line[: max_chars - 4]} ..."


def suggest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """``did you mean `x`?`` for the closest of ``names``, or an empty string; ``prefix`` is put before it."""
    known = {known.lower(): known for known in names}
    word = ALIASES.get(name, name).lower()
    close = [word] if word in known else difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    close = close or [other for other in known if word and other.startswith(word)]
    return f"did you mean `{prefix}{known[close[0]]}`?" if close else ""


def suggest_moved_key(key: str, config: object) -> str:
    """``did you mean `stage.lr`?`` for ``lr`` or ``trainer.lr``: a key of that name in another part of the config."""
    last = key.rpartition(".")[2]
    found = [leaf for leaf in _dotted(config) if leaf.rpartition(".")[2] == ALIASES.get(last, last) and leaf != key]
    return f"did you mean `{found[0]}`?" if found else ""


def _dotted(node: object, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    own = [f"{prefix}{name}" for name in node]
    return own + [leaf for name, part in node.items() for leaf in _dotted(part, f"{prefix}{name}.")]
