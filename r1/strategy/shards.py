"""Checkpoints of several files, one per device, as those of a single file hold them; and the other way round.

torch.distributed.checkpoint writes its index with pickle, and reads it and whatever is no tensor without a guard. Here
neither can run code: the index is made of the few types that it consists of, the rest is loaded with ``weights_only``.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as index
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load as load_state_dict

from r1.core.errors import STORAGE, UserError

TYPES: tuple[type, ...] = (index.Metadata, index.MetadataIndex, index.StorageMeta)
TYPES += (index.TensorStorageMetadata, index.TensorProperties, index.ChunkStorageMetadata, index.BytesStorageMetadata)
TYPES += (index._MEM_FORMAT_ENCODING, _StorageInfo, torch.Size)
NAMES = {(kind.__module__, kind.__qualname__): kind for kind in TYPES} | {
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("pathlib", "PosixPath"): PurePath,  # where it was saved, which nothing reads
    ("pathlib", "WindowsPath"): PurePath,
}


class SafeMetadataUnpickler(pickle.Unpickler):
    """Builds nothing but what an index is made of."""

    def find_class(self, module: str, name: str) -> Any:
        """Raises: pickle.UnpicklingError: for any other name."""
        if (module, name) in NAMES:
            return NAMES[module, name]
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a checkpoint")


class SafeFileSystemReader(FileSystemReader):
    """Reads the index so.

    Raises:
        UserError: it holds something else.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        file = folder / ".metadata"
        try:
            with file.open("rb") as source:
                self.index: index.Metadata = SafeMetadataUnpickler(source).load()
        except pickle.UnpicklingError as error:
            message, hint = (
                f"this checkpoint's index cannot be trusted: {error}",
                "take a checkpoint that r1 has written",
            )
            raise UserError(message, key="resume", value=str(file), hint=hint, code=STORAGE) from None

    def read_metadata(self, *args: Any, **kwargs: Any) -> index.Metadata:
        self.index.storage_meta = self.index.storage_meta or index.StorageMeta()
        self.index.storage_meta.load_id = self.load_id
        return self.index


class Planner(DefaultLoadPlanner):
    """What is no tensor is made of plain containers and numbers."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        plain, name = torch.load(value, weights_only=True), read_item.dest_index.fqn
        if self.flatten_state_dict:
            set_element(self.original_state_dict, self.mappings[name], plain)
        else:
            self.state_dict[name] = plain


class WholePlanner(Planner, _EmptyStateDictLoadPlanner):
    """The same, for everything that there is."""


def load(state: dict[str, Any], folder: Path) -> None:
    """Fill a nested dict of this process's shards, and of plain values; every process must come here."""
    load_state_dict(state, storage_reader=SafeFileSystemReader(folder), planner=Planner())


def consolidate(folder: Path) -> dict[str, Any]:
    """A sharded checkpoint with all its weights in memory, as one device would have saved it."""
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    found: dict[str, Any] = {}
    _load_state_dict(found, SafeFileSystemReader(folder), planner=WholePlanner(), no_dist=True)  # type: ignore[no-untyped-call]
    names = sorted(name for name in found if name.startswith("optimizer_"))
    rest: dict[str, Any] = torch.load(folder / "meta.pt", weights_only=True)
    return rest | {"state_dict": found["state_dict"], "optimizer_states": [by_index(found[name]) for name in names]}


def by_index(optimizer: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state by parameter name, as the optimizer itself keeps it: by place."""
    names = [name for group in optimizer["param_groups"] for name in group["params"]]
    places = {name: place for place, name in enumerate(names)}
    groups = [group | {"params": [places[name] for name in group["params"]]} for group in optimizer["param_groups"]]
    return {"state": {places[name]: state for name, state in optimizer["state"].items()}, "param_groups": groups}


def by_name(optimizer: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The same by name; ``names`` are those of the optimizer's parameters, in its order."""
    groups = [group | {"params": [names[place] for place in group["params"]]} for group in optimizer["param_groups"]]
    return {"state": {names[place]: state for place, state in optimizer["state"].items()}, "param_groups": groups}
