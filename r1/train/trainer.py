"""The one place where a lightning.Trainer is made; its keyword-only parameters are what ``trainer.*`` may hold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import lightning as L
from annotated_types import Ge
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from r1.core.rank_info import RankInfo
from r1.strategy.base import Strategy


def trainer(
    loggers: Sequence[Logger],
    callbacks: Sequence[Callback],
    num_micro_batches: int,
    validate_every: int,
    root: Path,
    place: RankInfo,
    *,
    max_steps: Annotated[int, Ge(1)],
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"],
    devices: Annotated[int, Ge(1)],
    num_nodes: Annotated[int, Ge(1)],
    precision: Literal["32-true", "bf16-mixed"],
    timeout_s: Annotated[int, Ge(1)],
    strategy: Strategy,
    deterministic: bool | Literal["warn"],
) -> L.Trainer:
    """A quiet Trainer: progress, records and checkpoints are r1's own callbacks."""
    made = L.Trainer(
        logger=list(loggers),
        callbacks=list(callbacks),
        accumulate_grad_batches=num_micro_batches,
        val_check_interval=validate_every * num_micro_batches,
        check_val_every_n_epoch=None,
        default_root_dir=root,
        max_steps=max_steps,
        max_epochs=-1,
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        precision=precision,
        strategy=strategy.lightning(timedelta(seconds=timeout_s)),
        plugins=[Environment(place)],
        deterministic=deterministic,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        inference_mode=False,  # FSDP2 gathers weights on a GPU in a way that its tensors do not allow
    )
    # Lightning's own handler of SIGTERM would make all ranks meet wherever the signal finds them; r1 has its own
    made._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return made


class Environment(LightningEnvironment):
    """Tells Lightning where this process stands; whoever started it, the processes are all there already."""

    creates_processes_externally = True  # type: ignore[assignment]

    def __init__(self, place: RankInfo) -> None:
        super().__init__()
        self.place = place

    def world_size(self) -> int:
        return self.place.size

    def global_rank(self) -> int:
        return self.place.rank

    def local_rank(self) -> int:
        return self.place.local_rank

    def node_rank(self) -> int:
        return self.place.node
