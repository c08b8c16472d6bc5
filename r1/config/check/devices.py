"""Whether this machine and its launcher have the devices of a config."""

from __future__ import annotations

from r1.core.errors import UserError
from r1.core.rank_info import rank_info_from_env


def check_devices(accelerator: str, devices: int, num_nodes: int, multi_device: bool) -> None:
    """Check that this machine and its launcher have the devices; Lightning would use others silently, or hang.

    Args:
        multi_device: the strategy supports more than one device.
    """
    if devices * num_nodes > 1 and not multi_device:
        message = "this strategy is for one device"
        raise UserError(message, key="trainer.devices", value=devices, expected="1", hint="strategy=ddp")
    _check_machine(accelerator, devices)
    started = rank_info_from_env()
    if started and started.size > 1 and started.size != devices * num_nodes:
        raise UserError(
            f"the launcher has started {started.size} processes, and the config asks for {devices * num_nodes}",
            key="trainer.devices",
            value=devices,
            expected="trainer.devices x trainer.num_nodes processes, or a single one that starts the others itself",
            hint="start as many as the config asks for",
        )
    if num_nodes > 1 and (started is None or started.size == 1):
        raise UserError(
            "several machines need a launcher that gives each one its rank",
            key="trainer.num_nodes",
            value=num_nodes,
            hint="start it with torchrun or srun on every machine, or trainer.num_nodes=1",
        )


def _check_machine(accelerator: str, devices: int) -> None:
    import torch

    gpus = int(torch.backends.mps.is_available()) if accelerator == "mps" else torch.cuda.device_count()
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not gpus)
    if not on_cpu and devices > gpus:  # a CPU run may start as many processes as it likes
        raise UserError(
            f"this machine has {gpus} device(s) of that kind",
            key="trainer.devices" if gpus else "trainer.accelerator",
            value=devices if gpus else accelerator,
            expected=f"at most {gpus}" if gpus else "auto, cpu",
            hint=f"trainer.devices={gpus}" if gpus else "trainer.accelerator=cpu",
        )
