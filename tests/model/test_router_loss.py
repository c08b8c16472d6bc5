"""Router losses against those of transformers' own loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from r1.model.forward import Forward
from r1.model.router_loss import RouterLoss
from r1.model.sequences import stack

PAIRS = [([5, 7, 2, 9], [11, 2, 13]), ([5, 7, 2, 9], [4, 4, 4, 4, 4]), ([30, 31], [90, 1])]
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True}


def gradient(model: PreTrainedModel, loss: torch.Tensor) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def test_router_loss_has_the_gradient_of_transformers_loss(make_model: Callable[..., PreTrainedModel]) -> None:
    model = make_model("mixtral", router_aux_loss_coef=0.5, **EXPERTS)
    router_loss, batch = RouterLoss(model), stack(PAIRS, 0)
    with torch.no_grad():
        Forward(packing=True, share_prompts=True)(model, batch, 1.0)  # rollouts and references do not count
    logps, _ = Forward(packing=True, share_prompts=True)(model, batch, 1.0)
    found = gradient(model, -logps.sum() / batch.num_tokens + router_loss.take())
    assert router_loss.take() == 0.0
    width = max(len(p) + len(c) for p, c in PAIRS)
    pads = [width - len(p) - len(c) for p, c in PAIRS]
    ids, labels, mask = (
        torch.tensor([f(p, c) + [fill] * pad for (p, c), pad in zip(PAIRS, pads, strict=True)])
        for f, fill in (
            (lambda p, c: p + c, 0),
            (lambda p, c: [-100] * len(p) + c, -100),
            (lambda p, c: [1] * len(p + c), 0),
        )
    )
    own = model(input_ids=ids, attention_mask=mask, labels=labels)
    torch.testing.assert_close(found, gradient(model, own.loss), atol=1e-6, rtol=1e-4)
    without = gradient(model, -Forward(True, True)(model, batch, 1.0)[0].sum() / batch.num_tokens)
    assert (found - without).norm() > 0.01 * found.norm()


@pytest.mark.parametrize("asks", [True, False])
def test_sft_adds_the_router_loss_where_the_config_asks(stage: Callable[..., Any], asks: bool) -> None:
    experts = [f"+model.config.{name}={value}" for name, value in (EXPERTS | {"output_router_logits": asks}).items()]
    made = stage("stage=sft", "model.config.model_type=mixtral", "+model.config.router_aux_loss_coef=0.5", *experts)
    (batch, *_) = made.micro_batches(0)
    loss = made.training_step(batch, 0)
    logps, _ = made.forward_logps(made.policy, batch)
    scaled = -logps.sum() / batch.step_tokens * made.plan.num_micro_batches
    # 4 experts, 2 of them per token: an even load has the loss 2
    assert (loss - scaled).item() == (pytest.approx(0.5 * 2, rel=0.3) if asks else pytest.approx(0, abs=1e-5))
