"""Checkpoints of several files, one per device, as those of a single file hold them; and the other way round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def whole(folder: Path) -> dict[str, Any]:
    """A sharded checkpoint with all its weights in memory, as one device would have saved it."""
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    found: dict[str, Any] = {}
    _load_state_dict(found, FileSystemReader(folder), planner=_EmptyStateDictLoadPlanner(), no_dist=True)  # type: ignore[no-untyped-call]
    names = sorted(name for name in found if name.startswith("optimizer_"))
    rest: dict[str, Any] = torch.load(folder / "meta.pt", weights_only=True)
    return rest | {"state_dict": found["state_dict"], "optimizer_states": [numbered(found[name]) for name in names]}


def numbered(optimizer: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state by parameter name, as the optimizer itself keeps it: by place."""
    names = [name for group in optimizer["param_groups"] for name in group["params"]]
    places = {name: place for place, name in enumerate(names)}
    groups = [group | {"params": [places[name] for name in group["params"]]} for group in optimizer["param_groups"]]
    return {"state": {places[name]: state for name, state in optimizer["state"].items()}, "param_groups": groups}


def named(optimizer: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The same by name; ``names`` are those of the optimizer's parameters, in its order."""
    groups = [group | {"params": [names[place] for place in group["params"]]} for group in optimizer["param_groups"]]
    return {"state": {names[place]: state for place, state in optimizer["state"].items()}, "param_groups": groups}
