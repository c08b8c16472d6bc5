"""The one place where a lightning.Trainer is made; its keyword-only parameters are what ``trainer.*`` may hold."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import lightning as L
from annotated_types import Ge
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from r1.errors import UserError


def trainer(
    loggers: Sequence[Logger],
    callbacks: Sequence[Callback],
    num_micro_batches: int,
    validate_every: int,
    root: Path,
    *,
    max_steps: Annotated[int, Ge(1)],
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"],
    devices: Annotated[int, Ge(1)],
    num_nodes: Annotated[int, Ge(1)],
    precision: Literal["32-true", "bf16-mixed"],
    strategy: Literal["auto", "ddp", "fsdp"],
    deterministic: bool | Literal["warn"],
) -> L.Trainer:
    """A quiet Trainer: progress, records and checkpoints are r1's own callbacks."""
    return L.Trainer(
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
        strategy=strategy,
        deterministic=deterministic,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    )


def check_devices(accelerator: str, devices: int, num_nodes: int, strategy: str) -> None:
    """Raise a UserError if this machine cannot do what is asked for: Lightning would change it silently, or hang."""
    import torch

    gpus = int(torch.backends.mps.is_available()) if accelerator == "mps" else torch.cuda.device_count()
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not gpus)
    if not on_cpu and devices > gpus:  # a CPU run may start as many processes as it likes
        raise UserError(
            f"this machine has {gpus} device(s) of that kind",
            where="trainer.devices" if gpus else "trainer.accelerator",
            given=devices if gpus else accelerator,
            allowed=f"at most {gpus}" if gpus else "auto, cpu",
            do=f"trainer.devices={gpus}" if gpus else "trainer.accelerator=cpu",
        )
    if on_cpu and strategy == "fsdp":
        what = "sharding (FSDP) needs a GPU, and this run is on the CPU"
        raise UserError(what, where="strategy", given=strategy, allowed="single, ddp", do="strategy=ddp")
    if num_nodes > 1 and not {"MASTER_ADDR", "SLURM_JOB_ID", "LSB_JOBID"} & os.environ.keys():
        raise UserError(
            "several machines need a launcher that tells each one its place",
            where="trainer.num_nodes",
            given=num_nodes,
            do="start it with torchrun or srun on every machine, or trainer.num_nodes=1",
        )
