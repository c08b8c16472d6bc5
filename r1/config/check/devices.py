"""Whether this machine and its launcher have the devices that a config names."""

from __future__ import annotations

from r1.core.errors import UserError
from r1.core.rank_info import place


def check_devices(accelerator: str, devices: int, num_nodes: int, several: bool) -> None:
    """Raise a UserError if this machine cannot do what is asked for: Lightning would change it silently, or hang.

    Args:
        several: the strategy takes more than one device.
    """
    if devices * num_nodes > 1 and not several:
        what = "this strategy is for one device"
        raise UserError(what, where="trainer.devices", given=devices, allowed="1", do="strategy=ddp")
    _check_machine(accelerator, devices)
    started = place()
    if started and started.size > 1 and started.size != devices * num_nodes:
        raise UserError(
            f"the launcher has started {started.size} processes, and the config asks for {devices * num_nodes}",
            where="trainer.devices",
            given=devices,
            allowed="trainer.devices x trainer.num_nodes processes, or a single one that starts the others itself",
            do="start as many as the config asks for",
        )
    if num_nodes > 1 and (started is None or started.size == 1):
        raise UserError(
            "several machines need a launcher that tells each one its place",
            where="trainer.num_nodes",
            given=num_nodes,
            do="start it with torchrun or srun on every machine, or trainer.num_nodes=1",
        )


def _check_machine(accelerator: str, devices: int) -> None:
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
