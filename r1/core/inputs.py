"""The content of all that a config only names: files, model folders, adapters' bases, models on the hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from glob import has_magic
from pathlib import Path
from typing import Any

from r1.core.content_hash import content_hashes, file_hash
from r1.core.errors import UserError
from r1.core.manifest import FILE as MANIFEST
from r1.core.model_paths import ADAPTER_CONFIG, adapter_base
from r1.core.paths import ASSETS, matching_files

# keys of r1's own nodes that name no input: servers, folders that are written, and the answers' store, which is by
# content itself
NO_INPUTS = ("store", "url", "folder", "endpoint")
OUTPUTS = ("cache_dir", "log_dir", "output_dir")  # keys of a user's node that name what it writes
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ("config.json", ADAPTER_CONFIG, "tokenizer_config.json")  # a model or tokenizer has one of them
SHA256, GIT_SHA1 = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{40}")
GLOB_KEY = re.compile(r"data\.(parts\.[^.]+\.)?(val_)?path(\.\d+)?")
MAX_NAME = 255  # bytes between two slashes of a path


def hash_inputs(config: Mapping[str, Any], covered: Sequence[str] = ()) -> dict[str, str]:
    """The sha256 of every file that a config names, by config key and name; of a model on the hub its commit.

    Args:
        covered: folders whose content counts by other means.
    """
    hashes: dict[str, str] = {}
    for key, text in _named_inputs(config):
        path = _local_path(text)
        if any(path.absolute().is_relative_to(folder) for folder in covered):
            continue
        if (path / MANIFEST).is_file():  # an old or unfinished record, of which one folder is read
            path = path / ("traces" if key.startswith("data.") else "model")
        if names_path(key) and not key.startswith("data."):
            digests = _model_hashes(str(path))
        elif GLOB_KEY.fullmatch(key) and has_magic(text) and not path.exists():
            digests = {str(file): file_hash(file) for file in matching_files(text)}
        else:
            digests = content_hashes(path) if path.is_file() or "/" in text or names_path(key) else {}
        hashes |= {f"{key}/{name}": digest for name, digest in digests.items()}
    return hashes


def may_name_file(text: str) -> bool:
    """Whether a text can be a path; a question or a template, with its long lines, cannot."""
    parts = text.split("/")
    is_short = all(len(part.encode(errors="replace")) <= MAX_NAME for part in parts) and len(parts) <= MAX_NAME
    return "\0" not in text and is_short


def _named_inputs(node: Any, key: str = "", is_own: bool = True) -> Iterator[tuple[str, str]]:
    """(key, text) of all values that may name a file.

    Args:
        is_own: the value is an option of r1's own code, and not of an extension.
    """
    if isinstance(node, dict):
        is_own = str(node.get("_target_", "r1." if is_own else "")).startswith("r1.")
        skipped = ("_target_", *(NO_INPUTS if is_own else OUTPUTS))
        for name, part in node.items():
            if name not in skipped:
                yield from _named_inputs(part, f"{key}.{name}" if key else str(name), is_own)
    elif isinstance(node, list):
        for i, part in enumerate(node):
            yield from _named_inputs(part, f"{key}.{i}", is_own)
    elif isinstance(node, str) and may_name_file(node) and (names_path(key) or any(map(str.isalnum, node))):
        yield key, node


def names_path(key: str) -> bool:
    """Whether a config key holds the path of a file, a folder or a run, or the name of a model."""
    name = key.rpartition(".")[2]
    return name in ("path", "tokenizer", "chat_template", "resume_from") or name.endswith("_path")


def _local_path(text: str) -> Path:
    return ASSETS / text.removeprefix("r1:") if text.startswith("r1:") else Path(text).expanduser()


def _model_hashes(name: str, adapters: tuple[Path, ...] = ()) -> dict[str, str]:
    """The content of a model's folder, or of one on the hub, and of the base that it adapts; empty: there is none.

    Args:
        adapters: of which it is the base.
    """
    path = _local_path(name)
    snapshot = None if path.exists() else _hub_snapshot(name)
    hashes = _snapshot_hashes(snapshot) if snapshot else content_hashes(path)
    folder = snapshot or path
    if folder not in adapters and (folder / ADAPTER_CONFIG).is_file():
        with suppress(UserError):  # it names no base: one key of the config does, or the model is refused
            base = _model_hashes(adapter_base(folder, name), (*adapters, folder))
            hashes |= {f"base/{file}": digest for file, digest in base.items()}
    return hashes


@cache
def _hub_snapshot(name: str) -> Path | None:
    """The local copy of a model on the hub, of which one small file is downloaded if need be; None: there is none."""
    if not HUB_ID.fullmatch(name):
        return None
    from huggingface_hub import hf_hub_download  # slow to import

    for file in HUB_FILES:
        with suppress(OSError, ValueError):
            return Path(hf_hub_download(name, file)).parent  # .../snapshots/COMMIT
    return None


def _snapshot_hashes(snapshot: Path) -> dict[str, str]:
    """The commit of a local copy, which may grow by further files, and those of its files that are not the commit's."""
    changed = {name: digest for name, digest in content_hashes(snapshot).items() if not _is_original(snapshot / name)}
    return {"commit": snapshot.name} | changed


def _is_original(file: Path) -> bool:
    """Whether a file of the hub's cache has the content by which it is named: a sha256, of small files git's sha1."""
    name = file.resolve().name
    if SHA256.fullmatch(name):
        return file_hash(file) == name
    if not GIT_SHA1.fullmatch(name):
        return False
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == name
