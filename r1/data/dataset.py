"""Questions from anywhere: the Hugging Face Hub, a local copy of a dataset, or files; each row by its columns.

The source is read once, row by row, into a memory-mapped file in the cache (``store.py``); later runs start from that.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Unpack

import numpy as np
from annotated_types import Ge, Interval

from r1.core.content_hash import file_hash
from r1.core.errors import DATA, UserError, suggest
from r1.data.base import Data, DataOptions, data_options
from r1.data.columns import COLUMNS, INTERNAL, OF_TEMPLATE, RESERVED, Row, check_names, check_row, type_error
from r1.data.conversation import conversation_error, is_messages, with_conversations
from r1.data.decontamination import rows_by_set
from r1.data.files import read_file
from r1.data.mapping import Columns, fields, map_columns, missing, text_columns
from r1.data.origin import SourceFile, Splits, download, find_splits
from r1.data.rows import Rows
from r1.data.split import exclude_overlap, held_out_rows, hold_out, subsample
from r1.data.store import StoredRows, store_rows

log = logging.getLogger(__name__)
MAX_SKIPPED = 0.01  # of the rows: more bad ones than that are a wrong file, not a few slips
HOLD_OUT = "val_split=null: stage=eval takes all rows of the only split, training holds some out"
MakeRow = Callable[[Row, str], Row | str]
"""A dataset's own step: one row of a mapped row and its location, or the reason why it is left out."""


class DatasetOptions(DataOptions):
    """The knobs of every dataset that is read.

    Attributes:
        path: a Hub name, folder, file or glob, or files and globs.
        name: which configuration of it, or None.
        val_split: the held-out split; None takes ``num_val`` rows of ``train_split``, by the question's hash.
        val_path: the same, where the held-out rows are files of their own.
        num_val: how many held-out rows; None takes all of them, or the share of ``train_split`` that ``hold_out`` has.
        limit_train: at most so many training rows, chosen by the same hash; None takes all.
        on_bad_row: ``skip`` leaves unusable rows out, at most 1 %.
        decontaminate: evaluation sets; rows that share ten words in a row with a question of one are not trained on.
        min_pass_rate, max_pass_rate: only rows whose ``pass_rate`` lies within are trained on; held-out rows all stay.
    """

    path: str | list[str]
    name: str | None
    revision: str | None
    train_split: str
    val_split: str | None
    val_path: str | list[str] | None
    num_val: Annotated[int, Ge(1)] | None
    limit_train: Annotated[int, Ge(1)] | None
    columns: Columns
    on_bad_row: Literal["error", "skip"]
    decontaminate: list[str]
    min_pass_rate: Annotated[float, Interval(ge=0, le=1)] | None
    max_pass_rate: Annotated[float, Interval(ge=0, le=1)] | None


def dataset(learns: bool, **options: Unpack[DatasetOptions]) -> Data:
    """Rows with the columns of the source, and r1's own (``columns.py``) from where ``columns`` has them.

    Args:
        learns: training rows are needed. Else a dataset of which no held-out rows are named is held out as a whole.

    Raises:
        UserError: the dataset cannot be read, or a row lacks a column or has a value of a wrong type.
    """
    return read_dataset(options, learns)


def read_dataset(
    options: DatasetOptions,
    learns: bool,
    make_row: MakeRow | None = None,
    step: Any = None,
    only: frozenset[str] | None = None,
) -> Data:
    """A dataset's rows, each made by ``make_row``; ``step`` and ``only`` as in ``Reader``."""
    splits = find_splits(options["path"], options["name"], options["revision"])
    return split_dataset(Reader(options, make_row, step, only=only), splits, learns)


def split_dataset(reader: Reader, splits: Splits, learns: bool) -> Data:
    """The rows of the splits that the options name."""
    train, val = training_rows(reader, splits) if learns else (Rows.of([]), evaluation_rows(reader, splits))
    return Data(train=train, val=val, counts=dict(reader.counts), **data_options(reader.options))


