"""Rows as views: they lie in memory or in a memory-mapped file, and splits, limits and mixtures are index arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from r1.data.columns import COLUMNS, Row
from r1.data.split import question_hash

Indices = NDArray[np.int64]
STATS = np.dtype([("kind", "<i4"), ("size", "<i4"), ("pass_rate", "<f8"), ("question", "S32"), ("content", "S32")])
"""What is kept of each row besides its columns: its ``Kind``, as an index; the characters of
its texts; ``pass_rate`` or NaN; the sha256 of its
question, by which rows are split; the sha256 of its columns."""


class Kind(NamedTuple):
    """What many rows have in common, and checks go by.

    Attributes:
        columns: their names.
        empty: those of r1's own columns (``COLUMNS``) that are there without a value.
        terms: the reward terms that apply; None: all.
        part: of a mixture.
    """

    columns: tuple[str, ...]
    empty: tuple[str, ...] = ()
    terms: tuple[str, ...] | None = None
    part: str | None = None

    def has(self, column: str) -> bool:
        """Whether these rows have a value in a column that r1 reads, or have another column."""
        return column in self.columns and column not in self.empty

    def with_defaults(self, defaults: Mapping[str, Any]) -> Kind:
        """The kind of these rows once ``defaults`` stand where they have no value."""
        filled = [name for name in defaults if not self.has(name)]
        return self._replace(
            columns=(*self.columns, *(name for name in filled if name not in self.columns)),
            empty=tuple(name for name in self.empty if name not in filled),
            terms=tuple(defaults["terms"]) if "terms" in filled else self.terms,
            part=defaults["part"] if "part" in filled else self.part,
        )


class Tally(NamedTuple):
    """How many rows are of a kind, and the index of the first."""

    kind: Kind
    num_rows: int
    first: int


class Store(Protocol):
    """Rows by number, and their statistics.

    Attributes:
        is_checked: ``check_row`` has passed every row.
    """

    is_checked: bool

    @property
    def kinds(self) -> Sequence[Kind]: ...
    def __len__(self) -> int: ...
    def read(self, index: int) -> Row: ...
    def stats(self, name: str) -> NDArray[Any]:
        """One field of ``STATS``, for all rows."""


class KindIndex:
    """Numbers the kinds of rows in the order in which they come."""

    def __init__(self) -> None:
        self.numbers: dict[Kind, int] = {}

    def stats(self, row: Row, content: str) -> tuple[int, int, float, bytes, bytes]:
        """The fields of ``STATS`` of a row, whose columns are ``content`` as JSON."""
        empty = tuple(name for name in COLUMNS if name in row and row[name] in (None, "", []))
        terms = row.get("terms")
        kind = Kind(tuple(row), empty, None if terms is None else tuple(terms), row.get("part"))
        rate = row.get("pass_rate")
        number = self.numbers.setdefault(kind, len(self.numbers))
        size = sum(len(value) for value in row.values() if isinstance(value, str))
        return (
            number,
            size,
            np.nan if rate is None else rate,
            question_hash(row),
            hashlib.sha256(content.encode()).digest(),
        )


class RowsInMemory:
    """A list of rows as a ``Store``; its statistics are computed where one is read."""

    is_checked = False

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Row:
        return self.rows[index]

    @property
    def kinds(self) -> Sequence[Kind]:
        return self._statistics[0]

    def stats(self, name: str) -> NDArray[Any]:
        return self._statistics[1][name]

    @cached_property
    def _statistics(self) -> tuple[Sequence[Kind], NDArray[Any]]:
        index = KindIndex()
        texts = (json.dumps(row, sort_keys=True, default=str) for row in self.rows)
        fields = [index.stats(row, text) for row, text in zip(self.rows, texts, strict=True)]
        return list(index.numbers), np.array(fields, STATS)


@dataclass(frozen=True)
class Source:
    """A store, and columns for those of its rows that have no value there."""

    store: Store
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def read(self, index: int) -> Row:
        row = self.store.read(index)
        missing = {name: value for name, value in self.defaults.items() if row.get(name) is None}
        return row | missing if missing else row


class Rows(Sequence[Row]):
    """Rows of one or several sources in any order. A row is read where it is used; a part of them is a view, too.

    Args:
        indices: (N,) of each row in its source.
        source_of: (N,) the source of each row; None: there is one.
    """

    def __init__(self, sources: Sequence[Source], indices: Indices, source_of: NDArray[np.uint8] | None = None) -> None:
        self.sources, self.indices = tuple(sources), indices
        self.source_of = np.zeros(len(indices), np.uint8) if source_of is None else source_of

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Rows:
        """Rows in memory; ``Rows`` stay what they are."""
        if isinstance(rows, Rows):
            return rows
        return cls.of_store(RowsInMemory(list(rows)))

    @classmethod
    def of_store(cls, store: Store) -> Rows:
        """All rows of a store."""
        return cls([Source(store)], np.arange(len(store)))

    @classmethod
    def concatenate(cls, parts: Iterable[Iterable[Row]]) -> Rows:
        """The rows of all parts, one part after the other."""
        views = [Rows.of(part) for part in parts]
        sources = [source for view in views for source in view.sources]
        firsts = np.cumsum([0, *(len(view.sources) for view in views)])
        source_of = [view.source_of + np.uint8(first) for view, first in zip(views, firsts, strict=False)]
        return cls(sources, np.concatenate([view.indices for view in views]), np.concatenate(source_of))

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        return self.sources[int(self.source_of[index])].read(int(self.indices[index]))

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(len(self)))

    def __add__(self, others: Iterable[Row]) -> Rows:
        return Rows.concatenate([self, Rows.of(others)])

    def __eq__(self, other: object) -> bool:
        """Whether another sequence has equal rows."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(dict.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} rows>"

    def select(self, indices: ArrayLike) -> Rows:
        """The rows at some positions, in their order."""
        chosen = np.asarray(indices, np.int64)
        return Rows(self.sources, self.indices[chosen], self.source_of[chosen])

    def with_defaults(self, **values: Any) -> Rows:
        """The same rows, with these columns where they have no value."""
        sources = [Source(source.store, values | dict(source.defaults)) for source in self.sources]
        return Rows(sources, self.indices, self.source_of)

    @property
    def are_checked(self) -> bool:
        """Whether ``check_row`` has passed every row when its file was written."""
        return all(source.store.is_checked for source in self.sources)

    def stats(self, name: str) -> NDArray[Any]:
        """(N,) one field of ``STATS``; a kind is one of its store's."""
        gathered = np.empty(len(self), STATS[name])
        for number, source in enumerate(self.sources):
            of_source = self.source_of == number
            if of_source.any():
                gathered[of_source] = source.store.stats(name)[self.indices[of_source]]
        return gathered

    def tally(self) -> list[Tally]:
        """The kinds of rows that there are, in the order of their first row."""
        numbers, tallies = self.stats("kind"), []
        for number, source in enumerate(self.sources):
            positions = np.flatnonzero(self.source_of == number)
            kinds, firsts, counts = np.unique(numbers[positions], return_index=True, return_counts=True)
            tallies += [
                Tally(source.store.kinds[kind].with_defaults(source.defaults), int(count), int(positions[first]))
                for kind, first, count in zip(kinds, firsts, counts, strict=True)
            ]
        return sorted(tallies, key=lambda tally: tally.first)

    def with_value(self, column: str) -> Rows:
        """The rows that have a value in one of r1's columns."""
        numbers, mask = self.stats("kind"), np.zeros(len(self), bool)
        for number, source in enumerate(self.sources):
            has = np.array([kind.with_defaults(source.defaults).has(column) for kind in source.store.kinds], bool)
            of_source = self.source_of == number
            mask[of_source] = has[numbers[of_source]]
        return self.select(np.flatnonzero(mask))

    def digest(self) -> str:
        """sha256 over the rows."""
        state = hashlib.sha256(json.dumps([dict(source.defaults) for source in self.sources]).encode())
        state.update(self.source_of.tobytes())
        state.update(self.stats("content").tobytes())
        return state.hexdigest()
