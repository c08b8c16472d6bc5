"""From the products of the output layer to the logits: some models scale them (Granite, Cohere) or cap them (Gemma 2).

Both are measured by showing the model outputs of that layer, whatever its config calls them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from r1.model.attention import soft_cap
from r1.model.transformers_adapter import body, output_layer, unwrap_peft

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SMALL, LARGE = 2.0**-17, 2.0**99  # outputs that show the factor, the bound; exact in every dtype
POINTS = (SMALL, LARGE, -3.0, 0.5, 40.0)

_scale_by_model: WeakKeyDictionary[Any, LogitScale | None] = WeakKeyDictionary()


@dataclass(frozen=True)
class LogitScale:
    """Logits are ``cap * tanh(factor * x / cap)`` of the products x; without a cap ``factor * x``."""

    factor: float = 1.0
    cap: float | None = None

    def apply(self, products: Tensor) -> Tensor:
        scaled = products if self.factor == 1 else products * self.factor
        return scaled if self.cap is None else soft_cap(scaled, self.cap)


def logit_scale(model: PreTrainedModel) -> LogitScale | None:
    """The model's; None: its logits are another function of its last hidden states."""
    model = unwrap_peft(model)
    if model not in _scale_by_model:
        _scale_by_model[model] = _measured(model)
    return _scale_by_model[model]


@torch.no_grad()
def _measured(model: PreTrainedModel) -> LogitScale | None:
    head, inputs = output_layer(model), []
    outputs = torch.zeros(1, 1, len(head.weight), dtype=torch.float64, device=head.weight.device)
    points = torch.tensor(POINTS, dtype=torch.float64, device=outputs.device)[: outputs.shape[2]]
    outputs[0, 0, : len(points)] = points

    def show(_: Any, args: tuple[Tensor, ...], __: Tensor) -> Tensor:
        inputs.append(args[0])
        return outputs

    token, was_training = torch.zeros(1, 1, dtype=torch.long, device=outputs.device), model.training
    model.eval()
    handle = head.register_forward_hook(show)
    try:
        logits = model(input_ids=token, use_cache=False).logits
        hidden_states = body(model)(input_ids=token, use_cache=False).last_hidden_state
    finally:
        handle.remove()
        model.train(was_training)
    if logits.shape != outputs.shape or not torch.allclose(inputs[0], hidden_states):
        return None
    shown = logits[0, 0, : len(points)].double()
    measured = LogitScale(float(f"{shown[0] / SMALL:.7g}"), None if shown[1] > 2.0**64 else float(shown[1]))
    return measured if torch.allclose(measured.apply(points), shown, rtol=1e-5) else None