def training_rows(reader: Reader, splits: Splits) -> tuple[Rows, Rows]:
    """The rows to train on and those that are held out."""
    options = reader.options
    train = reader.rows(require_split(splits, options["train_split"], ".train_split"))
    if options["val_split"] == options["train_split"]:
        message = "the held-out rows would be the training rows"
        raise UserError(message, key=".val_split", value=options["val_split"], hint=HOLD_OUT)
    if (held_out := held_out_files(options, splits)) is None:
        indices, val_indices = hold_out(train.stats("question"), options["num_val"])
        val = train.select(val_indices)
    else:
        key, files = held_out
        val = reader.rows(files, key)
        indices = exclude_overlap(train.stats("question"), val.stats("question"), key)
        val = val.select(subsample(val.stats("question"), options["num_val"]))
    train = decontaminated(train.select(indices), options["decontaminate"], reader.counts)
    train = train.select(subsample(train.stats("question"), options["limit_train"]))
    return filter_by_pass_rate(train, options["min_pass_rate"], options["max_pass_rate"]), val


def evaluation_rows(reader: Reader, splits: Splits) -> Rows:
    """The held-out rows where nothing is learned: those that are named, else all of the only split.

    With ``num_val`` they are those that a training run holds out.
    """
    options = reader.options
    if (held_out := held_out_files(options, splits)) is not None:
        rows = reader.rows(held_out[1], held_out[0])
        return rows.select(subsample(rows.stats("question"), options["num_val"]))
    if len(splits) == 1:
        rows = reader.rows(next(iter(splits.values())))
    elif options["num_val"] is not None:
        rows = reader.rows(require_split(splits, options["train_split"], ".train_split"))
    else:
        message = "the dataset has several splits: choose the one to evaluate"
        hint = (
            f"val_split={'test' if 'test' in splits else next(iter(splits))}; num_val=N holds N rows out of train_split"
        )
        raise UserError(message, key=".val_split", value=None, expected=splits, hint=hint, code=DATA)
    return (
        rows if options["num_val"] is None else rows.select(held_out_rows(rows.stats("question"), options["num_val"]))
    )


def held_out_files(options: DatasetOptions, splits: Splits) -> tuple[str, list[SourceFile]] | None:
    """The key and the files of the held-out rows that are named; None: there are none."""
    if options["val_split"] and options["val_path"]:
        message = "the held-out rows are a split of the dataset or files of their own"
        raise UserError(message, key=".val_path", value=options["val_path"], hint="set val_split or val_path to null")
    if options["val_path"] is not None:
        splits = find_splits(options["val_path"], None, None, ".val_path")
        return ".val_path", require_only_split(splits)
    if options["val_split"] is not None:
        return ".val_split", require_split(splits, options["val_split"], ".val_split")
    return None


def require_split(splits: Splits, split: str, key: str) -> list[SourceFile]:
    if split in splits:
        return splits[split]
    learned = f"train_split={next(iter(splits))} learns from it"
    hint = suggest(split, splits) or (HOLD_OUT if key == ".val_split" else learned)
    message = f"the dataset has no split `{split}`"
    raise UserError(message, key=key, value=split, expected=splits, hint=hint, code=DATA)


def require_only_split(splits: Splits) -> list[SourceFile]:
    if len(splits) == 1:
        return next(iter(splits.values()))
    message, hint = "these held-out rows have several splits", "name the files of one: a glob or a list"
    raise UserError(message, key=".val_path", value=None, expected=splits, hint=hint, code=DATA)


def decontaminated(train: Rows, names: Sequence[str], counts: Counter[str]) -> Rows:
    """The rows that share no ten words with an evaluation set; the others are counted for each set and logged.

    Raises:
        UserError: none is left.
    """
    if not names:
        return train
    shared = rows_by_set(train, names)
    for name, indices in shared.items():
        counts[f"data/shared_with_{re.sub('[^A-Za-z0-9_.-]+', '_', Path(name).name)}"] += len(indices)
        if indices:
            log.warning("left out %d of %d training rows that share ten words with %s", len(indices), len(train), name)
    left = np.setdiff1d(np.arange(len(train)), np.concatenate([*shared.values()]).astype(np.int64))
    if not len(left):
        message = f"all {len(train)} training rows share ten words with an evaluation set"
        raise UserError(message, key=".decontaminate", value=list(names), code=DATA)
    return train.select(left)


