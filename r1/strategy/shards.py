"""Sharded checkpoints: read without running code, and converted to and from single-file checkpoints.

torch.distributed.checkpoint unpickles its index and everything that is not a tensor without restrictions. Here the
index may only contain the few types that it consists of, and the rest is loaded with ``weights_only``. This is the only
module that imports private names of torch.distributed.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as index
from torch.distributed.checkpoint._state_dict_stager import StateDictStager
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_state_dict

from r1.core.errors import STORAGE, UserError

META = "meta.pt"  # everything but weights and optimizer states, beside the shards
TYPES: tuple[type, ...] = (index.Metadata, index.MetadataIndex, index.StorageMeta)
TYPES += (index.TensorStorageMetadata, index.TensorProperties, index.ChunkStorageMetadata, index.BytesStorageMetadata)
TYPES += (index._MEM_FORMAT_ENCODING, _StorageInfo, torch.Size)
NAMES = {(kind.__module__, kind.__qualname__): kind for kind in TYPES} | {
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("pathlib", "PosixPath"): PurePath,  # the folder it was saved in, which is not used
    ("pathlib", "WindowsPath"): PurePath,
}


class SafeMetadataUnpickler(pickle.Unpickler):
    """Builds only the types of an index."""

    def find_class(self, module: str, name: str) -> Any:
        """Raise pickle.UnpicklingError for any other type."""
        if (module, name) in NAMES:
            return NAMES[module, name]
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a checkpoint")


class SafeFileSystemReader(FileSystemReader):
    """Reads the index with ``SafeMetadataUnpickler``.

    Raises:
        UserError: the index contains another type.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        file = folder / ".metadata"
        try:
            with file.open("rb") as source:
                self.index: index.Metadata = SafeMetadataUnpickler(source).load()
        except pickle.UnpicklingError as error:
            message = f"this checkpoint's index cannot be trusted: {error}"
            hint = "take a checkpoint that r1 has written"
            raise UserError(message, key="resume", value=str(file), hint=hint, code=STORAGE) from None

    def read_metadata(self, *args: Any, **kwargs: Any) -> index.Metadata:
        self.index.storage_meta = self.index.storage_meta or index.StorageMeta()
        self.index.storage_meta.load_id = self.load_id
        return self.index


class SafeLoadPlanner(DefaultLoadPlanner):
    """Loads the values that are not tensors with ``weights_only``."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        loaded, name = torch.load(value, weights_only=True), read_item.dest_index.fqn
        if self.flatten_state_dict:
            set_element(self.original_state_dict, self.mappings[name], loaded)
        else:
            self.state_dict[name] = loaded


class SafeFullLoadPlanner(SafeLoadPlanner, _EmptyStateDictLoadPlanner):
    """Loads everything that the checkpoint contains, into an empty dict."""


def load(state: dict[str, Any], folder: Path) -> None:
    """Fill a nested dict of sharded tensors and of plain values; a collective."""
    load_state_dict(state, storage_reader=SafeFileSystemReader(folder), planner=SafeLoadPlanner())


def consolidate(folder: Path) -> dict[str, Any]:
    """A sharded checkpoint as the single-file checkpoint of one device, all in memory."""
    state: dict[str, Any] = {}
    _load_state_dict(state, SafeFileSystemReader(folder), planner=SafeFullLoadPlanner(), no_dist=True)  # type: ignore[no-untyped-call]
    names = sorted(name for name in state if name.startswith("optimizer_"))
    meta: dict[str, Any] = torch.load(folder / META, weights_only=True)
    return meta | {"state_dict": state["state_dict"], "optimizer_states": [by_index(state[name]) for name in names]}


def copy_to_cpu(state: dict[str, Any]) -> dict[str, Any]:
    """A copy that training cannot change, with tensors in CPU memory."""
    copied: dict[str, Any] = StateDictStager().stage(state)
    return copied


def by_index(optimizer: dict[str, Any]) -> dict[str, Any]:
    """An optimizer state by parameter name, converted to the optimizer's own form: by parameter index."""
    names = [name for group in optimizer["param_groups"] for name in group["params"]]
    indices = {name: index for index, name in enumerate(names)}
    groups = [group | {"params": [indices[name] for name in group["params"]]} for group in optimizer["param_groups"]]
    return {"state": {indices[name]: state for name, state in optimizer["state"].items()}, "param_groups": groups}


def by_name(optimizer: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The inverse of ``by_index``; ``names`` are those of the optimizer's parameters, in its order."""
    groups = [group | {"params": [names[index] for index in group["params"]]} for group in optimizer["param_groups"]]
    return {"state": {names[index]: state for index, state in optimizer["state"].items()}, "param_groups": groups}
