"""Parameters, gradients and optimizer state sharded over the devices (FSDP2, PyTorch's ``fully_shard``).

In training each layer is all-gathered before its forward and backward pass and freed afterwards. For rollouts all
layers are gathered once and stay until the rollouts are done: otherwise every decoded token would gather them again.
That costs the memory of one full copy of the weights per device, in addition to its shards, at a time when there are
neither gradients nor activations.
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
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import FSDPModule, fully_shard

from r1.core.rank_info import RankInfo, rank_info_from_env
from r1.distributed.sharding import ShardedPolicy
from r1.model.trained import load_trained, without_frozen
from r1.strategy import shards
from r1.strategy.base import Strategy
from r1.strategy.checkpoint_io import DirectCheckpointIO
from r1.strategy.shards import META, by_name

if TYPE_CHECKING:
    import lightning as L
    from transformers import PreTrainedModel


class Fsdp(Strategy):
    """One shard of everything per device; each layer is gathered on its own."""

    requires_adamw = True
    sharded = True

    def lightning(self, timeout: timedelta) -> FullyShard:
        return FullyShard((rank_info_from_env() or RankInfo()).size, timeout)


class FullModel(nn.Module):
    """The root module of the sharding. Every use of the policy is a function that is called through ``forward``.

    FSDP2 gathers the root's own parameters in its forward hooks, so code that uses only a part of the policy (its body,
    its head) must run inside of a forward pass of the root.
    """

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)


class FullyShard(ModelParallelStrategy, ShardedPolicy):
    """Lightning's strategy for FSDP2, which leaves ``fully_shard`` to its user.

    Args:
        num_devices: of the run.
    """

    def __init__(self, num_devices: int, timeout: timedelta) -> None:
        super().__init__(data_parallel_size=num_devices, tensor_parallel_size=1, timeout=timeout)
        self.root: FullModel | None = None
        self.checkpoint_group: Any = None  # a second process group: background writes do not mix with training's calls

    def setup(self, trainer: L.Trainer) -> None:
        if self.root is None:
            self._shard(self.lightning_module.policy)  # type: ignore[union-attr, arg-type]
        super().setup(trainer)

    def _shard(self, policy: PreTrainedModel) -> None:
        self.meta_policy = _without_weights(policy)  # for gather_policy
        policy.to(self.root_device)  # type: ignore[arg-type]  # transformers hides torch's signature
        mesh, layers = self.device_mesh["data_parallel"], policy._no_split_modules or []
        sharded: list[Any] = [module for module in policy.modules() if type(module).__name__ in layers]
        for layer in sharded:
            fully_shard(layer, mesh=mesh)
        self.root = FullModel(policy)
        fully_shard(self.root, mesh=mesh)
        # Prefetching is set explicitly: by default it follows the recorded order of forward passes, of which rollouts
        # and validations make a different number on each device.
        for before, module in pairwise([self.root, *sharded, self.root]):
            module.set_modules_to_backward_prefetch([before])  # type: ignore[operator]
        self.root(lambda: None)  # lazy initialization: the first call determines the root, and gathers its parameters
        self.root.reshard()  # type: ignore[operator]

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        assert self.root
        assert self.lightning_module
        with self.precision_plugin.train_step_context():
            return self.root(self.lightning_module.training_step, *args, **kwargs)

    @contextmanager
    def full_params(self) -> Iterator[None]:
        sharded = [module for module in self.root.modules() if isinstance(module, FSDPModule)] if self.root else []
        for module in sharded:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        try:
            yield
        finally:
            for module in sharded:
                module.set_reshard_after_forward(not isinstance(module, FullModel), recurse=False)
                module.reshard()

    def gather_policy(self) -> PreTrainedModel:
        assert self.lightning_module
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(self.lightning_module.policy, options=options)  # type: ignore[arg-type]
        model: PreTrainedModel = copy.deepcopy(self.meta_policy)
        if weights:
            _assign_weights(model, weights)
        return model

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Each rank writes its shards. An error is stored, not raised: the other ranks wait in the next collective."""
        io = self.checkpoint_io
        assert isinstance(io, DirectCheckpointIO)  # set by r1.train.checkpoint.Checkpoints
        if io.in_background:
            self.checkpoint_group = self.checkpoint_group or torch.distributed.new_group(backend="gloo")
            io.deferred_write = partial(self._write_shards, shards.copy_to_cpu(checkpoint), Path(filepath))
            return
        try:
            super().save_checkpoint(checkpoint, filepath, storage_options)
        except (OSError, CheckpointException) as error:
            io.error = OSError(str(error))

    def _write_shards(self, checkpoint: dict[str, Any], folder: Path) -> None:
        """Runs in a background thread."""
        folder.mkdir(exist_ok=True)
        state = {"state_dict": checkpoint.pop("state_dict")}
        state |= {f"optimizer_{i}": optimizer for i, optimizer in enumerate(checkpoint.pop("optimizer_states", []))}
        try:
            save(state, checkpoint_id=folder, process_group=self.checkpoint_group)
        except CheckpointException as error:
            raise OSError(str(error)) from None
        if self.global_rank == 0:
            torch.save(checkpoint, folder / META)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """A folder of shards, of any number of devices, or the single file of another strategy."""
        path = Path(checkpoint_path)
        return self._load_shards(path) if path.is_dir() else self._load_file(path)

    def _load_shards(self, folder: Path) -> dict[str, Any]:
        """As Lightning does, but without unpickling arbitrary objects."""
        assert self.model
        weights = {"state_dict": without_frozen(get_model_state_dict(self.model), self.model)}
        shards.load(weights, folder)
        load_trained(self.model, weights["state_dict"])
        for number, optimizer in enumerate(self.optimizers):
            state = {(name := f"optimizer_{number}"): get_optimizer_state_dict(self.model, optimizer)}
            shards.load(state, folder)
            options = StateDictOptions(cpu_offload=True)
            set_optimizer_state_dict(self.model, optimizer, state[name], options=options)
        meta: dict[str, Any] = torch.load(folder / META, weights_only=True)
        return meta

    def _load_file(self, file: Path) -> dict[str, Any]:
        assert self.model
        checkpoint: dict[str, Any] = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=options)
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimized = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
            set_optimizer_state_dict(self.model, optimizer, by_name(state, optimized), options=options)
        return checkpoint


def _without_weights(policy: PreTrainedModel) -> PreTrainedModel:
    """A copy with parameters on the meta device, tied ones tied; its buffers keep their values: some are not saved."""
    copied: Any = copy.deepcopy(policy)
    copies: dict[nn.Parameter, nn.Parameter] = {}
    for module in copied.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter not in copies:
                copies[parameter] = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
            module.register_parameter(name, copies[parameter])
    return copied  # type: ignore[no-any-return]


def _assign_weights(model: PreTrainedModel, weights: dict[str, Any]) -> None:
    """Replace parameters on the meta device; tied ones stay tied, in peft's copies, too, which transformers skips."""
    sources: dict[nn.Parameter, str] = {}
    names = {name: sources.setdefault(p, name) for name, p in model.named_parameters(remove_duplicate=False)}
    model.load_state_dict(weights, assign=True)
    for name, source in names.items():
        if name != source:
            module, _, last = name.rpartition(".")
            setattr(model.get_submodule(module), last, model.get_parameter(source))
