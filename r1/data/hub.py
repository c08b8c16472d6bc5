"""Reading a Hugging Face dataset, from the Hub or from a copy on disk; shared by gsm8k, math and openr1_math.

A path that exists is a copy: a ``save_to_disk`` folder, a folder in the Hub's layout (parquet, jsonl, csv),
or one such file. Anything else is a dataset's name on the Hub. Data only: code in the same
folder is never run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from r1.core.errors import DATA, UserError, as_yaml_null, suggest
from r1.data.arrow import table_rows
from r1.data.base import Data, DataOptions, Row, data_options
from r1.data.columns import INTERNAL, RESERVED, TEXT_COLUMNS, check_row, is_number, is_text, type_error
from r1.data.files import read_file
from r1.data.split import exclude_overlap, hold_out, subsample

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)
TEXT_FORMATS = (".jsonl", ".json", ".csv")
READ_ROWS = 1000  # converted at once
HOLD_OUT = "val_split: null holds rows of the training split out"


class HubOptions(DataOptions):
    """The knobs that every dataset has that is read with the datasets library.

    Attributes:
        path: a Hub name, folder or file.
        name: which configuration of it, or None.
        val_split: the held-out split; None takes ``num_val`` rows of ``train_split``, by the question's hash.
        num_val: how many held-out rows; None takes all of ``val_split``, or the share that ``hold_out`` has.
        limit_train: at most so many training rows, chosen by the same hash; None takes all.
    """

    path: str
    name: str | None
    train_split: str
    val_split: str | None
    num_val: Annotated[int, Ge(1)] | None
    limit_train: Annotated[int, Ge(1)] | None
    prompt_column: str


@dataclass(frozen=True)
class Split:
    """The source rows of a split, in memory if they come from text files.

    Attributes:
        location: of the rows, for messages.
        rows: a dataset, or ``PATH:LINE`` and the row.
    """

    location: str
    rows: Dataset | list[tuple[str, Row]]

    @property
    def column_names(self) -> list[str]:
        if isinstance(self.rows, list):
            return list(dict.fromkeys(name for _, row in self.rows for name in row))
        return list(self.rows.column_names)

    def texts(self, column: str) -> list[str]:
        """A column of questions. Raises: UserError: one is no text."""
        rows = self.read(range(len(self.rows)), [column])
        return [text_value(row, column, "prompt_column", location) for location, row in rows]

    def read(self, indices: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
        """``PATH:ROW`` and these columns of the row, for each index; a value that is not there is None."""
        if isinstance(self.rows, list):
            for index in indices:
                location, row = self.rows[index]
                yield location, {name: row.get(name) for name in columns}
            return
        chosen = self.rows.select_columns(list(columns)).select(indices).with_format("arrow")
        rows = (row for table in chosen.iter(READ_ROWS) for row in table_rows(table))
        for index, row in zip(indices, rows, strict=True):
            yield f"{self.location}:{index + 1}", row


def hub_data(
    options: HubOptions,
    columns: Mapping[str, str],
    make_row: Callable[[Row, str], Row | str],
    read_only: Iterable[str] | None = None,
) -> Data:
    """The rows that ``make_row`` makes of a dataset's source rows.

    Args:
        columns: knob -> column that must be there, besides the question's.
        make_row: one row of a source row and its location, or the reason why it is left out.
        read_only: the columns to read, as far as the dataset has them; None: all.

    Raises:
        UserError: the dataset cannot be read, lacks a column, has a value of a wrong type, or no row is left.
    """

    def rows(split: Split, indices: Sequence[int]) -> Iterator[Row | str]:
        names = split.column_names if read_only is None else sorted({*read_only} & {*split.column_names})
        for location, source in split.read(indices, names):
            row = make_row(source, location) if source[question].strip() else "without a question"
            if isinstance(row, dict):
                check_row(row, location, ".path", forbidden=RESERVED | INTERNAL)
            yield row

    path, question = options["path"], options["prompt_column"]
    train, val = splits(options, {"prompt_column": question, **columns})
    return Data(
        train=drop_invalid_rows(rows(*train), path), val=drop_invalid_rows(rows(*val), path), **data_options(options)
    )


def splits(options: HubOptions, columns: Mapping[str, str]) -> tuple[tuple[Split, list[int]], tuple[Split, list[int]]]:
    """The split to train on and the held-out one, each with the indices of its rows. ``columns``: as in ``hub_data``.

    Raises:
        UserError: not reachable, no such dataset, configuration, split or column.
    """
    train_split, val_split, num_val = options["train_split"], options["val_split"], options["num_val"]
    if train_split == val_split:
        message = "the held-out rows would be the training rows"
        raise UserError(message, key=".val_split", value=val_split, hint=HOLD_OUT)
    question = options["prompt_column"]
    train = val = load_columns(options, train_split, ".train_split", columns)
    prompts = train.texts(question)
    if val_split is None:
        train_indices, val_indices = hold_out(prompts, num_val)
    else:
        val = load_columns(options, val_split, ".val_split", columns)
        val_prompts = val.texts(question)
        train_indices, val_indices = (
            exclude_overlap(prompts, val_prompts, ".val_split"),
            subsample(val_prompts, num_val),
        )
    chosen = subsample([prompts[index] for index in train_indices], options["limit_train"])
    return (train, [train_indices[index] for index in chosen]), (val, val_indices)


def load_columns(options: HubOptions, split: str, key: str, columns: Mapping[str, str]) -> Split:
    """One split, all of whose ``columns`` exist. ``key`` is the config key of the split, for messages."""
    path, name = options["path"], options["name"]
    text_columns = TEXT_COLUMNS | {column for knob, column in columns.items() if knob != "answer_column"}
    with translate_errors(path, name, split, key):
        source = Split(f"{path}[{split}]", load_split(path, name, split, key, text_columns))
    names = source.column_names
    for knob, column in columns.items():
        if column not in names:
            message, hint = f"the dataset has no column `{column}`", suggest(column, names)
            raise UserError(message, key=f".{knob}", value=column, expected=names, hint=hint, code=DATA)
    return source


def text_value(source: Row, column: str, knob: str, location: str) -> str:
    """One value of a source row. Raises: UserError: it is no text."""
    value = source[column]
    if is_text(value):
        return str(value)
    message = f"{location}: the column `{column}` holds no text"
    raise UserError(message, key=f".{knob}", value=as_yaml_null(value), expected="text", code=DATA)


def answer_text(source: Row, column: str, location: str) -> str:
    """The gold answer of a source row, which may be a number; empty if there is none."""
    value = source[column]
    if value is None or is_text(value) or is_number(value):
        return "" if value is None else str(value).strip()
    raise type_error("answer", value, location, column, ".answer_column")


def drop_invalid_rows(rows: Iterable[Row | str], source: str) -> list[Row]:
    """The rows; a text instead of a row is the reason why it is left out. Reasons are counted and logged.

    Raises:
        UserError: no row is left.
    """
    valid: list[Row] = []
    reasons: dict[str, int] = {}
    for row in rows:
        if isinstance(row, str):
            reasons[row] = reasons.get(row, 0) + 1
        else:
            valid.append(row)
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    if not valid:
        raise UserError(f"no usable row in {source}: {why or 'it is empty'}", key=".path", code=DATA)
    if reasons:
        left_out = sum(reasons.values())
        log.warning("%s: left out %d of %d rows: %s", source, left_out, left_out + len(valid), why)
    return valid


def load_split(
    path: str, name: str | None, split: str, key: str, text_columns: Collection[str]
) -> Dataset | list[tuple[str, Row]]:
    """One split, with the library's own errors. Text files are read by ``files.py``, which keeps their decimals."""
    from datasets import load_dataset, load_dataset_builder

    local = Path(path).expanduser()
    if local.is_file():
        if split != "train":
            raise unknown_split(split, ["train"], key)
        return read_files([path], text_columns)
    if (local / "state.json").is_file() or (local / "dataset_dict.json").is_file():
        return load_saved_split(local, split, key)
    if local.is_dir():
        folder = {"path": str(local), **configuration_args(local, name)}
        files = load_dataset_builder(**folder).config.data_files or {}
        of_split = [file for part, of_part in files.items() if part == split for file in of_part]
        if of_split and all(file.endswith(TEXT_FORMATS) for file in of_split):
            return read_files(of_split, text_columns)
        return load_dataset(**folder, split=split)
    if local.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1:
        looked = f"looked in {local.absolute()}"
        raise UserError("no such file or folder", key=".path", value=path, hint=looked, code=DATA)
    return load_dataset(path, name, split=split)


