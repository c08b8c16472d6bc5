"""The router loss of mixture-of-experts models: it keeps the load of the experts even (Fedus et al. 2021, eq. 4 to 6).

transformers computes it in the model's forward where the config has ``output_router_logits``, and its trainer adds it
to the mean cost of a token with the weight ``router_aux_loss_coef``. r1 adds the mean over a step's micro-batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from r1.model.transformers_adapter import unwrap_peft

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def router_loss_weight(config: PretrainedConfig) -> float:
    """The weight of the router loss; 0: the config does not ask for one."""
    fields = vars(config.get_text_config())
    return float(fields.get("router_aux_loss_coef") or 0) if fields.get("output_router_logits") else 0.0


class RouterLoss:
    """Collects the router losses of a model's forward passes that have a gradient."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.weight, self.losses = router_loss_weight(model.config), list[Tensor]()
        if self.weight:
            unwrap_peft(model).register_forward_hook(self._collect)

    def _collect(self, _: Any, __: Any, output: Any) -> None:
        if torch.is_grad_enabled() and output.get("aux_loss") is not None:
            self.losses.append(output.aux_loss)

    def take(self) -> Tensor | float:
        """The weighted mean of the passes since the last call; 0 if there were none."""
        losses, self.losses = self.losses, []
        return self.weight * torch.stack(losses).mean() if losses else 0.0
