"""Gradients and optimizer state sharded over the devices, a whole copy of the weights on each (DeepSpeed's ZeRO 1, 2).

DeepSpeed's engine goes backward and steps; r1 says when, how gradients are normalised and where they are clipped. A
checkpoint is what one device would have saved, so any other strategy can go on from it.
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

from r1.strategy.base import Strategy
from r1.strategy.fsdp import FullModel

if TYPE_CHECKING:
    import lightning as L
    from torch.optim import Optimizer

MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps of each weight


class DeepSpeed(Strategy):
    """Args: stage: 1 shards the optimizer's state, 2 the gradients, too."""

    float32 = True  # the weights of half precision have masters, which no checkpoint of the others holds
    package = "deepspeed"

    def __init__(self, *, stage: Annotated[int, Interval(ge=1, le=2)]) -> None:
        self.stage = stage

    def lightning(self, timeout: timedelta) -> Zero:
        return Zero(self.stage, timeout)


class Zero(DDPStrategy):
    """Lightning's own strategy for DeepSpeed takes CUDA alone, and leaves clipping and checkpoints to DeepSpeed."""

    engine: Any = None

    def __init__(self, stage: int, timeout: timedelta) -> None:
        super().__init__(timeout=timeout)
        self.stage = stage

    def configure_ddp(self) -> None:
        """Nothing: gradients are summed by DeepSpeed, which needs the optimizer first."""

    def setup(self, trainer: L.Trainer) -> None:
        super().setup(trainer)
        if trainer.state.fn == TrainerFn.FITTING:
            self._start()

    def _start(self) -> None:
        os.environ.setdefault("DS_ACCELERATOR", self.root_device.type)
        os.environ.setdefault("LOCAL_RANK", str(self.local_rank))
        warnings.filterwarnings("ignore", message="`torch.distributed.all_gather_into_tensor`", category=FutureWarning)
        import deepspeed

        config = {
            "train_micro_batch_size_per_gpu": 1,  # r1's loss has its normaliser already
            "zero_optimization": {"stage": self.stage, "overlap_comm": False, "contiguous_gradients": False},
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": 1.0,  # set at every step
        }
        policy: Any = self.lightning_module.policy  # type: ignore[union-attr]
        with redirect_stdout(sys.stderr):  # it prints
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
        """A micro-batch with others behind it."""
        self.engine.set_gradient_accumulation_boundary(False)
        try:
            yield
            self.engine.step()  # counts it
        finally:
            self.engine.set_gradient_accumulation_boundary(True)

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        result = closure()
        self.lightning_module.configure_gradient_clipping(optimizer)  # type: ignore[union-attr]
        self.engine.step()
        return result

    def clip_grad_norm(self, limit: float) -> Tensor:
        """The norm of the gradient, infinite where it is not finite; the step to come is clipped to ``limit``."""
        norm: Tensor = self.engine.optimizer.scaled_global_norm()
        self.engine.optimizer.clip_grad = limit
        return norm

    # ---- checkpoints: as AdamW keeps its state without shards ----

    def _groups(self) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """This device's flat part of each group of weights, and the weights themselves."""
        zero = self.engine.optimizer
        return zip(zero.single_partition_of_fp32_groups, zero.bit16_groups, strict=True)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Whole on the first process, which saves it."""
        adamw = self.engine.optimizer.optimizer
        states: dict[int, dict[str, Tensor]] = {}
        groups = []
        for (flat, weights), knobs in zip(self._groups(), adamw.state_dict()["param_groups"], strict=True):
            groups.append(knobs | {"params": list(range(len(states), len(states) + len(weights)))})
            whole = {name: self._gathered(adamw.state[flat][name]) for name in MOMENTS}
            ends = list(accumulate(weight.numel() for weight in weights))
            for weight, end in zip(weights, ends, strict=True) if self.global_rank == 0 else ():
                part = slice(end - weight.numel(), end)
                moments = {name: value[part].view_as(weight).clone() for name, value in whole.items()}
                states[len(states)] = {"step": adamw.state[flat]["step"].cpu().clone(), **moments}
        return {"state": states, "param_groups": groups}

    def _gathered(self, part: Tensor) -> Tensor:
        """(n,) in the first process's own memory: it need not fit on a device."""
        mine = part.cpu()
        if self.world_size == 1:
            return mine
        parts = [torch.empty_like(mine) for _ in range(self.world_size)] if self.global_rank == 0 else None
        torch.distributed.gather(mine, parts)
        return torch.cat(parts) if parts else mine

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        (held,) = checkpoint["optimizer_states"]
        adamw = self.engine.optimizer.optimizer
        for (flat, _), own, saved in zip(self._groups(), adamw.param_groups, held["param_groups"], strict=True):
            own |= {name: value for name, value in saved.items() if name != "params"}
            states = [held["state"][number] for number in saved["params"]]
            start = self.global_rank * flat.numel()
            for name in MOMENTS:
                whole = torch.cat([state[name].flatten() for state in states])
                mine = whole[start : start + flat.numel()]
                adamw.state[flat][name] = torch.nn.functional.pad(mine, (0, flat.numel() - mine.numel())).to(flat)
            adamw.state[flat]["step"] = states[0]["step"].clone()
