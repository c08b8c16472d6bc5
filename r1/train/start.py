"""Start a run from its checked config: in this process, or as one process per device.

The processes receive the composed config, not the command line, so they cannot compose another one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from r1.core.rank_info import RankInfo, rank_info_from_env
from r1.core.types import Config
from r1.distributed.launcher import RankSupervisor, rank_environment, serve_tcp_store
from r1.train import fit
from r1.train.run_state import finalize_manifest

if TYPE_CHECKING:
    from r1.config.build import Experiment


def start(cfg: Config, experiment: Experiment, overrides: list[str], command: str) -> Path | None:
    """Run on all devices; returns the record's folder, or None on a rank other than 0."""
    info, size = rank_info_from_env() or RankInfo(), cfg["trainer"]["devices"]
    if info.size > 1 or size == 1:  # a launcher has started this process, or a single one is enough
        return fit.fit(cfg, experiment, overrides, command, info)
    folder = fit.resolve_output_dir(cfg).absolute()
    task = {"config": cfg, "overrides": overrides, "command": command, "folder": str(folder)}
    with serve_tcp_store() as (store, port):
        environments = [rank_environment(cfg, rank, port) for rank in range(size)]
        RankSupervisor(folder, store, finalize_manifest, cfg["trainer"]["timeout_s"]).run(
            json.dumps(task), environments
        )
    return folder
