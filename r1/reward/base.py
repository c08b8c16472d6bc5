"""Named reward terms, what each may see and may return, and their weighted sum."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

from r1.core.errors import DATA, REWARD, Interrupted, UserError
from r1.data.base import Row, Verifier
from r1.reward.initial_policy import InitialPolicy
from r1.rollout.base import no_op

Function = Callable[..., list[float | None]]
"""TRL's reward, ``f(prompts, completions, **columns)``: a number or None (does not apply) for each."""

INJECTED_ARGS = (
    "rows", "verifier", "completion_ids", "truncated", "max_completion_length", "frozen_policy", "poll"
)  # fmt: skip
RESERVED = ("prompts", "completions", *INJECTED_ARGS)


@dataclass(frozen=True)
class Term:
    """One part of the reward. With a null weight it is only reported; a negative one turns its sign.

    A function with ``pop_counts()`` counts what it could not score, by reason.
    """

    name: str
    function: Function
    weight: float | None

    def __post_init__(self) -> None:
        if self.weight is not None and not math.isfinite(self.weight):
            raise UserError("a weight must be finite", key=".weight", value=self.weight, expected="a number, or null")


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

    def part(self, rows: Sequence[int]) -> Scores:
        """The scores of these completions alone."""
        terms = {name: [values[b] for b in rows] for name, values in self.terms.items()}
        return Scores(terms, self.weights, [self.total[b] for b in rows])


class Rewards:
    """The reward of a run: ``terms`` by name. ``where`` is the config key that holds them, for messages."""

    def __init__(self, terms: dict[str, Term], where: str = "reward.terms") -> None:
        self.terms, self.where = terms, where

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
        poll: Callable[[], None] = no_op,
    ) -> Scores:
        """Score B completions; every list has one entry per completion. A row's ``terms`` say which of them apply.

        Args:
            truncated: which completions were cut off, where that is known.
            frozen_policy: the policy as the run found it, for the terms that ask for it.
            poll: called while a term waits; raises if the run is asked to stop.

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
            "poll": poll,
        }
        constants |= {"frozen_policy": frozen_policy} if frozen_policy else {}
        raw = {
            name: _score_term(name, f"{self.where}.{name}", term.function, batch, constants)
            for name, term in self.terms.items()
        }
        weights = {name: term.weight for name, term in self.terms.items()}
        return Scores(raw, weights, [_total(raw, weights, b) for b in range(len(completions))])

    def any_term_needs(self, extra: str) -> bool:
        """Whether a term takes this runtime object."""
        return any(extra in inspect.signature(_unwrapped(t.function)[0]).parameters for t in self.terms.values())

    def pop_counts(self) -> dict[str, int]:
        """What the terms could not score since the last call, as metrics: ``scorer/judge_errors``."""
        counts: dict[str, int] = {}
        for name, term in self.terms.items():
            found: dict[str, int] = getattr(term.function, "pop_counts", dict)()
            counts |= {f"scorer/{name}_{reason}": count for reason, count in found.items()}
        return counts


def applies(term: str, row: Row) -> bool:
    """Whether a reward term applies to this row: all do where it does not say which."""
    return row.get("terms") is None or term in row["terms"]


def _score_term(
    name: str, where: str, function: Function, batch: dict[str, list[Any]], constants: dict[str, Any]
) -> list[float]:
    """One term's values on the rows that it applies to, NaN on the others."""
    mine = [b for b, row in enumerate(batch["rows"]) if applies(name, row)]
    part = {key: [values[b] for b in mine] for key, values in batch.items()}
    values = [math.nan] * len(batch["rows"])
    if mine or not values:
        found = _values(where, function, part | columns(part["rows"]), constants)
        for b, value in zip(mine, found, strict=True):
            values[b] = value
    return values


