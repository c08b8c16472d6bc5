"""Linear layers in float32 on a CPU, multiplied by oneDNN.

torch multiplies float32 with MKL, which arranges the weight anew each time: with the few rows of decoding that takes as
long as the product. oneDNN, torch's library for the other types, takes a weight that was arranged once, as
``torch.compile`` does for a frozen layer, and is faster with many rows, too. Half precision and GPUs are left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Product = Callable[[Tensor], Tensor]
AddedProduct = Callable[[Tensor, Tensor], Tensor]
WORTH_A_CALL = 2**14  # weights; with fewer, MKL is there before oneDNN has begun
ARRANGED = range(2**17, 2**22)  # the same for some ten rows; and what is arranged is a copy


def product(weight: Tensor, bias: Tensor | None = None) -> Product:
    """For decoding: (B, K) states to (B, M), by a (M, K) weight that stays as it is."""
    if not by_onednn(weight, ARRANGED.start):
        return lambda states: F.linear(states, weight, bias)
    held, multiply = arranged(weight), torch.ops.mkldnn._linear_pointwise.default
    return lambda states: multiply(states, held, bias, "none", [], "")


def added(weight: Tensor) -> AddedProduct:
    """For decoding: (B, K) states and a (B, M) residual stream to the stream with the product added."""
    if not by_onednn(weight, ARRANGED.start):
        transposed: Tensor = weight.T
        return lambda states, residual: torch.addmm(residual, states, transposed)
    held, multiply = arranged(weight), torch.ops.mkldnn._linear_pointwise.binary
    return lambda states, residual: multiply(states, residual, held, None, "add")


def arranged(weight: Tensor) -> Tensor:
    """The weight as oneDNN likes it; a large one as it is, which costs a third more."""
    held: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight) if weight.numel() < ARRANGED.stop else weight
    return held


def by_onednn(weight: Tensor, least: int) -> bool:
    """Whether a weight of at least so many is multiplied here; one that is split over devices is not."""
    whole = type(weight) in (Tensor, nn.Parameter) and weight.numel() >= least
    plain = weight.dtype == torch.float32 and weight.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return whole and plain and torch.backends.mkldnn.is_available()


def multiplying(model: PreTrainedModel) -> AbstractContextManager[Any]:
    """Inside, the model's linear layers and their gradients are multiplied as the module says."""
    return _Multiplying() if model.dtype == torch.float32 and model.device.type == "cpu" else nullcontext()


class _Multiplying(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear and not kwargs and by_onednn(args[1], WORTH_A_CALL):
            apply: Any = _Linear.apply
            return apply(*args) if len(args) > 2 else apply(*args, None)
        return func(*args, **(kwargs or {}))


class _Linear(torch.autograd.Function):
    """states weight^T + bias; the weight's gradient is MKL's, since oneDNN would copy both of its factors."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(states, weight)
        made: Tensor = torch.ops.mkldnn._linear_pointwise.default(states, weight, bias, "none", [], "")
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (states, weight), (gradient,) = ctx.saved_tensors, gradients
        needs_states, needs_weight, needs_bias = ctx.needs_input_grad
        flat = gradient.flatten(0, -2)
        multiply = torch.ops.mkldnn._linear_pointwise.default
        to_states = multiply(gradient, weight.T, None, "none", [], "") if needs_states else None
        to_weight = flat.T @ states.flatten(0, -2) if needs_weight else None
        return to_states, to_weight, flat.sum(0) if needs_bias else None
