"""Reading a Hugging Face dataset, from the Hub or from a copy on disk; shared by gsm8k, math and openr1_math.

A path that exists is a copy: a ``save_to_disk`` folder, a folder in the Hub's layout (parquet, jsonl, csv),
or one such file. Anything else is a dataset's name on the Hub. Data only: code in the same
folder is never run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from r1.core.errors import DATA, UserError, suggest
from r1.data.base import Data, DataOptions, Row, data_options
from r1.data.split import exclude_overlap, hold_out, need_num_val, subsample

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)
FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
HOLD_OUT = "val_split: null with num_val: 256 holds rows of the training split out"


class HubOptions(DataOptions):
    """The knobs that every dataset has that is read with the datasets library.

    Attributes:
        path: a Hub name, folder or file.
        name: which configuration of it, or None.
        val_split: the held-out split; None takes ``num_val`` rows of ``train_split``, by the question's hash.
        num_val: how many held-out rows; None takes the whole of ``val_split``.
        limit_train: at most so many training rows, chosen by the same hash; None takes all.
    """

    path: str
    name: str | None
    train_split: str
    val_split: str | None
    num_val: Annotated[int, Ge(1)] | None
    limit_train: Annotated[int, Ge(1)] | None
    prompt_column: str


def hub_data(
    options: HubOptions,
    columns: Mapping[str, str],
    make_row: Callable[[Row], Row | str],
    read_only: Iterable[str] | None = None,
) -> Data:
    """The rows that ``make_row`` makes of a dataset's source rows.

    Args:
        columns: knob -> column that must be there, besides the question's.
        make_row: one row, or the reason why it is left out.
        read_only: the columns to read, as far as the dataset has them; None: all.

    Raises:
        UserError: the dataset cannot be read, lacks a column, or no row is left.
    """

    def rows(dataset: Dataset) -> list[Row]:
        if read_only is not None:
            dataset = dataset.select_columns(sorted({*read_only} & {*dataset.column_names}))
        return drop_invalid_rows(map(make_row, dataset), options["path"])

    train, val = splits(options, {"prompt_column": options["prompt_column"], **columns})
    return Data(train=rows(train), val=rows(val), **data_options(options))


def splits(options: HubOptions, columns: Mapping[str, str]) -> tuple[Dataset, Dataset]:
    """The source rows to train on and those held out. ``columns``: knob -> column that must be there.

    Raises:
        UserError: not reachable, no such dataset, configuration, split or column.
    """
    path, name = options["path"], options["name"]
    train_split, val_split = options["train_split"], options["val_split"]
    if train_split == val_split:
        message = "the held-out rows would be the training rows"
        raise UserError(message, key=".val_split", value=val_split, hint=HOLD_OUT)
    question = options["prompt_column"]
    train = load_columns(path, name, train_split, ".train_split", columns)
    if val_split is None:
        num_val = need_num_val(options["num_val"], "val_split")
        train_indices, val_indices = hold_out(column_texts(train, question), num_val)
        train, val = train.select(train_indices), train.select(val_indices)
    else:
        val = load_columns(path, name, val_split, ".val_split", columns)
        train = train.select(exclude_overlap(column_texts(train, question), column_texts(val, question), ".val_split"))
        val = val.select(subsample(column_texts(val, question), options["num_val"]))
    return train.select(subsample(column_texts(train, question), options["limit_train"])), val


def load_columns(path: str, name: str | None, split: str, key: str, columns: Mapping[str, str]) -> Dataset:
    """One split, all of whose ``columns`` exist. ``key`` is the config key of the split, for messages."""
    with translate_errors(path, name, split, key):
        dataset = load_split(path, name, split, key)
    for knob, column in columns.items():
        if column not in dataset.column_names:
            raise UserError(
                f"the dataset has no column `{column}`",
                key=f".{knob}",
                value=column,
                expected=dataset.column_names,
                hint=suggest(column, dataset.column_names),
                code=DATA,
            )
    return dataset


def column_texts(dataset: Dataset, column: str) -> list[str]:
    """The whole column, all of it text."""
    return [text_value({column: value}, column, "prompt_column") for value in dataset[column]]


def text_value(source: Row, column: str, knob: str) -> str:
    """One value of a source row. Raises: UserError: it is no text."""
    value = source[column]
    if isinstance(value, str):
        return value
    message = f"a row holds no text in the column `{column}`"
    raise UserError(message, key=f".{knob}", value=value, expected="text", code=DATA)


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


def load_split(path: str, name: str | None, split: str, key: str) -> Dataset:
    """One split, with the library's own errors."""
    from datasets import load_dataset

    local = Path(path).expanduser()
    if local.is_file():
        return load_dataset(file_format(local), data_files={"train": str(local)}, split=split)
    if (local / "state.json").is_file() or (local / "dataset_dict.json").is_file():
        return load_saved_split(local, split, key)
    if local.is_dir():
        return load_dataset(str(local), **configuration_args(local, name), split=split)
    if local.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1:
        looked = f"looked in {local.absolute()}"
        raise UserError("no such file or folder", key=".path", value=path, hint=looked, code=DATA)
    return load_dataset(path, name, split=split)


def file_format(file: Path) -> str:
    if file.suffix not in FORMATS:
        message = "a file of this type cannot be read"
        raise UserError(message, key=".path", value=str(file), expected=FORMATS, code=DATA)
    return FORMATS[file.suffix]


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
