"""Named reward terms, the arguments and the results of their functions, and their weighted sum."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from numbers import Complex, Real
from typing import Any, Protocol, runtime_checkable

from r1.core.errors import REWARD, Interrupted, UserError, errors_mounted_at
from r1.data.base import Row, Verifier
from r1.data.columns import RESERVED
from r1.reward.initial_policy import InitialPolicy
from r1.rollout.base import no_op


class RewardFunction(Protocol):
    """TRL's reward function, ``f(prompts, completions, **columns)``: B numbers; None where it does not apply.

    Every argument is passed by its name, and only if the function has a parameter for it: ``prompts`` and
    ``completions`` (B texts each), each dataset column (B values), and the runtime objects ``columns.RUNTIME_ARGS``.
    A user's function may also return a tuple or an array of length B, of anything that ``float`` takes except text.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> list[float | None]: ...


@runtime_checkable
class CountsErrors(Protocol):
    """A reward function that counts the completions that it could not score."""

    def pop_error_counts(self) -> dict[str, int]:
        """Reason -> number of completions since the last call."""


@dataclass(frozen=True)
class Term:
    """One part of the reward. With a null weight it is only reported; a negative weight turns it into a penalty."""

    name: str
    function: RewardFunction
    weight: float | None

    def __post_init__(self) -> None:
        if self.weight is not None and not math.isfinite(self.weight):
            raise UserError("a weight must be finite", key=".weight", value=self.weight, expected="a number, or null")

    def score(self, batch: dict[str, list[Any]], constants: dict[str, Any]) -> list[float]:
        """Values of B completions: NaN where the row leaves this term out, or where its value is None.

        Args:
            batch: name -> B values: prompts, completions, rows and the other per-completion arguments.
            constants: name -> an argument that is the same for the whole batch.

        Raises:
            UserError: the function lacks a column, raises, or does not return B numbers or Nones.
        """
        indices = [b for b, row in enumerate(batch["rows"]) if applies(self.name, row)]
        part = {name: [values[b] for b in indices] for name, values in batch.items()}
        scores = [math.nan] * len(batch["rows"])
        if indices or not scores:  # an empty batch is scored, too: that shows a function that cannot be called
            for b, value in zip(indices, self._call(part | columns(part["rows"]), constants), strict=True):
                scores[b] = value
        return scores

    def _call(self, batch: dict[str, list[Any]], constants: dict[str, Any]) -> list[float]:
        """Call the function on rows that it applies to, and check its result."""
        if not batch["rows"]:  # no rows have no columns
            batch = {name: list[Any]() for name in required_columns(self.function)} | batch
        if missing := required_columns(self.function) - batch.keys():
            message = f"needs a column that the rows lack: {', '.join(sorted(missing))}"
            raise self._error(message, expected=sorted(batch))
        try:
            values: Any = self.function(**_arguments(self.function, batch | constants))
        except (UserError, Interrupted):
            raise
        except Exception as error:  # a user's function may raise anything; the user must learn which one it was
            sample = self._failing_sample(batch, constants)
            raise self._error(f"raised {type(error).__name__}: {error} ({sample})") from error
        try:
            numbers = None if isinstance(values, str | bytes | Mapping | Set) else list(values)
        except TypeError:  # a single number, or an array without an axis
            numbers = None
        if numbers is None:
            raise self._error(f"returned {type(values).__name__}", expected="a list of numbers or None, or an array")
        if len(numbers) != len(batch["completions"]):
            raise self._error(f"returned {len(numbers)} values for {len(batch['completions'])} completions")
        return [self._to_float(b, value) for b, value in enumerate(numbers)]

    def _failing_sample(self, batch: dict[str, list[Any]], constants: dict[str, Any]) -> str:
        """Which sample makes the function raise, found by calling it with one sample at a time."""
        for b in range(len(batch["completions"])):
            sample = {name: values[b : b + 1] for name, values in batch.items()}
            try:
                self.function(**_arguments(self.function, sample | constants))
            except Exception:  # the error itself is already known
                return f"sample {b}"
        return "only on the whole batch"

    def _to_float(self, b: int, value: Any) -> float:
        if value is None:
            return math.nan
        try:
            is_other = isinstance(value, str | bytes) or (isinstance(value, Complex) and not isinstance(value, Real))
            number = None if is_other else float(value)  # numpy's complex numbers would lose a part
        except (TypeError, ValueError, OverflowError, RuntimeError):  # torch raises RuntimeError for several numbers
            number = None
        if number is None:
            message = f"returned {type(value).__name__} for sample {b}"
            raise self._error(message, expected="a number or None", value=value)
        if math.isinf(number):
            raise self._error(f"returned {number} for sample {b}", expected="a finite number or None")
        return number

    def _error(self, message: str, expected: str | list[str] = "", value: object = None) -> UserError:
        inner, _ = _unwrap_partial(self.function)
        source = f"{getattr(inner, '__module__', '')}.{getattr(inner, '__qualname__', type(inner).__name__)}"
        message = f"reward term `{self.name}` ({source}) {message}"
        return UserError(message, value=value, expected=expected, code=REWARD)


