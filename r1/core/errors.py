"""Errors that a user can cause: message, key, value, expected, hint; and the exit codes."""

from __future__ import annotations

import difflib
import os
import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from r1.core.secret_rules import is_secret_name
from r1.core.secrets import REDACTED, redact

CONFIG, DATA, MODEL, REWARD, HALTED, STORAGE, LOCKED = 2, 3, 4, 5, 6, 74, 75  # exit codes
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # a run that receives one saves a checkpoint and exits
SWEEPS = ("WANDB_SWEEP_ID", "R1_SWEEP")  # environment variables that a sweep sets for its runs
MAX_CHARS = 400  # per line of a message, so that an error fits on one screen
MAX_ERRORS = 4  # printed at once
NO_KEY = "no key at all"
MAYBE_SECRET = re.compile(r"key(?!\w*_env)|token(?!iz)|secret|passw|auth|cred", re.IGNORECASE)
ALIASES = {  # other frameworks' names of r1's keys
    "num_generations": "group_size",
    "beta": "kl_coef",
    "learning_rate": "lr",
    "max_new_tokens": "max_completion_length",
    "max_tokens": "max_completion_length",
    "batch_size": "examples_per_step",
    "num_steps": "max_steps",
    "gradient_clip_val": "max_grad_norm",
    "epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "num_train_epochs": "max_epochs",
    "total_epochs": "max_epochs",
    "max_train_steps": "max_steps",
    "per_device_train_batch_size": "micro_batch_size",
    "kl_loss_coef": "kl_coef",
    "optim": "optimizer",
    "algorithm": "stage",
}


class UserError(Exception):
    """An error that the user caused and can correct; printed on one screen, without a traceback.

    Args:
        message: one sentence about the fault.
        key: the config key (``stage.group_size``) or ``file:line``. A component, which can be mounted at any key,
            raises a relative one: ``.buffer`` for its parameter ``buffer``, an empty one for the component itself.
        value: the invalid value, redacted if the key or the value looks like a secret. None prints no value; pass
            ``as_yaml_null(value)`` where the invalid value may be None.
        expected: the accepted values, as text or as a list of names.
        hint: a suggestion.
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
        """This error with its relative key (``.buffer``) made absolute; ``key`` is where the component is mounted."""
        if self.key.startswith(".") or not self.key:
            self.key = f"{key}{self.key}"
        return self

    def __str__(self) -> str:
        value = "" if self.value is None else format_value(self.value, self.key)
        lines = [("key", self.key), ("value", value), ("expected", self.expected), ("hint", self.hint)]
        return "\n".join([one_line(self.message), *(f"  {name:8} {one_line(text)}" for name, text in lines if text)])


@contextmanager
def errors_mounted_at(key: str) -> Iterator[None]:
    """Make the relative keys of errors absolute that the component at ``key`` raises inside the block."""
    try:
        yield
    except UserError as error:
        error.mounted_at(key)
        raise


class UserErrors(UserError):
    """Several errors, printed below each other; the first gives the exit code."""

    def __init__(self, errors: Sequence[UserError]) -> None:
        self.errors = errors
        super().__init__(errors[0].message, key=errors[0].key, value=errors[0].value, code=errors[0].code)

    def __str__(self) -> str:
        texts = [str(error) for error in self.errors[:MAX_ERRORS]]
        rest = len(self.errors) - len(texts)
        return "\n\n".join(texts + ([f"and {rest} more"] if rest else []))


class Interrupted(Exception):
    """A signal has stopped the run, which has saved its last finished step.

    Attributes:
        number: of the signal.
        folder: the record that ``resume=auto`` continues; None: the run had none yet.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.folder: str | None = None

    @property
    def code(self) -> int:
        """128 + signal, as in a shell; 0 in a sweep, which would count a run that it stops early as failed."""
        return 0 if any(map(os.environ.get, SWEEPS)) else 128 + self.number


class TrainingHalted(UserError):
    """A guard has stopped the run because training has diverged."""

    def __init__(self, message: str, value: float) -> None:
        hint = "the record's best/ holds the best model so far; a lower stage.lr is the usual remedy"
        super().__init__(f"the run was stopped: {message}", value=value, hint=hint, code=HALTED)


