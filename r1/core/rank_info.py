"""The rank of this process, read from its launcher's environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

LAUNCHERS = (  # the variables of each field of RankInfo: as r1 and torchrun set them; as srun does
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID"),
)


@dataclass(frozen=True)
class RankInfo:
    """The rank of a process, the number of ranks, its rank on its machine, and the machine's number."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    node: int = 0


def rank_info_from_env() -> RankInfo | None:
    """The rank that a launcher has given this process; None: no launcher started it."""
    for names in LAUNCHERS:
        if all(name in os.environ for name in names[:3]):
            return RankInfo(*(int(os.environ.get(name, 0)) for name in names))
    return None
