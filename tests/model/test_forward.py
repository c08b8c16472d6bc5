"""Packed and plain forward passes give the same log-probs, entropies and gradients, for every kind of model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loras import make_lora
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from r1.core.errors import UserError
from r1.core.types import Config
from r1.model import forward as forward_module
from r1.model.forward import Forward, packed_forward, padded_forward, supports_packing
from r1.model.loading import Model
from r1.model.lora import Lora
from r1.model.sequences import Sequences, stack

Make = Callable[..., PreTrainedModel]
Pair = tuple[list[int], list[int]]
ARCHITECTURES = ["llama", "qwen2", "qwen3", "gpt2", "gemma3_text"]
A, B = [5, 7, 2, 9], [30, 31]
BATCHES: dict[str, list[Pair]] = {
    "groups": [(A, [11, 2, 13]), (A, [4, 4, 4, 4, 4, 4, 8]), (B, [90, 1]), (B, [3, 3, 3, 3, 3])],
    "uneven prompts": [([1], [2, 3, 4]), (A * 3, [5, 6]), (B, [7, 8, 9, 10])],
    "lengths of one": [(A, [3]), (A, [4]), (B, [5])],
    "one of one among others": [(A, [3]), (A, [4, 5, 6]), (B, [5]), ([9], [5, 5])],
    "one sequence": [(A, [4, 5, 6])],
    "one token after one token": [([9], [4])],
}
DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}  # gpt2's own defaults are 0.1


@pytest.fixture(scope="module")
def models(make_model: Make) -> dict[str, PreTrainedModel]:
    return {name: make_model(name, **(DROPOUT if name == "gpt2" else {})) for name in ARCHITECTURES}


def results(model: PreTrainedModel, batch: Sequences, forward: Callable[..., Any]) -> tuple[Tensor, ...]:
    """Log-probs, entropies, and the gradient of a random mixture of both with respect to all that is trained."""
    logps, entropy = forward(model, batch, 0.8, True)
    generator = torch.Generator().manual_seed(1)
    total = sum((x * torch.randn(x.shape, generator=generator)).sum() for x in (logps, entropy))
    leaves = [p for p in model.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(total, leaves, allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, gradient, strict=True)]
    return logps, entropy, torch.cat([g.flatten() for g in filled])


def assert_close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], rtol: float = 2e-6) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() <= rtol * b.norm()
        assert (a - b).abs().max() <= 3 * rtol * max(b.abs().max().item(), 1.0)


def own_logps(model: PreTrainedModel, pairs: list[Pair], temperature: float) -> list[Tensor]:
    """(T, V) for each pair, straight from transformers, one sequence at a time."""
    rows = []
    for prompt, completion in pairs:
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0]
        rows.append((logits[len(prompt) - 1 : -1] / temperature).log_softmax(-1))
    return rows


# ---- packed and plain ----


@pytest.mark.parametrize("share_prompts", [True, False])
@pytest.mark.parametrize("batch", list(BATCHES))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_forward_equals_padded(
    models: dict[str, PreTrainedModel], architecture: str, batch: str, share_prompts: bool
) -> None:
    model, sequences = models[architecture], stack(BATCHES[batch], 0)
    found = results(model, sequences, lambda *given: packed_forward(*given, share_prompts))
    assert_close(found, results(model, sequences, padded_forward))


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_forwards_equal_single_sequence_forward(
    models: dict[str, PreTrainedModel], architecture: str, packing: bool
) -> None:
    model, pairs = models[architecture], BATCHES["groups"]
    with torch.no_grad():
        logps, entropy = Forward(packing, share_prompts=True)(model, stack(pairs, 0), 0.8)
        rows = own_logps(model, pairs, 0.8)
    assert logps.shape == entropy.shape == (4, 7)
    for b, ((_, completion), row) in enumerate(zip(pairs, rows, strict=True)):
        end = len(completion)
        expected = row.gather(1, torch.tensor(completion)[:, None]).squeeze(1)
        assert logps[b, :end].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
        assert entropy[b, :end].tolist() == pytest.approx((-(row.exp() * row).sum(1)).tolist(), abs=1e-5)
        assert logps[b, end:].tolist() == entropy[b, end:].tolist() == [0.0] * (7 - end)


tokens = st.lists(st.integers(0, 96), min_size=1, max_size=9)
groups = st.lists(st.tuples(tokens, st.lists(tokens, min_size=1, max_size=4)), min_size=1, max_size=3)


@settings(max_examples=25)
@given(given_groups=groups, share_prompts=st.booleans(), order=st.randoms(use_true_random=False))
def test_packed_forward_equals_padded_for_any_batch(
    llama: PreTrainedModel, given_groups: list[Any], share_prompts: bool, order: Any
) -> None:
    pairs = [(prompt, completion) for prompt, completions in given_groups for completion in completions]
    order.shuffle(pairs)
    batch = stack(pairs, 0)
    found = results(llama, batch, lambda *given: packed_forward(*given, share_prompts))
    assert_close(found, results(llama, batch, padded_forward), rtol=5e-6)


def test_entropy_has_a_gradient_only_on_request(llama: PreTrainedModel) -> None:
    batch = stack(BATCHES["groups"], 0)
    for packing in (True, False):
        forward = Forward(packing, share_prompts=True)
        assert forward(llama, batch, 1.0)[0].requires_grad
        assert not forward(llama, batch, 1.0)[1].requires_grad
        assert forward(llama, batch, 1.0, entropy_gradient=True)[1].requires_grad
        with torch.no_grad():
            assert not forward(llama, batch, 1.0, entropy_gradient=True)[1].requires_grad


def test_shared_prompt_sums_the_gradients_of_its_completions(llama: PreTrainedModel) -> None:
    """A token that stands in no completion but in the shared prompt: its embedding's gradient is the sum."""
    pairs = [([50, 51, 52], [11, 12]), ([50, 51, 52], [13, 14, 15])]

    def row(given: list[Pair]) -> Tensor:
        logps, _ = packed_forward(llama, stack(given, 0), 1.0, False, share_prompts=True)
        (gradient,) = torch.autograd.grad(logps.sum(), [llama.get_input_embeddings().weight])
        return gradient[51]

    together = row(pairs)
    assert together.norm() > 1e-3
    torch.testing.assert_close(together, row(pairs[:1]) + row(pairs[1:]), rtol=1e-4, atol=1e-6)


