"""The weights that a checkpoint holds, and the checksum of those that it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from loras import make_lora
from torch import nn
from transformers import PreTrainedModel

from r1.model.trained import frozen_checksum, load_trained, trained_weights, with_frozen, without_frozen

Make = Callable[..., PreTrainedModel]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of peft alone


def layers(*frozen: str, dtype: torch.dtype = torch.float32) -> nn.ModuleDict:
    """Two layers without bias, one of them frozen."""
    module = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 1, bias=False)}).to(dtype)
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters(), 1):
            parameter.fill_(number)
    for name in frozen:
        module[name].requires_grad_(False)
    return module


@pytest.mark.parametrize("tied", [False, True])
def test_trained_weights_of_adapters_have_no_weight_of_the_base(make_model: Make, tied: bool) -> None:
    policy: Any = make_lora(target_modules=["q_proj"]).wrap(make_model("llama", tie_word_embeddings=tied))
    names = trained_weights(policy).keys()
    assert len(names) == 2 * policy.config.num_hidden_layers
    assert all(".lora_" in name for name in names)


def test_load_trained_restores_the_trained_weights_alone() -> None:
    saved, other = trained_weights(layers("a")), layers("a")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(5)
    load_trained(other, saved)
    assert [float(p.flatten()[0]) for p in other.parameters()] == [6, 2]
    with pytest.raises(RuntimeError, match=r"Missing key.*b\.weight"):
        load_trained(other, {})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*c\.weight"):
        load_trained(other, saved | {"c.weight": torch.zeros(1)})


def test_with_frozen_is_the_inverse_of_without_frozen() -> None:
    module = layers("b")
    whole = module.state_dict()
    assert with_frozen(without_frozen(whole, module), module).keys() == whole.keys()
    assert without_frozen(whole, layers()) == whole


def test_frozen_checksum_sums_the_bits_of_frozen_weights() -> None:
    one, two = 0x3F800000, 0x40000000  # 1.0 and 2.0 in float32
    assert frozen_checksum(layers()) == 0
    assert frozen_checksum(layers("a")) == 4 * one
    assert frozen_checksum(layers("b")) == 2 * two
    assert frozen_checksum(layers("a", "b")) == 4 * one + 2 * (2 * two)
    assert frozen_checksum(layers("a", dtype=torch.bfloat16)) == 4 * 0x3F80


def test_frozen_checksum_differs_after_one_bit() -> None:
    module: Any = layers("a")
    before = frozen_checksum(module)
    with torch.no_grad():
        module["a"].weight.view(torch.int32)[1, 1] ^= 1
    assert abs(frozen_checksum(module) - before) == 1
