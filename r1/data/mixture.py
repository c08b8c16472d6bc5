"""Several datasets as one: each row keeps the template, the verifier and the reward terms of the part it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from r1.core.errors import DATA, UserError, as_yaml_null, errors_mounted_at
from r1.data.base import Data, Row, Verifier
from r1.data.rows import Rows

T = TypeVar("T")


def mixture(*, parts: dict[str, Data]) -> Data:
    """The rows of all parts, each with its part's name, spread evenly; the held-out rows of each part stay held out.

    With weights, an epoch holds the parts in these proportions and is as long as it can be without a row coming twice;
    without, it holds every row.

    Raises:
        UserError: there are no parts, only some have a weight, or a part is a mixture itself.
    """
    _check(parts)
    named = {name: part.train.with_defaults(part=name) for name, part in parts.items()}
    held_out = [part.val.with_defaults(part=name) for name, part in parts.items()]
    counts = rows_per_part({name: len(rows) for name, rows in named.items()}, {n: p.weight for n, p in parts.items()})
    first = next(iter(parts.values()))
    return Data(
        train=interleave([rows[: counts[name]] for name, rows in named.items()]),
        val=interleave(held_out),
        template=first.template,
        verifier=MixtureVerifier({name: part.verifier for name, part in parts.items()}),
        row_from_question=lambda prompt: row_from_any_part(parts, prompt),
        parts=parts,
        counts=sum_counts([part.counts for part in parts.values()]),
    )


def _check(parts: dict[str, Data]) -> None:
    if not parts:
        hint = "+data@data.parts.NAME=OPTION adds a part"
        raise UserError("a mixture needs parts", key=".parts", value=parts, hint=hint)
    for name, part in parts.items():
        if part.parts:
            raise UserError("a part of a mixture cannot be a mixture", key=f".parts.{name}", value="mixture")
        if any("part" in kind.columns for kind, _, _ in (*part.train.tally(), *part.val.tally())):
            message, hint = "this column name is reserved: `part`, which a mixture writes", "rename the column"
            raise UserError(message, key=f".parts.{name}", value="part", hint=hint, code=DATA)
    lacking = [name for name, part in parts.items() if part.weight is None]
    if 0 < len(lacking) < len(parts):
        message, hint = "either every part has a weight or none", "set it, or leave the others' at null"
        raise UserError(message, key=f".parts.{lacking[0]}.weight", value=as_yaml_null(None), hint=hint)


def rows_per_part(sizes: dict[str, int], weights: dict[str, float | None]) -> dict[str, int]:
    """How many rows of each part an epoch holds: in proportion to the weights, as many as there are, at least one."""
    lengths = [size / weight for size, weight in zip(sizes.values(), weights.values(), strict=True) if weight]
    if not lengths:
        return sizes
    return {name: max(1, round(min(lengths) * (weights[name] or 0.0))) for name in sizes}


def interleave(parts: Sequence[Sequence[Row]]) -> Rows:
    """All rows, each part's in order and spread evenly, so that every stretch holds about the same mixture."""
    # row j of n is at (j + 1/2) / n of its part; sorting by that position spreads every part over the whole
    positions = [(np.arange(len(rows)) + 0.5) / max(1, len(rows)) for rows in parts]
    return Rows.concatenate(parts).select(np.argsort(np.concatenate(positions), kind="stable"))


def sum_counts(counts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {
        name: sum(part.get(name, 0.0) for part in counts) for name in {name: None for part in counts for name in part}
    }


def row_from_any_part(parts: dict[str, Data], prompt: str) -> Row | None:
    """The row of a question typed by hand, from the first part that can work out its answer."""
    for name, part in parts.items():
        if part.row_from_question and (row := part.row_from_question(prompt)):
            return row | {"part": name}
    return None


class MixtureVerifier(Verifier):
    """Each row is verified by its own part's verifier; a row without a part by the first one's."""

    def __init__(self, verifiers: dict[str, Verifier]) -> None:
        self.verifiers = verifiers
        self.first = next(iter(verifiers))

    def __call__(self, answer: str, row: Row) -> bool:
        return self.verify_batch([answer], [row])[0]

    def verify_batch(self, answers: Sequence[str], rows: Sequence[Row]) -> list[bool]:
        return self._by_part(rows, lambda v, b: v.verify_batch([answers[i] for i in b], [rows[i] for i in b]))

    def score_batch(self, answers: Sequence[str], rows: Sequence[Row]) -> list[float]:
        return self._by_part(rows, lambda v, b: v.score_batch([answers[i] for i in b], [rows[i] for i in b]))

    def read(self, completion: str, row: Row) -> str | None:
        return self.verifiers[row.get("part", self.first)].read(completion, row)

    def same(self, answers: Sequence[str], others: Sequence[str], rows: Sequence[Row]) -> list[bool]:
        return self._by_part(
            rows, lambda v, b: v.same([answers[i] for i in b], [others[i] for i in b], [rows[i] for i in b])
        )

    def reads(self, rows: Sequence[Row]) -> list[bool]:
        return self._by_part(rows, lambda v, b: v.reads([rows[i] for i in b]))

    def _by_part(self, rows: Sequence[Row], decide: Callable[[Verifier, list[int]], list[T]]) -> list[T]:
        """One call per part: ``decide(verifier, indices of its rows)``."""
        verdicts: dict[int, T] = {}
        for name, verifier in self.verifiers.items():
            indices = [b for b, row in enumerate(rows) if row.get("part", self.first) == name]
            with errors_mounted_at(f"data.parts.{name}.verifier"):
                verdicts |= zip(indices, decide(verifier, indices), strict=True)
        return [verdicts[b] for b in range(len(rows))]

    def pop_error_counts(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for verifier in self.verifiers.values():
            counts.update(verifier.pop_error_counts())  # a Counter keeps what is zero, too
        return dict(counts)
