"""The factor and the cap between the output layer and the logits, found without a look at the config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from loras import make_lora
from torch import Tensor
from transformers import PreTrainedModel

from r1.model.logit_scale import LogitScale, logit_scale

Make = Callable[..., PreTrainedModel]


@pytest.mark.parametrize(
    ("architecture", "fields", "expected"),
    [
        ("llama", {}, LogitScale()),
        ("granite", {"logits_scaling": 8.0}, LogitScale(0.125)),
        ("cohere", {"logit_scale": 0.3}, LogitScale(0.3)),
        ("gemma2", {"final_logit_softcapping": 7.0}, LogitScale(1.0, 7.0)),
        ("gemma2", {"final_logit_softcapping": None}, LogitScale()),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logit_scale_is_that_of_the_model(
    make_model: Make, architecture: str, fields: dict[str, Any], expected: LogitScale, dtype: torch.dtype
) -> None:
    model = make_model(architecture, **fields).to(dtype).train()
    found = logit_scale(model)
    assert found is not None
    assert found.factor == pytest.approx(expected.factor, rel=1e-6)
    assert found.cap == expected.cap
    assert model.training
    assert logit_scale(make_lora(target_modules="all-linear").wrap(model)) == found


def test_another_function_of_the_last_hidden_states_has_no_scale(make_model: Make) -> None:
    model = make_model("llama")
    model.lm_head.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    assert logit_scale(model) is None
    model = make_model("llama")
    model.register_forward_hook(lambda _, args, out: setattr(out, "logits", out.logits.relu()))
    assert logit_scale(model) is None


def test_apply_matches_hand_computation() -> None:
    products: Tensor = torch.tensor([-4.0, 0.5])
    assert LogitScale().apply(products) is products
    assert LogitScale(0.5).apply(products).tolist() == [-2.0, 0.25]
    assert LogitScale(0.5, 2.0).apply(products).tolist() == pytest.approx([-1.5231884, 0.24870601])
