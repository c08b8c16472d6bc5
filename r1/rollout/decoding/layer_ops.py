"""The parts of a layer as functions with few operations: norms, projections, MLPs.

At one token per row a small model spends more time between operations than in them. How a norm computes is found by
comparing it with the usual formulas; whatever is not recognised is called as it is.

Shapes: B rows, E size of the hidden states, M of the MLP's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r1.model.fused_logprobs import matmul_dtype
from r1.rollout.decoding.onednn import MAX_COPIED_NUMEL, LinearAddFn, LinearFn, linear_add_fn, linear_fn

UnaryFn = Callable[[Tensor], Tensor]
EPSILONS = ("variance_epsilon", "eps", "epsilon")  # names of a norm's epsilon
GATED_MLPS = (("gate_proj", "up_proj"), ("gate_up_proj",))
PLAIN_MLPS = (("up_proj", "down_proj"), ("c_fc", "c_proj"), ("fc1", "fc2"), ("dense_h_to_4h", "dense_4h_to_h"))
ACTIVATIONS = ("act_fn", "activation_fn", "act")


@dataclass(frozen=True)
class Norm:
    """A norm over the last dimension.

    Attributes:
        weight, epsilon: of an RMSNorm; None: another norm.
    """

    apply: UnaryFn
    weight: Tensor | None = None
    epsilon: float = 0.0


def rms_norm(weight: Tensor, epsilon: float) -> UnaryFn:
    """RMSNorm (Zhang and Sennrich 2019) over the last dimension, computed in float32."""
    if weight.is_cuda:  # one kernel; on a CPU it is slower than the operations below
        return lambda states: F.rms_norm(states, weight.shape, weight, epsilon)

    def norm(states: Tensor) -> Tensor:
        wide = states.float()
        scale = torch.linalg.vecdot(wide, wide).div_(wide.shape[-1]).add_(epsilon).rsqrt_()
        normed: Tensor = (wide * scale[..., None]).to(states.dtype).mul_(weight)
        return normed

    return norm


# of each class of norms whether it is an RMSNorm, and whether it multiplies by 1 + weight; None: neither formula
_kinds: dict[type[nn.Module], tuple[bool, bool] | None] = {}


def norm_of(module: Any) -> Norm:
    """The norm as a function, recognised by its results; once per class."""
    parameters = dict(module.named_parameters(recurse=False))
    weight, bias = parameters.get("weight"), parameters.get("bias")
    epsilon = next((vars(module)[name] for name in EPSILONS if name in vars(module)), None)
    if weight is None or weight.ndim != 1 or epsilon is None:
        return Norm(module)
    if type(module) not in _kinds:
        _kinds[type(module)] = _kind(module, weight, bias, epsilon)
    kind = _kinds[type(module)]
    return Norm(module) if kind is None else _norm(*kind, weight, bias, epsilon)


def _kind(module: nn.Module, weight: Tensor, bias: Tensor | None, epsilon: float) -> tuple[bool, bool] | None:
    states = torch.linspace(-1, 3, len(weight), dtype=weight.dtype, device=weight.device).sin()[None]
    expected, tolerance = module(states), 1e-5 if weight.dtype == torch.float32 else 0.03
    for is_rms, adds_one in ((True, False), (True, True), (False, False), (False, True)):
        measured = _norm(is_rms, adds_one, weight, bias, epsilon).apply(states)
        if torch.allclose(measured, expected, rtol=tolerance, atol=tolerance):
            return is_rms, adds_one
    return None


def _norm(is_rms: bool, adds_one: bool, weight: Tensor, bias: Tensor | None, epsilon: float) -> Norm:
    factor = weight + 1 if adds_one else weight
    if is_rms:
        return Norm(rms_norm(factor, epsilon), factor, epsilon)
    return Norm(lambda states: F.layer_norm(states, factor.shape, factor, bias, epsilon))


def _matrix(projection: Any) -> tuple[Tensor, Tensor | None] | None:
    """The (M, E) weight and the bias of a plain linear layer; None: another module, such as an adapter's."""
    from transformers.pytorch_utils import Conv1D

    if type(projection) is nn.Linear:  # not its subclasses: adapters, quantised layers
        return projection.weight, projection.bias
    return (projection.weight.T, projection.bias) if type(projection) is Conv1D else None


def _linear(projection: nn.Module) -> LinearFn:
    matrix = _matrix(projection)
    return projection if matrix is None else linear_fn(*matrix)