def filter_by_pass_rate(rows: Rows, least: float | None, most: float | None) -> Rows:
    """Rows with ``least <= pass_rate <= most``, and those whose pass rate is null: they have no gold answer.

    Raises:
        UserError: a row has no column ``pass_rate``, or none is left.
    """
    if least is None and most is None:
        return rows
    key = ".max_pass_rate" if least is None else ".min_pass_rate"
    if lacking := sum(count for kind, count, _ in rows.tally() if "pass_rate" not in kind.columns):
        message = f"{lacking} of {len(rows)} rows have no column `pass_rate`"
        raise UserError(message, key=key, hint="stage=rejection_sampling writes it: traces/questions.jsonl", code=DATA)
    low, high, rates = least or 0.0, 1.0 if most is None else most, rows.stats("pass_rate")
    in_range = rows.select(np.flatnonzero(np.isnan(rates) | ((low <= rates) & (rates <= high))))
    if not len(in_range):
        message = f"none of {len(rows)} training rows has a pass rate of {low:g} to {high:g}"
        raise UserError(message, key=key, code=DATA)
    return in_range


@dataclass
class Reader:
    """Reads files into stored rows.

    Attributes:
        make_row: the dataset's own step, after the columns are in their places; None: there is none.
        step: all that decides it, as JSON.
        forbidden: names that no column of the source may have.
        only: the columns that ``make_row`` reads, after the columns are in their places; None: all are read.
        counts: rows that were left out, by metric.
    """

    options: DatasetOptions
    make_row: MakeRow | None = None
    step: Any = None
    forbidden: frozenset[str] = RESERVED | INTERNAL
    only: frozenset[str] | None = None
    counts: Counter[str] = field(default_factory=Counter)

    def rows(self, files: list[SourceFile], key: str = ".path") -> Rows:
        """All rows of some files, in order.

        Args:
            key: config key of the files, for errors.

        Raises:
            UserError: a file cannot be read, a row is bad, or there is none.
        """
        path = str(self.options["path"] if key == ".path" else self.options["val_path"] or self.options["val_split"])
        files = download(files, path, key)
        hashes = [[file.name, file_hash(Path(file.path))] for file in files]
        identity = [hashes, self.options["columns"], self.options["on_bad_row"], sorted(self.forbidden), self.step]
        stored = store_rows(identity, lambda summary: self._read(files, key, summary))
        self._log(stored, path, key)
        return Rows.of_store(stored)

    def _log(self, stored: StoredRows, source: str, key: str) -> None:
        """Raises: UserError: there is no row."""
        bad, first, reasons = (stored.summary[name] for name in ("bad", "first_bad", "left_out"))
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        total = len(stored) + bad + sum(reasons.values())
        if not len(stored):
            message = f"no usable row in {source}: {why}" if why else f"the file has no rows: {source}"
            raise UserError(message, key=key, value=source, code=DATA)
        if self.options["on_bad_row"] == "skip":
            self.counts["data/skipped"] += bad
        self.counts.update({f"data/{reason.replace(' ', '_')}": count for reason, count in reasons.items()})
        if bad:
            log.warning("%s: left out %d bad rows of %d; the first: %s", source, bad, total, first)
        if reasons:
            log.warning("%s: left out %d of %d rows: %s", source, sum(reasons.values()), total, why)

    def _read(self, files: list[SourceFile], key: str, summary: dict[str, Any]) -> Iterator[Row]:
        """One pass over the source; bad rows are counted, or the first one is raised."""
        counts, first = Counter[str](), None
        seen = ColumnsSeen()
        for file, location, source in self._source_rows(files, key):
            counts["rows"] += 1
            try:
                row = self._row(source, location, key)
                if isinstance(row, dict):
                    seen.check(row, file, location)
            except UserError as error:
                if self.options["on_bad_row"] == "error":
                    raise
                first = first or error
                counts["bad"] += 1
                continue
            if isinstance(row, dict):
                yield row
            else:
                counts[row] += 1
        bad, total = counts.pop("bad", 0), counts.pop("rows", 0)
        if first and bad > MAX_SKIPPED * total:
            message = f"{bad} of {total} rows are bad, and at most 1 % are skipped; the first: {first.message}"
            raise UserError(message, key=first.key, value=first.value, expected=first.expected, code=DATA)
        seen.compare_files(key)
        summary |= {"bad": bad, "first_bad": first and first.message, "left_out": dict(counts)}

    def _source_rows(self, files: list[SourceFile], key: str) -> Iterator[tuple[str, str, Row | UserError]]:
        """(file, location, row) of all files."""
        texts, names = text_columns(self.options["columns"]), self._columns_read()
        for file in files:
            yield from ((file.name, *row) for row in read_file(file.path, key, texts, file.name, names))

    def _columns_read(self) -> set[str] | None:
        """The source's columns that rows are made of; None: all."""
        if self.only is None:
            return None
        origins = [self.options["columns"].get(name, name) or name for name in self.only]
        return {name.partition(".")[0] for origin in origins for name in fields(origin) or [origin]}

    def _row(self, source: Row | UserError, location: str, key: str) -> Row | str:
        """One row with r1's columns, or why it is left out; a number that is an answer becomes its decimal text."""
        if isinstance(source, UserError):
            raise source
        columns = self.options["columns"]
        row = with_conversations(map_columns(source, columns, location))
        for name in ("messages", "chosen", "rejected"):
            if is_messages(value := row.get(name)) and conversation_error(value, name):
                raise type_error(name, value, location, columns.get(name) or name, key)
        if "prompt" not in row:
            raise missing("prompt", columns.get("prompt") or "prompt", source, location)
        if self.make_row:
            check_names(row, location, key, self.forbidden)
            if isinstance(row["prompt"], str) and not row["prompt"].strip():
                return "without a question"
            made = self.make_row(row, location)
            if isinstance(made, str):
                return made
            row = made
        named = {n: origin for n, origin in columns.items() if origin not in (None, n) and n not in OF_TEMPLATE}
        if "answer" in row and row.get("terms") is None:  # else an open-ended question
            named.setdefault("answer", "answer")
        elif row.get("terms") is not None:
            named.pop("answer", None)
        check_row(row, location, key, {name: origin for name, origin in named.items() if name in row}, self.forbidden)
        return row if row.get("answer") is None else row | {"answer": str(row["answer"])}


