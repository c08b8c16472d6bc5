"""The files of a dataset, by split: of the Hub, of a local copy, or the user's own. Code beside the data is never run.

A path that exists is local: a ``save_to_disk`` folder, a folder in the Hub's layout, or a file. With ``*``, ``?`` or
``[`` it is a glob. Anything else is a dataset's name on the Hub.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import has_magic
from pathlib import Path
from typing import Any, NamedTuple

from r1.core.errors import DATA, UserError, as_yaml_null, suggest
from r1.core.paths import matching_files
from r1.data.files import FORMATS, format_of

log = logging.getLogger(__name__)
HUB = "hf://datasets/"
SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)*")


class SourceFile(NamedTuple):
    """A file with rows.

    Attributes:
        path: where it is; it begins with ``HUB`` before it is downloaded.
        name: in messages, and for its format.
    """

    path: str
    name: str


Splits = dict[str, list[SourceFile]]


def find_splits(path: str | Sequence[str], name: str | None, revision: str | None, key: str = ".path") -> Splits:
    """The files of each split. Files of the user's own are the split ``train``.

    Args:
        name: configuration of the dataset; None: it has one.
        revision: branch, tag or commit on the Hub; None: the newest.
        key: config key of the path, for errors.

    Raises:
        UserError: not reachable, or no such file, dataset, configuration or revision.
    """
    if not isinstance(path, str):
        return {"train": own_files(path, key)}
    local = Path(path).expanduser()
    if not local.is_dir() and (has_magic(path) or local.is_file() or format_of(path) in FORMATS):
        return {"train": own_files([path], key)}
    with translate_errors(path, name, revision, key):
        if (local / "dataset_dict.json").is_file():
            names = json.loads((local / "dataset_dict.json").read_bytes())["splits"]
            splits = {split: saved_files(local / split)[1] for split in names}
        elif (local / "state.json").is_file():
            splits = dict([saved_files(local)])
        elif local.is_dir():
            splits = folder_splits(local, name, str(local))
        elif local.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1:
            looked = f"looked in {local.absolute()}"
            raise UserError("no such file or folder", key=key, value=path, hint=looked, code=DATA)
        else:
            splits = hub_splits(path, name, revision)
    for files in splits.values():
        check_shards(files, key)
    return splits


def own_files(paths: Sequence[str], key: str) -> list[SourceFile]:
    """Files that are listed or match a glob, in that order; those of a glob in the order of their names."""
    listed = []
    for path in paths:
        if not (files := matching_files(path)):
            message, local = f"data file not found: {path}", Path(path).expanduser()
            hint = "a list holds files and globs; a part of a mixture is a folder or a name on the Hub"
            hint = hint if local.is_dir() else f"looked in {local.absolute()}"
            raise UserError(message, key=key, value=path, hint=hint, code=DATA)
        is_one = files == [Path(path).expanduser()]
        listed += [SourceFile(str(file), path if is_one else str(file)) for file in files]
    return listed


def saved_files(folder: Path) -> tuple[str, list[SourceFile]]:
    """The split and the files of what ``save_to_disk`` wrote; a dataset that lost its split's name counts as train."""
    state = json.loads((folder / "state.json").read_bytes())
    paths = [str(folder / file["filename"]) for file in state["_data_files"]]
    return state["_split"] or "train", [SourceFile(path, path) for path in paths]


def folder_splits(folder: Path, name: str | None, dataset: str) -> Splits:
    """The splits of a folder in the Hub's layout. ``dataset``: its name, for messages."""
    from datasets import load_dataset_builder

    arguments = {"path": str(folder), **configuration_args(folder, name, dataset)}
    splits = by_split(load_dataset_builder(**arguments).config.data_files)
    return splits or prepared_splits(**arguments)


def hub_splits(path: str, name: str | None, revision: str | None) -> Splits:
    """The splits of a dataset on the Hub; without a connection those of its local copy in the Hub's cache."""
    from datasets import load_dataset_builder

    try:
        builder = load_dataset_builder(path, name, revision=revision)
        return by_split(builder.config.data_files) or prepared_splits(path=path, name=name, revision=revision)
    except Exception as error:  # of a HTTP library without a common base class; all others are raised again
        if not is_outage(error):
            raise
        from huggingface_hub import snapshot_download

        with suppress(OSError, ValueError):
            copy = snapshot_download(path, repo_type="dataset", revision=revision, local_files_only=True)
            return folder_splits(Path(copy), name, path)
        raise


def by_split(data_files: Any) -> Splits:
    """The files that a builder of `datasets` has found; none if it found another format than ``FORMATS``."""
    splits = {str(split): [source_file(str(file)) for file in files] for split, files in (data_files or {}).items()}
    is_read = all(format_of(file.name) in FORMATS for files in splits.values() for file in files)
    return splits if is_read else {}


