"""Parameters, gradients and optimizer state sharded over the devices (FSDP2, PyTorch's ``fully_shard``).

A layer's weights are gathered when it is used and dropped behind it. To sample, all weights are gathered once and kept
until the rollouts are made: token by token would gather the model once per token. That takes the memory of one whole
copy of the weights, in their own precision, on every device and beside its shards, while nothing of a training step
(gradients, activations) is there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn

from r1.model.forward import unwrap_peft
from r1.strategy import shards
from r1.strategy.base import Strategy
from r1.strategy.shards import by_name

if TYPE_CHECKING:
    import lightning as L
    from transformers import PreTrainedModel


class Fsdp(Strategy):
    """One shard of everything per device; each layer is gathered on its own."""

    sharded = True

    def lightning(self, timeout: timedelta) -> FullyShard:
        return FullyShard(timeout)


class FullModel(nn.Module):
    """What the policy is called through: the root of the sharding, whatever part of the policy is used inside."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)


class FullyShard(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, which leaves the sharding itself to its user."""

    def __init__(self, timeout: timedelta) -> None:
        super().__init__(tensor_parallel_size=1, timeout=timeout)
        self.whole: FullModel | None = None
        self.beside: Any = None  # the processes once more, to write checkpoints in the background

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        if self.whole is None:
            self._shard(self.lightning_module.policy)  # type: ignore[union-attr, arg-type]
        super().setup(trainer)

    def _shard(self, policy: PreTrainedModel) -> None:
        from torch.distributed.fsdp import fully_shard

        self.empty = copy.deepcopy(policy).to("meta")  # type: ignore[arg-type]  # its shape alone, to export it by
        policy.to(self.root_device)  # type: ignore[arg-type]  # transformers hides torch's signature
        mesh, layers = self.device_mesh["data_parallel"], policy._no_split_modules or []
        sharded: list[Any] = [module for module in policy.modules() if type(module).__name__ in layers]
        for layer in sharded:
            fully_shard(layer, mesh=mesh)
        self.whole = FullModel(policy)
        fully_shard(self.whole, mesh=mesh)
        # said, not remembered from the forward passes: those of rollouts and validations are not as many on each device
        for before, module in pairwise([self.whole, *sharded, self.whole]):
            module.set_modules_to_backward_prefetch([before])  # type: ignore[operator]
        self.whole(lambda: None)  # the first call finds the root, and gathers what is its own
        self.whole.reshard()  # type: ignore[operator]

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        assert self.whole
        assert self.lightning_module
        with self.precision_plugin.train_step_context():
            return self.whole(self.lightning_module.training_step, *args, **kwargs)

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        """Inside, every device has all weights, and using them takes no communication."""
        from torch.distributed.fsdp import FSDPModule

        sharded = [module for module in self.whole.modules() if isinstance(module, FSDPModule)] if self.whole else []
        for module in sharded:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        try:
            yield
        finally:
            for module in sharded:
                module.set_reshard_after_forward(not isinstance(module, FullModel), recurse=False)
                module.reshard()

    def gathered(self) -> PreTrainedModel:
        """The policy as a model of its own, on the CPU, whole on the first process; every one must come here."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        assert self.lightning_module
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(self.lightning_module.policy, options=options)  # type: ignore[arg-type]
        model: PreTrainedModel = copy.deepcopy(self.empty)
        if weights:
            model.load_state_dict(weights, assign=True)
            unwrap_peft(model).tie_weights()  # type: ignore[no-untyped-call]
        return model

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Every process its shards; an error is kept, not raised, for the other processes wait behind it."""
        from torch.distributed.checkpoint.api import CheckpointException

        io: Any = self.checkpoint_io
        if io.in_background:
            self.beside = self.beside or torch.distributed.new_group(backend="gloo")
            io.write = partial(self._write_shards, io.copied(checkpoint), Path(filepath))
            return
        try:
            super().save_checkpoint(checkpoint, filepath, storage_options)
        except (OSError, CheckpointException) as error:
            io.error = OSError(str(error))

    def _write_shards(self, held: dict[str, Any], folder: Path) -> None:
        """In the background, where the processes tell each other nothing on the way that training takes."""
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.state_dict_saver import save

        folder.mkdir(exist_ok=True)
        state = {"state_dict": held.pop("state_dict")}
        state |= {f"optimizer_{i}": optimizer for i, optimizer in enumerate(held.pop("optimizer_states", []))}
        try:
            save(state, checkpoint_id=folder, process_group=self.beside)
        except CheckpointException as error:
            raise OSError(str(error)) from None
        if self.global_rank == 0:
            torch.save(held, folder / "meta.pt")

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Shards of however many devices, or the one file of another strategy."""
        path = Path(checkpoint_path)
        return self._load_shards(path) if path.is_dir() else self._load_whole(path)

    def _load_shards(self, folder: Path) -> dict[str, Any]:
        """As Lightning does it, which reads them in a way that can run code."""
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            get_model_state_dict,
            get_optimizer_state_dict,
            set_optimizer_state_dict,
        )

        assert self.model
        weights = {"state_dict": get_model_state_dict(self.model)}
        shards.load(weights, folder)
        self.model.load_state_dict(weights["state_dict"])
        for number, optimizer in enumerate(self.optimizers):
            state = {(name := f"optimizer_{number}"): get_optimizer_state_dict(self.model, optimizer)}
            shards.load(state, folder)
            options = StateDictOptions(cpu_offload=True)
            set_optimizer_state_dict(self.model, optimizer, state[name], options=options)
        held: dict[str, Any] = torch.load(folder / "meta.pt", weights_only=True)
        return held

    def _load_whole(self, file: Path) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            set_model_state_dict,
            set_optimizer_state_dict,
        )

        assert self.model
        held: dict[str, Any] = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, held.pop("state_dict"), options=options)
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for optimizer, state in zip(self.optimizers, held["optimizer_states"], strict=True):
            own = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
            set_optimizer_state_dict(self.model, optimizer, by_name(state, own), options=options)
        return held
