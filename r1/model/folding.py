"""Adapters folded into the weights, for sampling: a token then takes the products of the model without adapters."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from r1.core.seeds import derive_seed
from r1.model.transformers_adapter import has_adapters, unwrap_peft

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def folded_adapters(model: PreTrainedModel, precision: torch.dtype | None = None) -> Iterator[PreTrainedModel]:
    """Inside, the transformers model with a plain layer in the place of each of peft's; without adapters the model.

    The folded weights take as much memory as the adapted ones, until the end. All other weights are the model's own.

    Args:
        precision: that products round the weights to; None: their own.
    """
    base = unwrap_peft(model)
    layers = dict(_peft_layers(base)) if has_adapters(model) else {}
    with (
        torch.no_grad(),
        torch.autocast(base.device.type, enabled=False),
    ):  # autocast would round the adapters' products
        plain = {name: _plain_layer(name, layer, precision) for name, layer in layers.items()}
    try:
        for name, layer in plain.items():
            base.set_submodule(name, layer)
        yield base
    finally:
        for name, layer in layers.items():
            base.set_submodule(name, layer)


def _peft_layers(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, layer) of all that peft has put around the model's own modules."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    for name, child in module.named_children():
        if isinstance(child, (BaseTunerLayer, ModulesToSaveWrapper)):
            yield prefix + name, child
        else:
            yield from _peft_layers(child, f"{prefix}{name}.")


def _plain_layer(name: str, layer: Any, precision: torch.dtype | None) -> nn.Module:
    """The model's own kind of layer, with the adapters in its weight; of ``modules_to_save`` the trained copy."""
    if hasattr(layer, "modules_to_save"):
        trained: nn.Module = layer.modules_to_save[layer.active_adapters[0]]
        return trained
    own = layer.get_base_layer()
    folded: dict[str, nn.Parameter] = {}
    for parameter, update in _updates(layer).items():
        weight = getattr(own, parameter)
        is_matrix = isinstance(own, nn.Linear)  # not embeddings, which autocast leaves in float32
        to = precision if precision and is_matrix else weight.dtype
        # it requires a gradient: of other weights autocast makes a new copy for every product
        folded[parameter] = nn.Parameter(_add_update(weight, update, to, f"{name}.{parameter}"))
    plain: Any = copy.copy(own)  # shallow, with a dict of its own: a tenth of the time of a deep copy
    plain._parameters = own._parameters | folded
    return plain  # type: ignore[no-any-return]


def _updates(layer: Any) -> dict[str, Tensor]:
    """The adapters' products, by the parameter that they belong to; experts have several, in nested layers."""
    from peft.tuners.lora.layer import ParamWrapper

    own, updates = layer.get_base_layer(), dict[str, Any]()
    while layer is not own:
        parameter = layer.parameter_name if isinstance(layer, ParamWrapper) else "weight"
        updates[parameter] = sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)
        layer = layer.base_layer
    return updates


def _add_update(weight: Tensor, update: Tensor, precision: torch.dtype, name: str) -> Tensor:
    """The sum. For products in bfloat16 it is rounded up or down with the odds of its distance to the two numbers.

    Rounded to the nearer one, most of a small update would be lost: all weights would stay as they are. ``name`` keys
    the draws.
    """
    if precision != torch.bfloat16:
        return (weight + update).to(weight.dtype)
    total = weight.to(precision).float() + update.float()
    generator = torch.Generator(weight.device).manual_seed(derive_seed("fold", name))
    # a float32 number's upper half is a bfloat16 number, the lower half its distance to the next one
    noise = torch.randint(2**16, total.shape, generator=generator, dtype=torch.int32, device=weight.device)
    return ((total.view(torch.int32) + noise) & -(2**16)).view(torch.float32).to(weight.dtype)
