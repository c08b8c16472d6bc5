"""The room that a run's checkpoints and models need, compared with the room on the disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from r1.config.check.schema import resolve
from r1.core.errors import STORAGE, UserError
from r1.core.rank_info import RankInfo, rank_info_from_env
from r1.core.types import Config
from r1.model.recipe import model_size, num_adapter_parameters
from r1.stage.optimizer.adamw import adamw
from r1.stage.optimizer.muon import muon
from r1.stage.optimizer.sgd import sgd

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of a weight
MOMENTS: dict[Any, int] = {adamw: 2, muon: 1, sgd: 1}  # float32 numbers per trained weight, at least
TOLERANCE = 0.8  # ``model_size`` is right to about 20 %


def disk_space(cfg: Config) -> None:
    """The disk of ``output_dir`` must have room for the run's checkpoints and models.

    Raises:
        UserError: it has less than ``TOLERANCE`` of the estimate.
    """
    if (rank_info_from_env() or RankInfo()).rank or not (needed := space_needed(cfg)):
        return
    folder = Path(cfg["output_dir"] or "outputs").absolute()
    disk = next(path for path in (folder, *folder.parents) if path.is_dir())
    earlier = folder.rglob("*") if cfg["output_dir"] and cfg["resume"] else ()  # of the run that is resumed
    free = shutil.disk_usage(disk).free + sum(path.stat().st_size for path in earlier if path.is_file())
    if free < TOLERANCE * needed:
        raise UserError(
            f"this run needs about {format_bytes(needed)} for its checkpoints and models,"
            f" and its disk has {format_bytes(free)}",
            key="output_dir",
            value=str(folder),
            hint="make room, take a folder on another disk, keep_checkpoints=1, keep_best=false, or a larger"
            " checkpoint_every",
            code=STORAGE,
        )


def space_needed(cfg: Config) -> int:
    """Bytes of a run's checkpoints, ``best/`` and ``model/`` at their peak; 0: nothing is trained, or size unknown."""
    size, stage, steps = model_size(cfg["model"]), cfg["stage"], cfg["trainer"]["max_steps"]
    if size is None or "optimizer" not in stage:
        return 0
    has_adapters = cfg["model"].get("lora") is not None
    weights = size * BYTES[cfg["model"]["dtype"]]
    exported = size * 4 if has_adapters else weights  # adapters are merged in float32
    trained = num_adapter_parameters(cfg["model"]) if has_adapters else size
    copies = 2 if stage.get("ref_sync_every") else 1  # of the trained weights: the policy's and the reference's
    checkpoint: int = trained * (copies * (4 if has_adapters else BYTES[cfg["model"]["dtype"]]) + 4 * _num_moments(cfg))
    keep = max(1, cfg["keep_checkpoints"])
    saved = keep + 1 if steps is None else -(-steps // cfg["checkpoint_every"])  # the end is one
    best: int = exported * cfg["keep_best"]
    in_training: int = min(saved, keep + 1) * checkpoint + best  # one is written before another is removed
    at_end: int = min(saved, keep) * checkpoint + best + exported
    return max(in_training, at_end)


def _num_moments(cfg: Config) -> int:
    node = cfg["stage"]["optimizer"]
    if node.get("momentum") == 0:
        return 0
    return MOMENTS.get(resolve(node["_target_"], "stage.optimizer", cfg["extensions"]), 0)


def format_bytes(count: float) -> str:
    """``5.1 GB``; ``12 MB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
