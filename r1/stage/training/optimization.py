"""The knobs that every training stage has, the learning rate's schedule, and gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal, TypedDict

import torch
from annotated_types import Ge, Gt, Interval

from r1.distributed.sharding import ShardedGradient
from r1.stage.optimizer.base import OptimizerFactory


class Optimization(TypedDict):
    """The knobs that every training stage has (conf/stage/_base.yaml)."""

    optimizer: OptimizerFactory
    lr: Annotated[float, Gt(0)]
    warmup_steps: Annotated[int, Ge(0)]
    schedule: Literal["constant", "linear", "cosine", "wsd"]
    min_lr: Annotated[float, Interval(ge=0, lt=1)]
    decay_steps: Annotated[int, Ge(1)] | None
    max_grad_norm: Annotated[float, Gt(0)] | None
    examples_per_step: Annotated[int, Ge(1)]
    micro_batch_size: Annotated[int, Ge(1)] | None
    micro_batch_tokens: Annotated[int, Ge(1)] | None
    packing: bool


def clip_grad_norm(strategy: object, policy: torch.nn.Module, max_norm: float | None) -> torch.Tensor:
    """Scale the gradient down to ``max_norm`` (None: never); returns its norm before that, over all shards."""
    from torch.distributed.tensor import DTensor

    max_norm = max_norm or math.inf
    if isinstance(strategy, ShardedGradient):
        return strategy.clip_grad_norm(max_norm)
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def lr_factor(knobs: Optimization, step: int, num_steps: int) -> float:
    """Fraction of the peak learning rate at ``step``: linear warm-up, then the schedule from 1 down to ``min_lr``.

    ``wsd`` (warm-up, stable, decay; Hu et al. 2024, MiniCPM) stays at 1 until the last ``decay_steps``.
    """
    warmup, lowest = knobs["warmup_steps"], knobs["min_lr"]
    if step < warmup:
        return (step + 1) / (warmup + 1)
    first = warmup if knobs["decay_steps"] is None else max(warmup, num_steps - knobs["decay_steps"])
    progress = min(max(step - first, 0) / max(num_steps - first, 1), 1.0)
    shapes = {"constant": 1.0, "cosine": (1 + math.cos(math.pi * progress)) / 2}
    return lowest + (1 - lowest) * shapes.get(knobs["schedule"], 1 - progress)


def schedule_notes(knobs: Optimization, num_steps: int) -> Iterator[str]:
    """The parts of the schedule that ``num_steps`` optimizer steps have no room for."""
    warmup, decay = knobs["warmup_steps"], knobs["decay_steps"] or 0
    if warmup >= num_steps:
        yield f"note: stage.warmup_steps={warmup}, and the run has {num_steps} steps: the rate never reaches stage.lr"
    elif decay > num_steps - warmup:
        yield f"note: stage.decay_steps={decay}, and {num_steps - warmup} steps follow the warm-up: all of them decay"
