"""Adapters folded into the weights: the same model, sampled from at the cost of one without adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from loras import make_lora
from peft.tuners.tuners_utils import BaseTunerLayer
from rolloutsupport import at
from torch import Tensor
from transformers import PreTrainedModel

from r1.model.folding import _add_update, folded_adapters
from r1.model.forward import padded_forward
from r1.model.sequences import stack
from r1.rollout.decoding.decoder import fastest_decoder
from r1.rollout.decoding.llama_decoder import LlamaDecoder
from r1.rollout.transformers import Transformers

Make = Callable[..., PreTrainedModel]
pytestmark = pytest.mark.filterwarnings(
    *(f"ignore::{kind}Warning" for kind in ("Future", "User", "Runtime"))
)  # of peft
PROMPTS, SEEDS = [[5], [7, 8, 9, 10, 11, 12]], [[1, 2, 3], [4, 5, 6]]
LORAS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "transposed weights": ("gpt2", {}),
    "embeddings": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "trained copies": ("llama", {"modules_to_save": ["norm", "lm_head"]}),
    "trained copies with adapters": ("llama", {"modules_to_save": ["mlp"]}),
    "experts": ("mixtral", {}),
    "fused projections": ("gpt_neox", {"use_rslora": True}),
}


def trained(make_model: Make, architecture: str = "llama", **options: Any) -> Any:
    """A model with adapters that training has moved."""
    policy: Any = make_lora(**options).wrap(make_model(architecture)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in (p for p in policy.parameters() if p.requires_grad):
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return policy


@torch.no_grad()
def logits(model: Any) -> Tensor:
    """(4, 16, V)"""
    ids = torch.randint(97, (4, 16), generator=torch.Generator().manual_seed(11))
    return model(input_ids=ids).logits.float()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", list(LORAS))
def test_folded_model_has_plain_layers_and_the_same_logits(make_model: Make, name: str) -> None:
    architecture, options = LORAS[name]
    policy = trained(make_model, architecture, **options)
    expected, layers = logits(policy), dict(policy.named_modules())
    with folded_adapters(policy) as folded:
        plain, kinds = logits(folded), [type(module).__module__ for module in folded.modules()]
    assert not any(kind.startswith("peft") for kind in kinds)
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=1e-5)
    assert all(layers[key] is module for key, module in policy.named_modules())
    assert torch.equal(logits(policy), expected)


def test_folding_copies_the_adapted_weights_alone(make_model: Make) -> None:
    policy = trained(make_model, target_modules=["q_proj"])
    own = {parameter.data_ptr() for parameter in policy.parameters()}
    with folded_adapters(policy) as folded:
        copied = [name for name, parameter in folded.named_parameters() if parameter.data_ptr() not in own]
    assert copied == [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(folded.config.num_hidden_layers)]


def test_folding_is_undone_where_sampling_fails(make_model: Make) -> None:
    policy = trained(make_model)
    expected = logits(policy)
    with pytest.raises(KeyboardInterrupt), folded_adapters(policy):
        raise KeyboardInterrupt
    assert torch.equal(logits(policy), expected)


def test_model_without_adapters_is_left_alone(llama: PreTrainedModel) -> None:
    with folded_adapters(llama) as folded:
        assert folded is llama


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_engine_samples_without_an_adapter_s_product_and_matches_the_policy(
    make_model: Make, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    policy = trained(make_model, architecture)
    engine = Transformers(**at(1.0), max_completion_length=12, batch_size=64, async_steps=0)
    engine.update(policy, 0)
    with monkeypatch.context() as patched:
        for kind in {type(module) for module in policy.modules() if isinstance(module, BaseTunerLayer)}:
            patched.setattr(kind, "forward", lambda *_: pytest.fail("an adapter's layer was called"))
        groups = engine.generate(PROMPTS, SEEDS, set())
    rollouts = [rollout for group in groups for rollout in group]
    batch = stack([(rollout.prompt_ids, rollout.completion_ids) for rollout in rollouts], 0)
    expected, _ = padded_forward(policy, batch, 1.0, False)
    found = torch.tensor([logp for rollout in rollouts for logp in rollout.logps])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


# ---- bfloat16 ----


def test_engine_with_products_in_bfloat16_has_the_decoder_of_float32(make_model: Make) -> None:
    """As in a validation under bf16-mixed, which is the first to sample."""
    policy = trained(make_model)
    engine = Transformers(**at(1.0), max_completion_length=12, batch_size=64, async_steps=0)
    engine.update(policy, 0)
    with torch.autocast("cpu", torch.bfloat16):
        groups = engine.generate(PROMPTS, SEEDS, set())
    assert fastest_decoder(policy.get_base_model()) is LlamaDecoder
    rollouts = [rollout for group in groups for rollout in group]
    batch = stack([(rollout.prompt_ids, rollout.completion_ids) for rollout in rollouts], 0)
    expected, _ = padded_forward(policy, batch, 1.0, False)
    found = torch.tensor([logp for rollout in rollouts for logp in rollout.logps])
    torch.testing.assert_close(found, expected, atol=0.3, rtol=0)


def test_update_below_the_distance_of_two_numbers_takes_effect_on_average() -> None:
    weight = torch.ones(300, 300, dtype=torch.bfloat16)  # the next number is 1 + 1/128
    total = _add_update(weight, torch.tensor(1 / 128 / 8), torch.bfloat16, "layer")
    moved = (total != 1).float().mean()
    assert total.unique().tolist() == [1, 1 + 1 / 128]
    assert float(moved) == pytest.approx(1 / 8, abs=0.0066)  # 6 standard deviations
    assert torch.equal(total, _add_update(weight, torch.tensor(1 / 128 / 8), torch.bfloat16, "layer"))
    assert not torch.equal(total, _add_update(weight, torch.tensor(1 / 128 / 8), torch.bfloat16, "another"))


def test_update_of_nothing_leaves_bfloat16_weights_as_products_see_them() -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(_add_update(weight, torch.zeros(()), torch.bfloat16, "layer"), weight.bfloat16().float())
