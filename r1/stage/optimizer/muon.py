"""Muon for the matrices inside of the model, AdamW for the rest (Jordan et al. 2024; Liu et al. 2025, Moonlight).

Muon makes the momentum's singular values equal (five Newton-Schulz iterations), so it needs whole matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval
from torch import nn, optim
from torch.optim import Optimizer

from r1.stage.optimizer.base import decay_groups


def muon(
    policy: nn.Module,
    lr: float,
    *,
    matrix_lr: Annotated[float, Gt(0)] | None,
    momentum: Annotated[float, Interval(ge=0, lt=1)],
    weight_decay: Annotated[float, Ge(0)],
    beta1: Annotated[float, Interval(ge=0, lt=1)],
    beta2: Annotated[float, Interval(ge=0, lt=1)],
) -> Optimizer:
    """PyTorch's Muon, and AdamW at the rate ``lr`` for embeddings, output layer, biases, norms and stacked experts.

    Args:
        matrix_lr: peak rate of the matrices, in AdamW's units: the update is scaled to AdamW's usual root mean square
            (Moonlight eq. 4), so AdamW's rates are a good start; None: ``lr``.
        momentum: of the matrices; Nesterov's.
    """
    ends = (policy.get_input_embeddings(), policy.get_output_embeddings())  # type: ignore[operator]  # of transformers
    outer = {id(p) for module in ends if module is not None for p in module.parameters()}
    matrices = [p for p in policy.parameters() if p.requires_grad and p.ndim == 2 and id(p) not in outer]
    inner = set(map(id, matrices))
    rest = decay_groups(p for p in policy.parameters() if id(p) not in inner)
    parts: list[Optimizer] = []
    if matrices:
        scale: Any = {"adjust_lr_fn": "match_rms_adamw"}
        parts.append(optim.Muon(matrices, lr=matrix_lr or lr, momentum=momentum, weight_decay=weight_decay, **scale))
    if rest:
        parts.append(optim.AdamW(rest, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay, fused=True))
    return JointOptimizer(parts)


class JointOptimizer(Optimizer):
    """Several optimizers with one list of parameter groups and one state, for a schedule and a checkpoint."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)  # makes new groups and a new state
        self._share()

    def step(self, closure: Any = None) -> Any:
        result = closure() if closure else None
        for part in self.parts:
            part.step()
        return result
