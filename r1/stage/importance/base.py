"""The interface of importance corrections, and the bounds that they share."""

from __future__ import annotations

from typing import Annotated, Protocol

from annotated_types import Ge, Interval
from torch import Tensor

Low = Annotated[float, Interval(gt=0, le=1)]
High = Annotated[float, Ge(1)]


class ImportanceCorrection(Protocol):
    """``f(log_ratio)``: log pi_trainer / pi_engine of the weights that sampled, to the weights of the tokens.

    ``log_ratio`` is (B, T), 0 behind a completion's end; the weights are (B, T), or (B, 1) where a completion has one.
    """

    def __call__(self, log_ratio: Tensor) -> Tensor: ...


def zero_outside(ratio: Tensor, low: float | None, high: float | None) -> Tensor:
    """The ratio where it lies in [low, high], else 0; a bound that is None does not bound."""
    is_outside = (ratio < (low or 0.0)) | (ratio > (float("inf") if high is None else high))
    return ratio.masked_fill(is_outside, 0.0)
