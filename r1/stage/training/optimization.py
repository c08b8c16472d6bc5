"""AdamW and its learning rate: the knobs that every training stage has."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypedDict

import torch
from annotated_types import Ge, Gt, Interval

from r1.distributed.sharding import ShardedGradient


class Optimization(TypedDict):
    """The knobs that every training stage has (conf/stage/_base.yaml)."""

    lr: Annotated[float, Gt(0)]
    weight_decay: Annotated[float, Ge(0)]
    beta1: Annotated[float, Interval(ge=0, lt=1)]
    beta2: Annotated[float, Interval(ge=0, lt=1)]
    warmup_steps: Annotated[int, Ge(0)]
    schedule: Literal["constant", "linear", "cosine"]
    max_grad_norm: Annotated[float, Gt(0)] | None
    examples_per_step: Annotated[int, Ge(1)]
    micro_batch_size: Annotated[int, Ge(1)]
    packing: bool


def adamw(policy: torch.nn.Module, knobs: Optimization) -> torch.optim.AdamW:
    """The optimizer of the trainable parameters; biases and norms are not decayed."""
    parameters = [p for p in policy.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],  # adapters have no vectors
        lr=knobs["lr"],
        betas=(knobs["beta1"], knobs["beta2"]),
        weight_decay=knobs["weight_decay"],
        fused=True,
    )


def clip_grad_norm(strategy: object, policy: torch.nn.Module, max_norm: float | None) -> torch.Tensor:
    """Scale the gradient down to ``max_norm`` (None: never); returns its norm before that, over all shards."""
    from torch.distributed.tensor import DTensor

    max_norm = max_norm or math.inf
    if isinstance(strategy, ShardedGradient):
        return strategy.clip_grad_norm(max_norm)
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def lr_factor(knobs: Optimization, step: int, num_steps: int) -> float:
    """Fraction of the peak learning rate at ``step``: linear warm-up, then the schedule down to zero."""
    warmup = knobs["warmup_steps"]
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(num_steps - warmup, 1), 1.0)
    factors = {"constant": 1.0, "linear": 1.0 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
    return factors[knobs["schedule"]]
