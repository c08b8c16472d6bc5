"""Linear layers for decoding in float32 on a CPU, by oneDNN with weights that are packed once.

torch multiplies float32 matrices with MKL, which repacks the weight at each call: with the few rows of a decoding step
that takes as long as the product. oneDNN, torch's library for the other types, accepts a weight that was packed before.
Half precision and GPUs keep torch's own kernels.

This is the one module that uses ``torch.ops.mkldnn``. Those operators are private: ``torch.compile`` calls them for
frozen linear layers. The signatures used here are those of torch 2.13; if a later torch changes them, a ``by_onednn``
that returns False restores ``F.linear`` everywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LinearFn = Callable[[Tensor], Tensor]  # (B, K) hidden states to (B, M)
LinearAddFn = Callable[[Tensor, Tensor], Tensor]  # (B, K) hidden states and a (B, M) residual to their (B, M) sum
MIN_ONEDNN_NUMEL = 2**17  # weights; below it the call overhead of oneDNN exceeds what packing saves
MAX_COPIED_NUMEL = 2**22  # weights; larger ones are not copied, which would double their memory


def linear_fn(weight: Tensor, bias: Tensor | None = None) -> LinearFn:
    """``F.linear`` with a fixed (M, K) weight."""
    if not by_onednn(weight):
        return lambda states: F.linear(states, weight, bias)
    packed, multiply = prepack(weight), torch.ops.mkldnn._linear_pointwise.default
    return lambda states: multiply(states, packed, bias, "none", [], "")


def linear_add_fn(weight: Tensor) -> LinearAddFn:
    """``residual + F.linear(states, weight)`` with a fixed (M, K) weight."""
    if not by_onednn(weight):
        transposed: Tensor = weight.T
        return lambda states, residual: torch.addmm(residual, states, transposed)
    packed, multiply = prepack(weight), torch.ops.mkldnn._linear_pointwise.binary
    return lambda states, residual: multiply(states, residual, packed, None, "add")


def prepack(weight: Tensor) -> Tensor:
    """A packed copy of the weight; a large weight itself, whose products then take a third longer."""
    if weight.numel() >= MAX_COPIED_NUMEL:
        return weight
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def by_onednn(weight: Tensor) -> bool:
    """Whether products with this weight go to oneDNN; a weight that is sharded over devices does not."""
    is_plain = type(weight) in (Tensor, nn.Parameter) and weight.numel() >= MIN_ONEDNN_NUMEL
    is_cpu_float32 = weight.dtype == torch.float32 and weight.device.type == "cpu"
    return is_plain and is_cpu_float32 and not torch.is_autocast_enabled("cpu") and torch.backends.mkldnn.is_available()