# ---- which models pack ----


def falls_back(model: PreTrainedModel, pairs: list[Pair], warns: bool) -> None:
    """The model is asked with padding, and the values are its own."""
    forward, batch = Forward(packing=True, share_prompts=True), stack(pairs, 0)
    if warns:
        with pytest.warns(UserWarning, match=f"{type(model).__name__} does not support packed sequences"):
            assert not forward.can_pack(model, batch)
    assert not forward.can_pack(model, batch)  # said once
    with torch.no_grad():
        logps, _ = forward(model, batch, 1.0)
        expected = own_logps(model, pairs, 1.0)
    for b, (_, completion) in enumerate(pairs):
        wanted = expected[b].gather(1, torch.tensor(completion)[:, None]).squeeze(1)
        assert logps[b, : len(completion)].tolist() == pytest.approx(wanted.tolist(), abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_common_architectures_support_packing(make_model: Make, architecture: str, dtype: torch.dtype) -> None:
    model = make_model(architecture).to(dtype).train()
    assert supports_packing(model)
    assert model.training


# windows shorter than the sequences, caps and sinks that matter
PARTS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 5},
    "gemma2": {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0, "sliding_window": 5},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5},
    "gpt_oss": {
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 5,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    },
    "llama4_text": {
        "attention_chunk_size": 5,
        "num_local_experts": 2,
        "intermediate_size_mlp": 64,
        "attn_temperature_tuning": False,
    },
    "granite": {"logits_scaling": 8.0, "residual_multiplier": 0.5},
    "cohere2": {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5, "logit_scale": 0.3},
}