def read_files(paths: Iterable[str], text_columns: Collection[str]) -> list[tuple[str, Row]]:
    """The rows of local files. Raises: UserError: a file cannot be read, or a row is bad."""
    rows: list[tuple[str, Row]] = []
    for location, row in (row for path in paths for row in read_file(path, ".path", text_columns)):
        if isinstance(row, UserError):
            raise row
        rows.append((location, row))
    return rows


def load_saved_split(folder: Path, split: str, key: str) -> Dataset:
    """A split of what ``save_to_disk`` wrote; a single dataset that lost its split's name counts as train."""
    from datasets import Dataset, load_from_disk

    stored = load_from_disk(str(folder))
    splits = {str(stored.split or "train"): stored} if isinstance(stored, Dataset) else dict(stored)
    if split not in splits:
        raise unknown_split(split, list(splits), key)
    return splits[split]


def configuration_args(folder: Path, name: str | None) -> dict[str, str]:
    """How to ask a folder for configuration ``name``: copies often lack the card that lists the names."""
    from datasets import get_dataset_config_names

    names = get_dataset_config_names(str(folder))
    if name is None or name in names:
        return {} if name is None else {"name": name}
    if (folder / name).is_dir():
        return {"data_dir": name}
    if names == ["default"]:
        log.info("%s has no configurations, so name=%s is not needed", folder, name)
        return {}
    raise unknown_config(name, names)