def _total(raw: dict[str, list[float]], weights: dict[str, float | None], b: int) -> float:
    weighted = [(weight, raw[name][b]) for name, weight in weights.items() if weight is not None]
    parts = [weight * value for weight, value in weighted if not math.isnan(value)]
    return math.fsum(parts) if parts else math.nan


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    """Every key that all rows have, as a list over the rows.

    Raises:
        UserError: a column has the name of something that every term is given anyway.
    """
    names = [name for name in rows[0] if all(name in row for row in rows)] if rows else []
    if taken := [name for name in names if name in RESERVED]:
        raise UserError("this column name is reserved", key="data", value=taken, hint="rename the column", code=DATA)
    return {name: [row[name] for row in rows] for name in names}


def required_columns(function: Function, knobs: Iterable[str]) -> set[str]:
    """The dataset columns that ``function`` cannot be called without: positional parameters with no default.

    Args:
        knobs: parameters that the config sets, besides those already bound by a ``partial``.
    """
    inner, bound = _unwrapped(function)
    given = {*RESERVED, *knobs, *bound}
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(inner).parameters.values()
    return {p.name for p in parameters if p.kind in positional and p.default is p.empty} - given


def _unwrapped(function: Function) -> tuple[Function, set[str]]:
    """The function inside a ``partial``, and the names of the knobs bound to it."""
    return (function.func, set(function.keywords)) if isinstance(function, partial) else (function, set())


def _values(where: str, function: Function, batch: dict[str, list[Any]], constants: dict[str, Any]) -> list[float]:
    """Call the term at the config key ``where`` on a batch; its B values, NaN for None."""
    if missing := required_columns(function, ()) - batch.keys():
        raise _term_error(
            where, function, f"needs a column that the rows lack: {', '.join(sorted(missing))}", sorted(batch)
        )
    try:
        values = function(**_arguments(function, batch | constants))
    except UserError as error:
        raise error.mounted_at(where) from None
    except Interrupted:
        raise
    except Exception as error:  # a user's function may raise anything; the user must learn which one it was
        what = f"raised {type(error).__name__}: {error} ({_failing_sample(function, batch, constants)})"
        raise _term_error(where, function, what) from error
    if not isinstance(values, list):
        raise _term_error(where, function, f"returned {type(values).__name__}", "a list of numbers or None")
    if len(values) != len(batch["completions"]):
        raise _term_error(where, function, f"returned {len(values)} values for {len(batch['completions'])} completions")
    return [_number(where, function, b, value) for b, value in enumerate(values)]


def _arguments(function: Function, available: dict[str, Any]) -> dict[str, Any]:
    """What ``function`` takes of ``available``; a knob keeps its value if a column has the same name."""
    inner, bound = _unwrapped(function)
    parameters = inspect.signature(inner).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {name: v for name, v in available.items() if name not in bound and (takes_all or name in parameters)}


def _failing_sample(function: Function, batch: dict[str, list[Any]], constants: dict[str, Any]) -> str:
    """Which sample makes ``function`` raise, found by showing it one sample at a time."""
    for b in range(len(batch["completions"])):
        try:
            function(**_arguments(function, {name: v[b : b + 1] for name, v in batch.items()} | constants))
        except Exception:  # the error itself is already known
            return f"sample {b}"
    return "only on the whole batch"


def _number(where: str, function: Function, b: int, value: Any) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, Real):
        raise _term_error(where, function, f"returned {type(value).__name__} for sample {b}", "a number or None", value)
    if math.isinf(value):
        raise _term_error(where, function, f"returned {value} for sample {b}", "a finite number or None")
    return float(value)


def _term_error(
    where: str, function: Function, what: str, allowed: str | list[str] = "", given: object = None
) -> UserError:
    inner, _ = _unwrapped(function)
    called = f"{getattr(inner, '__module__', '')}.{getattr(inner, '__qualname__', type(inner).__name__)}"
    return UserError(
        f"reward term `{where.rpartition('.')[2]}` ({called}) {what}",
        key=where,
        value=given,
        expected=allowed,
        code=REWARD,
    )
