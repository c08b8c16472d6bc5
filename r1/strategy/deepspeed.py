"""Optimizer state and gradients sharded over the devices, a full copy of the weights on each (DeepSpeed's ZeRO 1, 2).

DeepSpeed's engine runs the backward pass and the optimizer step; r1 normalises and clips the gradient. A checkpoint is
the one that a single device would have saved, so any other strategy can resume from it.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Interval
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from r1.distributed.sharding import ShardedGradient
from r1.strategy.base import Strategy
from r1.strategy.fsdp import FullModel

if TYPE_CHECKING:
    import lightning as L
    from torch.optim import Optimizer

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's state of each weight


class DeepSpeed(Strategy):
    """Args: stage: 1 shards the optimizer state, 2 also the gradients."""

    requires_adamw = True
    requires_float32 = True  # half precision needs float32 master weights, which other strategies' checkpoints lack
    package = "deepspeed"

    def __init__(self, *, stage: Annotated[int, Interval(ge=1, le=2)]) -> None:
        self.stage = stage

    def lightning(self, timeout: timedelta) -> Zero:
        return Zero(self.stage, timeout)


class Zero(DDPStrategy, ShardedGradient):
    """Unlike Lightning's DeepSpeedStrategy: runs on CPUs, too, and leaves clipping and checkpoints to r1."""

    engine: Any = None

    def __init__(self, stage: int, timeout: timedelta) -> None:
        super().__init__(timeout=timeout)
        self.stage = stage

    def configure_ddp(self) -> None:
        """Nothing: DeepSpeed reduces the gradients, and wraps the model once there is an optimizer."""

    def setup(self, trainer: L.Trainer) -> None:
        super().setup(trainer)
        if trainer.state.fn == TrainerFn.FITTING:
            self._initialize_engine()

    def _initialize_engine(self) -> None:
        os.environ.setdefault("DS_ACCELERATOR", self.root_device.type)
        os.environ.setdefault("LOCAL_RANK", str(self.local_rank))
        warnings.filterwarnings("ignore", message="`torch.distributed.all_gather_into_tensor`", category=FutureWarning)
        import deepspeed

        config = {
            "train_micro_batch_size_per_gpu": 1,  # r1's loss is normalised already: DeepSpeed must not divide again
            "zero_optimization": {"stage": self.stage, "overlap_comm": False, "contiguous_gradients": False},
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": 1.0,  # clip_grad_norm sets it at every step
        }
        policy: Any = self.lightning_module.policy  # type: ignore[union-attr]
        with redirect_stdout(sys.stderr):  # stdout is for the record's folder
            self.engine, *_ = deepspeed.initialize(
                model=FullModel(policy), optimizer=self.optimizers[0], config=config, dist_init_required=False
            )

    # ---- a step ----

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        assert self.lightning_module
        return self.engine(self._loss, *args, **kwargs)

    def _loss(self, *args: Any, **kwargs: Any) -> Any:
        with self.precision_plugin.train_step_context():
            return self.lightning_module.training_step(*args, **kwargs)  # type: ignore[union-attr]

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        self.engine.backward(closure_loss)
        return closure_loss

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Around a micro-batch that is not the last of its optimizer step."""
        self.engine.set_gradient_accumulation_boundary(False)
        try:
            yield
            self.engine.step()  # not at a boundary: it only counts the micro-batch
        finally:
            self.engine.set_gradient_accumulation_boundary(True)

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        result = closure()
        self.lightning_module.configure_gradient_clipping(optimizer)  # type: ignore[union-attr]
        self.engine.step()
        return result

    def clip_grad_norm(self, max_norm: float) -> Tensor:
        norm: Tensor = self.engine.optimizer.scaled_global_norm()
        self.engine.optimizer.clip_grad = max_norm
        return norm

    # ---- checkpoints: in the form of an unsharded AdamW ----

    def _partitions(self) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """For each parameter group: this device's partition of the flattened weights, (n / devices,), and the weights.

        ZeRO concatenates the flattened weights of a group, pads them, and gives each device an equal slice.
        """
        zero = self.engine.optimizer
        return zip(zero.single_partition_of_fp32_groups, zero.bit16_groups, strict=True)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The full state on rank 0, which saves it; the others have no ``state``."""
        adamw = self.engine.optimizer.optimizer
        states: dict[int, dict[str, Tensor]] = {}
        groups = []
        for (partition, weights), options in zip(self._partitions(), adamw.state_dict()["param_groups"], strict=True):
            groups.append(options | {"params": list(range(len(states), len(states) + len(weights)))})
            flat = {name: self._gather(adamw.state[partition][name]) for name in MOMENTS}
            ends = list(accumulate(weight.numel() for weight in weights))
            for weight, end in zip(weights, ends, strict=True) if self.global_rank == 0 else ():
                span = slice(end - weight.numel(), end)
                moments = {name: value[span].view_as(weight).clone() for name, value in flat.items()}
                states[len(states)] = {"step": adamw.state[partition]["step"].cpu().clone(), **moments}
        return {"state": states, "param_groups": groups}

    def _gather(self, partition: Tensor) -> Tensor:
        """(n,) on rank 0, in CPU memory: it need not fit on a device."""
        local = partition.cpu()
        if self.world_size == 1:
            return local
        partitions = [torch.empty_like(local) for _ in range(self.world_size)] if self.global_rank == 0 else None
        torch.distributed.gather(local, partitions)
        return torch.cat(partitions) if partitions else local

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        (saved,) = checkpoint["optimizer_states"]
        adamw = self.engine.optimizer.optimizer
        groups = zip(self._partitions(), adamw.param_groups, saved["param_groups"], strict=True)
        for (partition, _), group, saved_group in groups:
            group |= {name: value for name, value in saved_group.items() if name != "params"}
            states = [saved["state"][index] for index in saved_group["params"]]
            size, start = partition.numel(), self.global_rank * partition.numel()
            for name in MOMENTS:
                local = torch.cat([state[name].flatten() for state in states])[start : start + size]
                adamw.state[partition][name] = torch.nn.functional.pad(local, (0, size - len(local))).to(partition)
            adamw.state[partition]["step"] = states[0]["step"].clone()
