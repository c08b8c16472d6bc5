"""The rank of this process, read from its launcher's environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

LAUNCHERS = (  # rank, number of ranks, rank on this machine, this machine: r1's own and torchrun; srun
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID"),
)


@dataclass(frozen=True)
class RankInfo:
    """Where a process stands among those of its run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    node: int = 0


def rank_info_from_env() -> RankInfo | None:
    """Where a launcher has put this process; None: it was started alone."""
    for names in LAUNCHERS:
        if all(name in os.environ for name in names[:3]):
            return RankInfo(*(int(os.environ.get(name, 0)) for name in names))
    return None
