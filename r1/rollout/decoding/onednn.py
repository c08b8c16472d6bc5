"""The products of decoding in float32 on a CPU: by oneDNN, with weights that are arranged once.

torch multiplies float32 with MKL, which arranges the weight anew each time: with the few rows of decoding that takes as
long as the product. oneDNN, torch's library for the other types, takes a weight that was arranged before, as
``torch.compile`` does for a frozen layer. Half precision and GPUs are left alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Product = Callable[[Tensor], Tensor]
AddedProduct = Callable[[Tensor, Tensor], Tensor]
MIN_ONEDNN_NUMEL = 2**17  # weights; with fewer, MKL is there before oneDNN has begun
COPIED_BELOW = 2**22  # weights; of larger ones no second copy is made


def linear_fn(weight: Tensor, bias: Tensor | None = None) -> Product:
    """(B, K) states to (B, M), by a (M, K) weight that stays as it is."""
    if not by_onednn(weight):
        return lambda states: F.linear(states, weight, bias)
    held, multiply = prepack(weight), torch.ops.mkldnn._linear_pointwise.default
    return lambda states: multiply(states, held, bias, "none", [], "")


def linear_add_fn(weight: Tensor) -> AddedProduct:
    """(B, K) states and a (B, M) residual stream to the stream with the product added."""
    if not by_onednn(weight):
        transposed: Tensor = weight.T
        return lambda states, residual: torch.addmm(residual, states, transposed)
    held, multiply = prepack(weight), torch.ops.mkldnn._linear_pointwise.binary
    return lambda states, residual: multiply(states, residual, held, None, "add")


def prepack(weight: Tensor) -> Tensor:
    """The weight as oneDNN likes it; a large one as it is, which costs a third more."""
    held: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight) if weight.numel() < COPIED_BELOW else weight
    return held


def by_onednn(weight: Tensor) -> bool:
    """Whether this weight is multiplied here; one that is split over devices is not."""
    whole = type(weight) in (Tensor, nn.Parameter) and weight.numel() >= MIN_ONEDNN_NUMEL
    plain = weight.dtype == torch.float32 and weight.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return whole and plain and torch.backends.mkldnn.is_available()