def source_file(url: str) -> SourceFile:
    """A file of a builder; the name of one on the Hub is without its commit."""
    return SourceFile(url, re.sub("@[^/]*", "", url.removeprefix(HUB), count=1) if url.startswith(HUB) else url)


def prepared_splits(**arguments: Any) -> Splits:
    """The Arrow files that `datasets` writes of a dataset in any other format that it reads."""
    from datasets import load_dataset

    prepared = load_dataset(**arguments).items()
    return {
        split: [SourceFile(file["filename"], f"{arguments['path']}[{split}].arrow") for file in dataset.cache_files]
        for split, dataset in prepared
    }


def download(files: Sequence[SourceFile], path: str, key: str) -> list[SourceFile]:
    """The files with those of the Hub in its local cache."""
    remote = [file.path for file in files if file.path.startswith(HUB)]
    if not remote:
        return list(files)
    from datasets import DownloadManager

    with translate_errors(path, None, None, key):
        local = dict(zip(remote, DownloadManager().download(remote), strict=True))
    return [file._replace(path=str(local.get(file.path, file.path))) for file in files]


def check_shards(files: Sequence[SourceFile], key: str) -> None:
    """Raises: UserError: of the files NAME-00000-of-00003 one is missing, as in a copy that was not finished."""
    there: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if match := SHARD.fullmatch(file.name):
            there.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (name, count), numbers in there.items():
        if missing := sorted({*range(count)} - numbers):
            message = f"{name}-*: file {missing[0]:05} of {count:05} is not there"
            raise UserError(message, key=key, value=name, hint="finish the copy, or list the files in path", code=DATA)


def configuration_args(folder: Path, name: str | None, dataset: str) -> dict[str, str]:
    """How to ask a folder for configuration ``name``: copies often lack the card that lists the names."""
    from datasets import get_dataset_config_names

    names = get_dataset_config_names(str(folder))
    if name is None or name in names:
        return {} if name is None else {"name": name}
    if (folder / name).is_dir():
        return {"data_dir": name}
    if names == ["default"]:
        log.info("%s has no configurations, so name=%s is not needed", dataset, name)
        return {}
    raise unknown_config(name, names)


@contextmanager
def translate_errors(path: str, name: str | None, revision: str | None, key: str) -> Iterator[None]:
    """Raise the errors of the datasets library as user errors."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub import constants

    page = f"{constants.ENDPOINT}/datasets/{path}"
    try:
        yield
    except UserError:
        raise
    except DatasetNotFoundError as error:
        if str(error).startswith("Revision "):
            message = "the dataset has no such revision on the Hugging Face Hub"
            branches = "a branch, a tag or a commit; null: the newest"
            raise UserError(message, key=".revision", value=revision, expected=branches, code=DATA) from error
        if is_gated(error):
            raise gated_error(path, key, page) from error
        raise UserError(
            "no such local path, and no such dataset on the Hugging Face Hub (or it needs `hf auth login`)",
            key=key,
            value=path,
            hint=f"looked in {Path(path).absolute()} and at {page}",
            code=DATA,
        ) from error
    except Exception as error:  # as above
        if is_outage(error):
            raise UserError(
                "cannot reach the Hugging Face Hub, and this dataset is not in the local cache",
                key=key,
                value=path,
                hint=f"set path to a local copy, or go online ({first_line(error)})",
                code=DATA,
            ) from error
        if is_gated(error):
            raise gated_error(path, key, page) from error
        if not isinstance(error, (DatasetsError, ValueError, KeyError, TypeError, OSError, RuntimeError)):
            raise
        text = str(error)
        if "BuilderConfig" in text or "Config name is missing" in text:
            raise unknown_config(name, re.findall(r"'([^']*)'", text[text.find("[") :].partition("]")[0])) from error
        raise UserError(f"cannot read the dataset: {first_line(error)}", key=key, value=path, code=DATA) from error


def is_outage(error: Exception) -> bool:
    """Whether the Hub is not reached, or fails itself: no network, a time-out, too many requests, an internal error."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # of the version that it uses

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, (ConnectionError, httpx.TransportError))


def is_gated(error: Exception) -> bool:
    from huggingface_hub.errors import GatedRepoError

    return isinstance(error, GatedRepoError) or "is a gated dataset" in str(error)


def gated_error(path: str, key: str, page: str) -> UserError:
    message = "the dataset is gated: the Hub gives it to accounts that were granted access"
    hint = f"ask for access at {page}, then `hf auth login` or HF_TOKEN"
    return UserError(message, key=key, value=path, hint=hint, code=DATA)


def unknown_config(name: str | None, names: list[str]) -> UserError:
    several = "the dataset has several configurations: choose one"
    message = f"the dataset has no configuration `{name}`" if name else several
    value = as_yaml_null(name)
    return UserError(message, key=".name", value=value, expected=names, hint=suggest(name or "", names), code=DATA)


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
