"""Weights & Biases. A worker process next to the run reads the record and sends it to W&B.

Whatever W&B does (hangs, crashes, fills its disk) happens in that process, never in the run: the run waits for it only
at its end, for a limited time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt

from r1.core.provenance import flatten
from r1.core.secrets import redact
from r1.core.types import Config
from r1.logger.base import RunLogger
from r1.logger.wandb_run.job import WandbJob
from r1.logger.wandb_run.supervisor import WorkerSupervisor

OLD_MODES = {"dryrun": "offline", "run": "online"}  # as WANDB_MODE may still have them
USED_RUN_IDS: set[str] = set()  # that runs of this process have taken from WANDB_RUN_ID


class Wandb(RunLogger):
    """A W&B run whose config is this one, flattened to dotted leaves, and whose history is metrics.jsonl, row for row.

    Args:
        mode: ``auto`` is the value of WANDB_MODE; without it, online with an API key or under a sweep agent, else
            offline.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        *,
        project: str,
        entity: str | None,
        group: str | None,
        name: str | None,
        tags: list[str],
        mode: Literal["auto", "online", "offline", "disabled"],
        log_model: bool,
        start_timeout: Annotated[float, Gt(0)],
        finish_timeout: Annotated[float, Gt(0)],
    ) -> None:
        super().__init__()
        self._worker: WorkerSupervisor | None = None
        resolved_mode = mode_from_env() if mode == "auto" else mode
        if resolved_mode != "disabled":
            job = WandbJob(
                folder=str(folder),
                config=flatten(config),
                **redact({"project": project, "entity": entity, "group": group, "name": name, "tags": tags}),  # type: ignore[arg-type]
                mode=resolved_mode,
                log_model=log_model,
                run_id=take_run_id_from_env(),
                start_timeout=start_timeout,
                finish_timeout=finish_timeout,
            )
            self._worker = WorkerSupervisor(job)

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the worker process has the config."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Nothing to do: the worker process reads metrics.jsonl."""

    def close(self, exit_code: int, error: BaseException | None) -> None:
        if self._worker:
            self._worker.close(exit_code, error)


def mode_from_env() -> str:
    online = os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_SWEEP_ID")
    mode = os.environ.get("WANDB_MODE") or ("online" if online else "offline")
    return OLD_MODES.get(mode, mode)


def take_run_id_from_env() -> str | None:
    """The run id that a sweep agent (or the user) has set; None for every further run of this process."""
    run_id = os.environ.get("WANDB_RUN_ID")
    if run_id is None or run_id in USED_RUN_IDS:
        return None
    USED_RUN_IDS.add(run_id)
    return run_id