@dataclass(frozen=True)
class Scores:
    """Rewards of B completions.

    Attributes:
        terms: term name -> B raw values, before their weight; NaN where the term does not apply or gave None.
        weights: term name -> its weight; None where the term is only reported.
        total: B weighted sums over the weighted terms that gave a value; NaN where none did.
    """

    terms: dict[str, list[float]]
    weights: dict[str, float | None]
    total: list[float]

    def part(self, indices: Sequence[int]) -> Scores:
        """The scores of these completions alone."""
        terms = {name: [values[b] for b in indices] for name, values in self.terms.items()}
        return Scores(terms, self.weights, [self.total[b] for b in indices])


class Rewards:
    """The reward of a run: ``terms`` by name. ``key`` is the config key that they are mounted at."""

    def __init__(self, terms: dict[str, Term], key: str = "reward.terms") -> None:
        self.terms, self.key = terms, key

    def score(
        self,
        prompts: list[str],
        completions: list[str],
        rows: list[Row],
        verifier: Verifier,
        completion_ids: list[list[int]],
        max_completion_length: int,
        truncated: list[bool] | None = None,
        frozen_policy: InitialPolicy | None = None,
        check_for_stop: Callable[[], None] = no_op,
    ) -> Scores:
        """Score B completions; every list has one entry per completion. A row's ``terms`` name those that apply to it.

        Args:
            truncated: which completions were cut off at the length limit, where that is known.
            frozen_policy: the initial policy, for the terms that sample from it.
            check_for_stop: called while a term waits; raises if the run is to stop.

        Raises:
            UserError: a term lacks a column, raises, or does not return B numbers or Nones.
        """
        batch: dict[str, list[Any]] = {
            "prompts": prompts,
            "completions": completions,
            "completion_ids": completion_ids,
            "rows": rows,
        }
        if truncated is not None:
            batch["truncated"] = truncated
        if len({len(values) for values in batch.values()}) != 1:
            raise ValueError(f"lists of different length: { {name: len(v) for name, v in batch.items()} }")
        constants: dict[str, Any] = {
            "verifier": verifier,
            "max_completion_length": max_completion_length,
            "check_for_stop": check_for_stop,
        }
        constants |= {"frozen_policy": frozen_policy} if frozen_policy else {}
        raw: dict[str, list[float]] = {}
        for name, term in self.terms.items():
            with errors_mounted_at(f"{self.key}.{name}"):
                raw[name] = term.score(batch, constants)
        weights = {name: term.weight for name, term in self.terms.items()}
        return Scores(raw, weights, [weighted_sum(raw, weights, b) for b in range(len(completions))])

    def any_term_needs(self, argument: str) -> bool:
        """Whether a term takes this runtime object."""
        return any(takes(term.function, argument) for term in self.terms.values())

    def pop_error_counts(self) -> dict[str, int]:
        """Completions that the terms could not score since the last call, as metrics: ``scorer/judge_errors``."""
        counts: dict[str, int] = {}
        for name, term in self.terms.items():
            if isinstance(term.function, CountsErrors):
                errors = term.function.pop_error_counts()
                counts |= {f"scorer/{name}_{reason}": count for reason, count in errors.items()}
        return counts


def applies(term: str, row: Row) -> bool:
    """Whether a reward term applies to this row: all do where the row does not name any."""
    return row.get("terms") is None or term in row["terms"]


def weighted_sum(raw: dict[str, list[float]], weights: dict[str, float | None], b: int) -> float:
    weighted = [(weight, raw[name][b]) for name, weight in weights.items() if weight is not None]
    parts = [weight * value for weight, value in weighted if not math.isnan(value)]
    return math.fsum(parts) if parts else math.nan


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    """Every key that all rows have, as a list over the rows."""
    names = [name for name in rows[0] if all(name in row for row in rows)] if rows else []
    return {name: [row[name] for row in rows] for name in names}


def required_columns(function: RewardFunction) -> set[str]:
    """The dataset columns that ``function`` cannot be called without: positional parameters with no default."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = {p.name for p in _parameters(function).values() if p.kind in positional and p.default is p.empty}
    return names - {*RESERVED, *_unwrap_partial(function)[1]}


def takes(function: RewardFunction, argument: str) -> bool:
    """Whether ``function`` takes this runtime object by name."""
    return argument in _parameters(function)


def _arguments(function: RewardFunction, available: dict[str, Any]) -> dict[str, Any]:
    """The arguments among ``available`` that ``function`` takes; a knob is not replaced by a column of its name."""
    parameters, (_, bound) = _parameters(function), _unwrap_partial(function)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {name: value for name, value in available.items() if name not in bound and (takes_all or name in parameters)}


def _parameters(function: RewardFunction) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(_unwrap_partial(function)[0]).parameters)


def _unwrap_partial(function: RewardFunction) -> tuple[RewardFunction, set[str]]:
    """The function inside a ``partial``, and the names of the knobs bound to it."""
    return (function.func, set(function.keywords)) if isinstance(function, partial) else (function, set())