class ColumnsSeen:
    """The columns that r1 reads, in the rows of a pass: a gold answer is in all or in none, and files are alike."""

    def __init__(self) -> None:
        self.has_answer: bool | None = None
        self.of_file: dict[str, set[str]] = {}

    def check(self, row: Row, file: str, location: str) -> None:
        """Raises: UserError: the row has an answer where others have none, or the reverse."""
        columns = self.of_file.setdefault(file, set())
        if not columns.issuperset(row):
            columns |= COLUMNS.keys() & row.keys()
        if row.get("terms") is not None:
            return
        if self.has_answer is None:
            self.has_answer = "answer" in row
        if self.has_answer != ("answer" in row):
            message, others = ("a column", "lack") if "answer" in row else ("no column", "have")
            raise UserError(
                f"{location}: {message} `answer`, which the rows before {others}",
                key=".columns.answer",
                hint="null: the questions have no gold answers; a row that names its reward `terms` needs none",
                code=DATA,
            )

    def compare_files(self, key: str) -> None:
        """Raises: UserError: a file has a column of r1's that another one lacks in every row."""
        known = set[str]().union(*self.of_file.values())
        for file, columns in self.of_file.items():
            if lacking := sorted(known - columns):
                other = next(name for name, those in self.of_file.items() if lacking[0] in those)
                raise UserError(
                    f"{file}: no row has a column `{lacking[0]}`, which {other} has",
                    key=key,
                    value=file,
                    hint=f"columns.{lacking[0]}=null, or give the files the same columns",
                    code=DATA,
                )
