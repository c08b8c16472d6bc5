"""Products by oneDNN: those of the ordinary layer and its gradients, and only where that is what was asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from r1 import linear
from r1.forward import Forward
from r1.linear import added, by_onednn, multiplying, product
from r1.rollout.lean import LeanDecoder
from r1.sequences import stack

Make = Callable[..., PreTrainedModel]
ONCE, MANY = 2e-6, 1e-5  # relative: of one product, of a whole model
SHAPES = {"small": (64, 48), "arranged": (512, 300), "as it is": (4096, 1100)}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[0]))


def off(found: Tensor, expected: Tensor) -> float:
    """Relative to the largest."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture
def every_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the test's models were large."""
    monkeypatch.setattr(linear, "WORTH_A_CALL", 1)
    monkeypatch.setattr(linear, "ARRANGED", range(1, 2**22))


# ---- decoding ----


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_product_is_the_layers(shape: str, rows: int) -> None:
    weight, bias = random(*SHAPES[shape]), random(SHAPES[shape][0])
    states, residual = random(rows, SHAPES[shape][1]), random(rows, SHAPES[shape][0])
    before = residual.clone()
    expected = F.linear(states.double(), weight.double())
    assert off(product(weight)(states), expected) < ONCE
    assert off(product(weight, bias)(states), expected + bias) < ONCE
    assert off(added(weight)(states, residual), expected + residual) < ONCE
    assert torch.equal(residual, before), "the residual stream is another's"


def test_the_shapes_go_different_ways() -> None:
    small, arranged, as_it_is = (random(*shape) for shape in SHAPES.values())
    assert not by_onednn(small, linear.ARRANGED.start)
    assert by_onednn(arranged, linear.ARRANGED.start)
    assert linear.arranged(arranged).is_mkldnn
    assert linear.arranged(as_it_is) is as_it_is, "no copy of a large one"


def test_a_rows_product_does_not_depend_on_the_rows_beside_it() -> None:
    multiply, states = product(random(*SHAPES["arranged"])), random(64, SHAPES["arranged"][1])
    whole = multiply(states)
    for rows in (1, 2, 5, 33):
        assert torch.equal(multiply(states[:rows]), whole[:rows])


def test_half_precision_and_autocast_are_left_alone() -> None:
    weight, states = random(*SHAPES["arranged"]), random(3, SHAPES["arranged"][1])
    half = weight.bfloat16()
    assert not by_onednn(half, 1)
    assert torch.equal(product(half)(states.bfloat16()), F.linear(states.bfloat16(), half))
    with torch.autocast("cpu", torch.bfloat16):
        assert not by_onednn(weight, 1)
        assert product(weight)(states).dtype == torch.bfloat16


# ---- training ----


class Probe(nn.Module):
    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(300, 200, bias=bias)

    def forward(self, states: Tensor) -> Tensor:
        made: Tensor = self.layer(states)
        return made


def made_by(module: nn.Module, states: Tensor) -> str:
    with multiplying(module):  # type: ignore[arg-type]
        return type(module(states).grad_fn).__name__


@pytest.mark.parametrize("frozen", ["nothing", "weight", "states"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(40,), (1, 40), (3, 2, 5)])
def test_gradients_are_the_ordinary_ones(shape: tuple[int, ...], bias: bool, frozen: str) -> None:
    module = Probe(bias).requires_grad_(frozen != "weight")
    states = random(*shape, 300).requires_grad_(frozen != "states")
    outer = random(*shape, 200)
    leaves = [leaf for leaf in (states, *module.parameters()) if leaf.requires_grad]
    expected = module(states)
    with multiplying(module):  # type: ignore[arg-type]
        found = module(states)
    assert type(found.grad_fn).__name__ == "_LinearBackward"
    assert off(found, expected) < ONCE
    for mine, theirs in zip(
        torch.autograd.grad(found, leaves, outer), torch.autograd.grad(expected, leaves, outer), strict=True
    ):
        assert mine.shape == theirs.shape
        assert off(mine, theirs) < ONCE


def test_what_is_not_for_it_stays_ordinary() -> None:
    module, states = Probe(bias=True), random(4, 300)
    assert made_by(module, states) == "_LinearBackward"
    with torch.autocast("cpu", torch.bfloat16):
        assert made_by(module, states) != "_LinearBackward"
    module.layer = nn.Linear(300, 4)
    assert made_by(module, states) != "_LinearBackward", "too small"
    module.layer, module.dtype = nn.Linear(300, 200, dtype=torch.bfloat16), torch.bfloat16
    assert made_by(module, states.bfloat16()) != "_LinearBackward"


@pytest.mark.parametrize("share_prompts", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3_text"])
@pytest.mark.usefixtures("every_weight")
def test_a_model_learns_the_same(
    make_model: Make, monkeypatch: pytest.MonkeyPatch, architecture: str, share_prompts: bool
) -> None:
    model, forward = make_model(architecture), Forward(packing=True, share_prompts=share_prompts)
    batch = stack([([5, 7, 2, 9], [11, 2, 13]), ([5, 7, 2, 9], [4] * 7), ([30, 31], [90, 1])], 0)

    def learned() -> Tensor:
        logps, _ = forward(model, batch, 0.8)
        gradients = torch.autograd.grad((logps * random(*logps.shape)).sum(), list(model.parameters()))
        return torch.cat([logps.detach().flatten(), *(g.flatten() for g in gradients)])

    assert forward.can_pack(model, batch)
    asked: list[bool] = []
    monkeypatch.setattr(linear, "by_onednn", lambda *args: asked.append(by_onednn(*args)) or asked[-1])
    found = learned()
    assert asked == [True] * 7 * model.config.num_hidden_layers
    monkeypatch.setattr(linear, "by_onednn", lambda *_: False)
    assert off(found, learned()) < MANY


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.usefixtures("every_weight")
def test_a_new_decoder_has_the_new_weights(make_model: Make, architecture: str) -> None:
    """What is arranged is a copy: of the weights as they are when a rollout begins."""
    model, prompts = make_model(architecture), [[5, 7, 2, 9], [30, 31]]
    for _ in range(2):
        with torch.no_grad():
            made = LeanDecoder(model)
            made.start(prompts, [2, 1])
            found = made.step(torch.tensor([3, 4, 5]))
            for row, (prompt, token) in enumerate([(0, 3), (0, 4), (1, 5)]):
                expected = model(torch.tensor([[*prompts[prompt], token]])).logits[0, -1]
                assert off(found[row], expected) < MANY
            for weight in model.parameters():
                weight.mul_(1.1)