class RankFailed(UserError):
    """A rank of a run on several devices has failed, which stops all ranks.

    Args:
        message: the rank's error, or the observation of another process.
        rank: None: all ranks have the same error.
        code: the run's exit code.
        host: hostname of the rank's machine.
        rest: ``key``, ``value``, ``expected`` and ``hint`` of UserError.
    """

    def __init__(self, message: str, rank: int | None, code: int, host: str = "", **rest: Any) -> None:
        self.fields = {"message": message, "rank": rank, "code": code, "host": host, **rest}
        prefix = "" if rank is None else f"rank {rank}{f' on {host}' if host else ''}: "
        super().__init__(f"{prefix}{message}", code=code, **rest)

    @classmethod
    def of(cls, error: BaseException, rank: int | None, host: str) -> RankFailed:
        """Convert an error of this rank; redacted, because it goes through the rendezvous store."""
        if not isinstance(error, UserError):
            return cls(one_line(f"{type(error).__name__}: {error}"), rank, 1, host)
        rest = {"key": error.key, "value": redact(error.value), "expected": error.expected, "hint": error.hint}
        return cls(error.message, rank, error.code, host, **rest)


class YamlNull:
    """Prints as ``null``: an invalid value that is None, where a plain None means that there is no value."""

    def __repr__(self) -> str:
        return "null"


def as_yaml_null(value: object) -> object:
    """``value``, or a printable null for None."""
    return YamlNull() if value is None else value


def format_value(value: object, key: str = "") -> str:
    """A value as YAML writes it, with secrets redacted."""
    if is_secret_name(key) or (isinstance(value, str) and MAYBE_SECRET.search(key.rpartition(".")[2])):
        return REDACTED
    text = repr(redact(value[: 8 * MAX_CHARS] if isinstance(value, str) else value))
    return {"True": "true", "False": "false"}.get(text, one_line(text, MAX_CHARS // 2))


def one_line(text: str, max_chars: int = MAX_CHARS) -> str:
    """Make untrusted text safe to print: one line of printable characters, at most ``max_chars``, without secrets."""
    words = redact(text[: 8 * max_chars]).split()
    words = words[:-1] if len(text) > 8 * max_chars and len(words) > 1 else words  # it may be half a secret
    line = "".join(c if c.isprintable() else " " for c in " ".join(words))
    return line if len(line) <= max_chars else f"{line[: max_chars - 4]} ..."


def suggest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """``did you mean `x`?`` for the closest of ``names``, or an empty string; ``prefix`` is put before it."""
    by_lower = {candidate.lower(): candidate for candidate in names}
    word = ALIASES.get(name, name).lower()
    matches = [word] if word in by_lower else difflib.get_close_matches(word, by_lower, n=1, cutoff=0.6)
    matches = matches or [candidate for candidate in by_lower if word and candidate.startswith(word)]
    return f"did you mean `{prefix}{by_lower[matches[0]]}`?" if matches else ""


def suggest_moved_key(key: str, config: object) -> str:
    """``did you mean `stage.lr`?`` for ``lr`` or ``trainer.lr``: a key of that name in another part of the config."""
    last = key.rpartition(".")[2]
    name = ALIASES.get(last, last)
    matches = [other for other in _dotted_keys(config) if other.rpartition(".")[2] == name and other != key]
    group = key.partition(".")[0]  # first those of the same part, then the least nested
    matches.sort(key=lambda other: (other.partition(".")[0] != group, other.count(".")))
    return f"did you mean `{matches[0]}`?" if matches else ""


def suggest_alias(key: str, config: object) -> str:
    """``did you mean `trainer.max_epochs`?`` for ``stage.num_train_epochs``, another framework's name; else empty."""
    return suggest_moved_key(key, config) if key.rpartition(".")[2] in ALIASES else ""


def _dotted_keys(node: object, prefix: str = "") -> list[str]:
    """All keys of nested dicts, those of the outer dict first."""
    if not isinstance(node, dict):
        return []
    keys = [f"{prefix}{name}" for name in node]
    return keys + [key for name, child in node.items() for key in _dotted_keys(child, f"{prefix}{name}.")]