def norm_linear(norm: Norm | None, *projections: nn.Module) -> LinearFn:
    """A norm, then the outputs of several projections side by side.

    Small plain layers are concatenated into one weight. In float32 on a CPU an RMSNorm's weight and sqrt(E) go into it
    as well: W (w * x * sqrt(E) / sqrt(|x|^2 + E eps)) = (W w sqrt(E)) (x / sqrt(|x|^2 + E eps)).
    """
    linear = [matrix for p in projections if (matrix := _matrix(p))]
    biases = [bias for _, bias in linear if bias is not None]
    can_concatenate = len(linear) == len(projections) and len(biases) in (0, len(linear))
    apply = norm.apply if norm else None
    if not can_concatenate or sum(weight.numel() for weight, _ in linear) >= MAX_COPIED_NUMEL:
        parts = [_linear(p) for p in projections]
        return lambda states: _concat_outputs(apply(states) if apply else states, parts)
    weight = torch.cat([weight for weight, _ in linear])
    weight = weight.to(matmul_dtype(weight))  # autocast keeps its copies of parameters only
    bias = torch.cat(biases) if biases else None
    if apply is None:
        return linear_fn(weight, bias)
    if norm is None or norm.weight is None or weight.dtype != torch.float32 or weight.is_cuda:
        multiply = linear_fn(weight, bias)
        return lambda states: multiply(apply(states))
    size = weight.shape[1]
    multiply = linear_fn(weight * norm.weight * size**0.5, bias)
    scaled_epsilon = size * norm.epsilon
    return lambda states: multiply(states * _inverse_norm(states, scaled_epsilon))


def _inverse_norm(states: Tensor, epsilon: float) -> Tensor:
    """(B, 1) 1 / sqrt(|x|^2 + epsilon) of (B, E) states."""
    inverse: Tensor = torch.linalg.vecdot(states, states).add_(epsilon).rsqrt_()[:, None]
    return inverse


def _concat_outputs(states: Tensor, parts: Sequence[LinearFn]) -> Tensor:
    outputs = [part(states) for part in parts]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)


def linear_add(projection: nn.Module, norm: Norm | None, factor: float) -> LinearAddFn:
    """The projection's output, normed and scaled, added to the residual stream; in one product where that is the same.

    Under autocast it is not: the sum would be rounded to half precision, the residual stream with it.
    """
    if norm is None and factor == 1 and type(projection) is nn.Linear and projection.bias is None:
        weight = projection.weight
        if not torch.is_autocast_enabled(weight.device.type):
            return linear_add_fn(weight)
    return _add(_linear(projection), norm, factor)


def _add(function: Callable[[Tensor], Tensor], norm: Norm | None, factor: float) -> LinearAddFn:
    """residual + factor * norm(function(states))."""
    if norm is not None:
        apply = norm.apply
        return lambda states, residual: torch.add(residual, apply(function(states)), alpha=factor)
    return lambda states, residual: torch.add(residual, function(states), alpha=factor)


def mlp_add(mlp: nn.Module, norm: Norm | None, out_norm: Norm | None, factor: float) -> LinearAddFn:
    """The MLP of the (B, E) states, added to the residual stream; experts and whatever else is called as it is."""
    parts: dict[str, Any] = dict(mlp.named_children())
    activation = next((parts[name] for name in ACTIVATIONS if name in parts), None)
    gated = next((names for names in GATED_MLPS if {*names, "down_proj"} <= parts.keys()), None)
    plain = next((names for names in PLAIN_MLPS if set(names) <= parts.keys()), None)
    if activation is None or not (gated or plain):
        apply = norm.apply if norm else None
        return _add(lambda states: _called(mlp, apply(states) if apply else states), out_norm, factor)
    if gated:
        gate_up, down = norm_linear(norm, *(parts[name] for name in gated)), parts["down_proj"]
        add = linear_add(down, out_norm, factor)

        def gated_mlp(states: Tensor, residual: Tensor) -> Tensor:
            gate, up = gate_up(states).chunk(2, dim=1)
            return add(activation(gate) * up, residual)

        return gated_mlp
    assert plain is not None
    up_fn, add = norm_linear(norm, parts[plain[0]]), linear_add(parts[plain[1]], out_norm, factor)
    return lambda states, residual: add(activation(up_fn(states)), residual)


def _called(mlp: nn.Module, states: Tensor) -> Tensor:
    """A module for (B, L, E) states, which may give router logits besides."""
    out = mlp(states[:, None])
    hidden_states: Tensor = out[0] if isinstance(out, tuple) else out
    return hidden_states[:, 0]