@pytest.mark.parametrize("share_prompts", [True, False])
@pytest.mark.parametrize("architecture", list(PARTS))
def test_windows_caps_and_sinks_pack(make_model: Make, architecture: str, share_prompts: bool) -> None:
    """Against the model's own forward of each sequence by itself, and its gradients against padded ones."""
    model = make_model(architecture, **PARTS[architecture])
    assert supports_packing(model)
    for name in ("groups", "uneven prompts"):
        pairs, found = BATCHES[name], Forward(True, share_prompts)
        batch = stack(pairs, 0)
        logps, _ = found(model, batch, 1.0)
        for b, ((_, completion), row) in enumerate(zip(pairs, own_logps(model, pairs, 1.0), strict=True)):
            expected = row.gather(1, torch.tensor(completion)[:, None]).squeeze(1)
            torch.testing.assert_close(logps[b, : len(completion)], expected, atol=2e-5, rtol=2e-5)
        padded = Forward(False, share_prompts)
        assert_close(results(model, batch, found), results(model, batch, padded), rtol=1e-5)


@pytest.mark.parametrize("architecture", ["mistral", "gemma2", "gemma3_text"])
def test_parts_of_attention_change_the_log_probs(make_model: Make, architecture: str) -> None:
    """What the test above compares would differ without them."""
    off: dict[str, Any] = {"sliding_window": 64, "attn_logit_softcapping": None, "final_logit_softcapping": None}
    off = {name: off.get(name, value) for name, value in PARTS[architecture].items()}
    batch = stack(BATCHES["uneven prompts"], 0)
    with torch.no_grad():
        found, without = (
            Forward(True, share_prompts=True)(make_model(architecture, **fields), batch, 1.0)[0]
            for fields in (PARTS[architecture], off)
        )
    assert (found - without).abs().max() > 0.05


@pytest.mark.parametrize("spread", [0.02, 0.2])
def test_recurrent_layers_do_not_pack(make_model: Make, spread: float) -> None:
    model = make_model("lfm2", initializer_range=spread, layer_types=["conv", "full_attention"])
    falls_back(model, BATCHES["groups"], warns=True)


@pytest.mark.parametrize("head", ["bias", "other"])
def test_nonstandard_output_layer_does_not_pack(make_model: Make, head: str) -> None:
    model = make_model("llama")
    if head == "bias":
        model.lm_head.bias = nn.Parameter(torch.randn(97))
    else:
        model.lm_head = nn.Sequential(nn.Linear(32, 8), nn.Linear(8, 97))
    falls_back(model, BATCHES["groups"], warns=True)


def test_forward_without_packing_does_not_probe_the_model(make_model: Make) -> None:
    """Probing lfm2, which cannot pack, would warn; the result is the model's own, one sequence at a time."""
    model, pairs = make_model("lfm2", layer_types=["conv", "full_attention"]), BATCHES["groups"]
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        logps, _ = Forward(packing=False, share_prompts=True)(model, stack(pairs, 0), 1.0)
        rows = own_logps(model, pairs, 1.0)
    assert caught == []
    for b, ((_, completion), row) in enumerate(zip(pairs, rows, strict=True)):
        expected = row.gather(1, torch.tensor(completion)[:, None]).squeeze(1)
        torch.testing.assert_close(logps[b, : len(completion)], expected, atol=1e-5, rtol=1e-5)


# ---- adapters, recomputation, half precision ----