@contextmanager
def translate_errors(path: str, name: str | None, split: str, key: str) -> Iterator[None]:
    """Raise the errors of the datasets library as user errors."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    try:
        yield
    except ConnectionError as error:
        raise UserError(
            "cannot reach the Hugging Face Hub, and this dataset is not in the local cache",
            key=".path",
            value=path,
            hint=f"set path to a local copy, or go online ({first_line(error)})",
            code=DATA,
        ) from error
    except DatasetNotFoundError as error:
        raise UserError(
            "no such local path, and no such dataset on the Hugging Face Hub (or it needs `hf auth login`)",
            key=".path",
            value=path,
            hint=f"looked in {Path(path).absolute()} and at https://huggingface.co/datasets/{path}",
            code=DATA,
        ) from error
    except (DatasetsError, ValueError, OSError, RuntimeError) as error:
        raise error_for(error, path, name, split, key) from error


def error_for(error: Exception, path: str, name: str | None, split: str, key: str) -> UserError:
    """Tell an unknown configuration from an unknown split: the library tells them apart only in the error's text."""
    text = str(error)
    if "BuilderConfig" in text or "Config name is missing" in text:
        from datasets import get_dataset_config_names

        return unknown_config(name, get_dataset_config_names(path))
    if "nknown split" in text or "Bad split" in text:
        names = text[text.rfind("[") + 1 : text.rfind("]")].replace("'", "").split(", ")
        return unknown_split(split, names, key)
    message = f"cannot read the dataset: {first_line(error)}"
    return UserError(message, key=".path", value=path, code=DATA)


def unknown_config(name: str | None, names: list[str]) -> UserError:
    several = "the dataset has several configurations: choose one"
    message = f"the dataset has no configuration `{name}`" if name else several
    return UserError(message, key=".name", value=name, expected=names, hint=suggest(name or "", names), code=DATA)


def unknown_split(split: str, names: list[str], key: str) -> UserError:
    hint = suggest(split, names) or (HOLD_OUT if key == ".val_split" else f"for example {names[0]}")
    return UserError(
        f"the dataset has no split `{split}`",
        key=key,
        value=split,
        expected=names,
        hint=hint,
        code=DATA,
    )


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
