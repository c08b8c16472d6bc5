"""Builds the lightning.Trainer; its keyword-only parameters are the keys of ``trainer`` in the config."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import lightning as L
from annotated_types import Ge, Gt
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler

from r1.core.rank_info import RankInfo
from r1.model.loading import Precision
from r1.strategy.base import Strategy, resolve_precision
from r1.train.lightning_adapter import disable_signal_handlers

PROFILERS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}


def trainer(
    loggers: Sequence[Logger],
    callbacks: Sequence[Callback],
    num_micro_batches: int,
    validate_every: int,
    root: Path,
    info: RankInfo,
    num_steps: int,
    *,
    max_steps: Annotated[int, Ge(1)] | None,  # noqa: ARG001 - read as num_steps
    max_epochs: Annotated[float, Gt(0)] | None,  # noqa: ARG001 - read as num_steps
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"],
    devices: Annotated[int, Ge(1)],
    num_nodes: Annotated[int, Ge(1)],
    precision: Precision,
    timeout_s: Annotated[int, Ge(1)],
    strategy: Strategy,
    profiler: Literal["simple", "advanced", "pytorch"] | None,
    deterministic: bool | Literal["warn"],
) -> L.Trainer:
    """A Trainer without Lightning's own progress bar, checkpoints and sampler, which r1 replaces.

    Args:
        num_micro_batches: per optimizer step.
        validate_every: optimizer steps between two validations.
        root: the record's folder.
        num_steps: optimizer steps, from ``max_steps`` or ``max_epochs`` (``r1.core.budget.num_steps``).
    """
    lightning_trainer = L.Trainer(
        logger=list(loggers),
        callbacks=list(callbacks),
        accumulate_grad_batches=num_micro_batches,
        val_check_interval=validate_every * num_micro_batches,
        check_val_every_n_epoch=None,
        default_root_dir=root,
        max_steps=num_steps,
        max_epochs=-1,  # max_steps ends the run
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        precision=resolve_precision(precision, accelerator),
        strategy=strategy.lightning(timedelta(seconds=timeout_s)),
        plugins=[RankEnvironment(info)],
        profiler=PROFILERS[profiler](dirpath=root, filename="profile") if profiler else None,
        deterministic=deterministic,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        inference_mode=False,  # FSDP2 gathers weights in place, which fails for inference tensors on a GPU
    )
    disable_signal_handlers(lightning_trainer)
    return lightning_trainer


class RankEnvironment(LightningEnvironment):
    """Gives r1's rank numbers to Lightning, which then starts no processes itself."""

    creates_processes_externally = True  # type: ignore[assignment]

    def __init__(self, info: RankInfo) -> None:
        super().__init__()
        self.info = info

    def world_size(self) -> int:
        return self.info.size

    def global_rank(self) -> int:
        return self.info.rank

    def local_rank(self) -> int:
        return self.info.local_rank

    def node_rank(self) -> int:
        return self.info.node
