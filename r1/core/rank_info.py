"""The rank of this process, read from its launcher's environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

LAUNCHERS = (  # environment variables for the fields of RankInfo: of r1 and torchrun, of srun
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID"),
)


@dataclass(frozen=True)
class RankInfo:
    """The rank of a process in its run.

    Attributes:
        rank: 0 to ``size`` - 1.
        size: the number of ranks, on all machines.
        local_rank: the rank among those on this machine.
        node: the number of this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    node: int = 0


def rank_info_from_env() -> RankInfo | None:
    """The rank of this process, from its launcher's variables; None: no launcher has started it."""
    for names in LAUNCHERS:
        if all(name in os.environ for name in names[:3]):
            return RankInfo(*(int(os.environ.get(name, 0)) for name in names))
    return None
