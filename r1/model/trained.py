"""The weights that training changes, which alone a checkpoint holds, and a checksum of the frozen ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}  # by the bytes of a number


def without_frozen(state: Mapping[str, Any], module: nn.Module) -> dict[str, Any]:
    """A state dict of ``module`` without its frozen parameters, tied names included."""
    frozen = {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: value for name, value in state.items() if name not in frozen}


def with_frozen(state: dict[str, Any], module: nn.Module) -> dict[str, Any]:
    """The inverse: frozen parameters that ``state`` lacks are those that ``module`` has."""
    own = module.state_dict()
    return {name: own[name] for name in own.keys() - without_frozen(own, module).keys()} | state


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """The state dict without frozen parameters."""
    return without_frozen(module.state_dict(), module)


def load_trained(module: nn.Module, weights: dict[str, Any]) -> None:
    """Load what ``trained_weights`` has returned. Raises: RuntimeError: it is of another model."""
    module.load_state_dict(with_frozen(weights, module))


@torch.no_grad()
def frozen_checksum(module: nn.Module) -> int:
    """A sum over the bits of all frozen weights, exact in integers; 0 without any.

    It does not depend on the device, and the sums of a model's shards add up to that of the whole model.
    """
    frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
    return sum(number * _bit_sum(parameter) for number, parameter in enumerate(frozen, 1))


def _bit_sum(parameter: Any) -> int:
    """Of a tensor, or of this device's shard of it."""
    local: Tensor = (parameter.to_local() if hasattr(parameter, "to_local") else parameter).detach()
    return int(local.contiguous().view(INTEGERS[local.element_size()]).sum(dtype=torch.int64))
