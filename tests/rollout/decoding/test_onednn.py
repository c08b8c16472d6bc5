"""Products by oneDNN: those of the ordinary layer, and only where that is what was asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from r1.rollout.decoding import layer_ops as lean
from r1.rollout.decoding import onednn as products
from r1.rollout.decoding.llama_decoder import LlamaDecoder
from r1.rollout.decoding.onednn import by_onednn, linear_add_fn, linear_fn, prepack

Make = Callable[..., PreTrainedModel]
ONCE, MANY = 2e-6, 1e-5  # relative: of one product, of a whole model
SHAPES = {"small": (64, 48), "arranged": (512, 300), "as it is": (4096, 1100)}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[0]))


def off(found: Tensor, expected: Tensor) -> float:
    """Relative to the largest."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_linear_fns_equal_the_linear_layer(shape: str, rows: int) -> None:
    weight, bias = random(*SHAPES[shape]), random(SHAPES[shape][0])
    states, residual = random(rows, SHAPES[shape][1]), random(rows, SHAPES[shape][0])
    before = residual.clone()
    expected = F.linear(states.double(), weight.double())
    assert off(linear_fn(weight)(states), expected) < ONCE
    assert off(linear_fn(weight, bias)(states), expected + bias) < ONCE
    assert off(linear_add_fn(weight)(states, residual), expected + residual) < ONCE
    assert torch.equal(residual, before), "the residual stream is another's"


def test_weight_size_selects_the_kernel() -> None:
    small, middle, large = (random(*shape) for shape in SHAPES.values())
    assert [by_onednn(weight) for weight in (small, middle, large)] == [False, True, True]
    assert prepack(middle).is_mkldnn
    assert prepack(large) is large, "no copy of a large one"


def test_half_precision_and_autocast_do_not_use_onednn() -> None:
    weight, states = random(*SHAPES["arranged"]), random(3, SHAPES["arranged"][1])
    half = weight.bfloat16()
    assert not by_onednn(half)
    assert torch.equal(linear_fn(half)(states.bfloat16()), F.linear(states.bfloat16(), half))
    with torch.autocast("cpu", torch.bfloat16):
        assert not by_onednn(weight)
        assert linear_fn(weight)(states).dtype == torch.bfloat16


@pytest.mark.parametrize(("copied_below", "per_layer"), [(2**22, 4), (0, 7)])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_new_decoder_packs_the_current_weights(
    make_model: Make, monkeypatch: pytest.MonkeyPatch, architecture: str, copied_below: int, per_layer: int
) -> None:
    """What is arranged is a copy: of the weights as they are when a rollout begins. Large ones are no copies."""
    monkeypatch.setattr(products, "MIN_ONEDNN_NUMEL", 1)  # as if the test's models were large
    for module in (products, lean):
        monkeypatch.setattr(module, "MAX_COPIED_NUMEL", copied_below)
    asked: list[bool] = []
    monkeypatch.setattr(products, "by_onednn", lambda weight: asked.append(by_onednn(weight)) or asked[-1])
    model, prompts = make_model(architecture), [[5, 7, 2, 9], [30, 31]]
    for _ in range(2):
        with torch.no_grad():
            made = LlamaDecoder(model)
            made.start(prompts, [2, 1])
            found = made.step(torch.tensor([3, 4, 5]))
            for row, (prompt, token) in enumerate([(0, 3), (0, 4), (1, 5)]):
                expected = model(torch.tensor([[*prompts[prompt], token]])).logits[0, -1]
                assert off(found[row], expected) < MANY
            for weight in model.parameters():
                weight.mul_(1.1)
    assert asked == [True] * 2 * (per_layer * model.config.num_hidden_layers + 1)