@pytest.fixture
def adapted(make_model: Make) -> PreTrainedModel:
    """Adapters on every linear layer, moved away from their start, where they do nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = make_lora(target_modules="all-linear").wrap(make_model("llama"))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in (p for p in model.parameters() if p.requires_grad):
            p += 0.3 * torch.randn(p.shape, generator=generator)
    return model


@pytest.mark.parametrize("share_prompts", [True, False])
@pytest.mark.parametrize("batch", ["groups", "uneven prompts"])
def test_lora_gradients_equal_padded(adapted: PreTrainedModel, batch: str, share_prompts: bool) -> None:
    assert supports_packing(adapted)
    sequences = stack(BATCHES[batch], 0)
    found = results(adapted, sequences, lambda *given: packed_forward(*given, share_prompts))
    assert_close(found, results(adapted, sequences, padded_forward), rtol=5e-6)
    assert found[2].norm() > 0.1


def test_packed_forward_applies_lora(adapted: PreTrainedModel) -> None:
    batch = stack(BATCHES["groups"], 0)
    with torch.no_grad():
        with_them, _ = packed_forward(adapted, batch, 1.0, False, share_prompts=True)
        with adapted.disable_adapter():
            without, _ = packed_forward(adapted, batch, 1.0, False, share_prompts=True)
    assert (with_them - without).abs().max() > 0.1


def test_lora_on_the_output_layer_does_not_pack(make_model: Make) -> None:
    model = make_lora(target_modules=["lm_head"]).wrap(make_model("llama"))
    assert not supports_packing(model)


@pytest.mark.parametrize("lora", [None, make_lora(target_modules="all-linear")])
@pytest.mark.parametrize("share_prompts", [True, False])
def test_gradient_checkpointing_changes_no_bit(
    small: Callable[..., Config], lora: Lora | None, share_prompts: bool
) -> None:
    config = small("stage=sft")["model"]["config"]
    found = []
    for recompute in (False, True):
        source = Model(
            path=None,
            base_path=None,
            config=config,
            tokenizer="r1:tiny",
            dtype="float32",
            precision="32-true",
            attn_implementation="sdpa",
            gradient_checkpointing=recompute,
            lora=lora,
            recipe=None,
        )
        model = source.load(seed=3)
        with torch.no_grad():
            for i, p in enumerate(p for p in model.parameters() if p.requires_grad):
                p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
        if lora:
            model.enable_input_require_grads()
        batch = stack(BATCHES["groups"], 0)
        found.append(results(model, batch, lambda *given: packed_forward(*given, share_prompts)))
    for kept, again in zip(*found, strict=True):
        assert kept.equal(again)


@pytest.mark.parametrize("share_prompts", [True, False])
def test_packed_forward_under_autocast_is_close_to_padded(llama: PreTrainedModel, share_prompts: bool) -> None:
    batch = stack(BATCHES["groups"], 0)
    exact = results(llama, batch, padded_forward)
    with torch.autocast("cpu", torch.bfloat16):
        assert supports_packing(llama)
        forward = Forward(True, share_prompts)
        assert forward.can_pack(llama, batch)
        found = results(llama, batch, forward)
        beside = results(llama, batch, Forward(False, share_prompts))
    mask = batch.mask
    assert 1e-6 < (found[0][mask] - exact[0]).abs().max() < 0.2
    assert (found[1][mask] - exact[1]).abs().max() < 0.2
    assert (found[2] - beside[2]).norm() < 0.3 * beside[2].norm()
    assert found[0].dtype == found[1].dtype == torch.float32


def test_packed_forward_in_bfloat16_is_close_to_padded(make_model: Make) -> None:
    model, batch = make_model("llama").to(torch.bfloat16), stack(BATCHES["groups"], 0)
    found, expected = (results(model, batch, Forward(packing, share_prompts=True)) for packing in (True, False))
    assert (found[0] - expected[0]).abs().max() < 0.2
    assert (found[2].float() - expected[2].float()).norm() < 0.1 * expected[2].float().norm()


def test_rows_of_each_length_apart_are_refused_with_shards(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks with rows of other lengths would wait for each other's passes for ever."""
    model = make_model("llama")
    batch = stack(BATCHES["groups"], 0)
    monkeypatch.setattr(forward_module, "supports_padding", lambda *_: False)
    expected, _ = padded_forward(model, batch, 1.0, False)
    model.__class__ = type("Sharded", (FSDPModule, type(model)), {})
    with pytest.raises(UserError, match="cannot be padded") as caught:
        padded_forward(model, batch, 1.0, False)
    assert caught.value.key == "strategy"
    alone = stack(BATCHES["one sequence"], 0)
    assert padded_forward(model, alone, 1.0, False)[0].isfinite().all()
    assert expected.isfinite().all()
