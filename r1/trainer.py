"""The one place where a lightning.Trainer is made; its keyword-only parameters are what ``trainer.*`` may hold."""

from __future__ import annotations

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
    precision: Literal["32-true", "bf16-mixed", "bf16-true", "16-mixed"],
    strategy: Literal["auto", "ddp", "fsdp"],
    deterministic: bool,
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


def check_devices(accelerator: str, devices: int) -> None:
    """Raise a UserError if the machine has fewer devices of that kind than asked for."""
    import torch

    available = {"mps": int(torch.backends.mps.is_available())}.get(accelerator, torch.cuda.device_count())
    if (accelerator == "auto" and not available) or accelerator == "cpu":
        return  # a CPU run may start as many processes as it likes
    if devices > available:
        raise UserError(
            f"this machine has {available} device(s) of that kind",
            where="trainer.accelerator" if available == 0 else "trainer.devices",
            given=accelerator if available == 0 else devices,
            allowed=f"at most {available}" if available else "auto, cpu",
            do=f"trainer.devices={available}" if available else "trainer.accelerator=cpu",
        )
