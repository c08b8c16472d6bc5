"""Three ways to decode: the same logits from each, whatever leaves the batch, and each for the models that it fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loras import make_lora
from rolloutsupport import at
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from r1.core.errors import UserError
from r1.core.seeds import derive_seed
from r1.model.forward import Forward
from r1.model.sequences import stack
from r1.rollout.decoding import cuda_graph as graph
from r1.rollout.decoding import rotary
from r1.rollout.decoding import shared_prefix as shared
from r1.rollout.decoding.cached_decoder import UnpaddedDecoder
from r1.rollout.decoding.cuda_graph import GraphDecoder
from r1.rollout.decoding.decoder import CachedDecoder, Decoder, check_architecture, fastest_decoder, make_decoder
from r1.rollout.decoding.llama_decoder import LlamaDecoder, is_llama_like
from r1.rollout.decoding.shared_prefix import SharedPrefixDecoder
from r1.rollout.transformers import Transformers

Make = Callable[..., PreTrainedModel]
Kind = Callable[[PreTrainedModel], Decoder]
LEAN, GENERAL = ["llama", "qwen2", "qwen3", "mistral", "gpt2", "gemma3_text", "gpt_neox", "olmo2"], ["gpt_bigcode"]
EVEN = [[5, 6, 7], [8, 9, 10], [11, 12, 13]]
UNEVEN = [[5], [7, 8, 9, 10, 11, 12], [3, 3, 3]]


@pytest.fixture(scope="module")
def models(make_model: Make) -> dict[str, PreTrainedModel]:
    return {name: make_model(name) for name in (*LEAN, *GENERAL)}


def share_from(length: int, patch: pytest.MonkeyPatch) -> None:
    """Prompts of so many tokens are kept once per group, shorter ones copied."""
    for kind in (SharedPrefixDecoder, GraphDecoder):
        patch.setattr(kind, "shared_from", length)


@torch.no_grad()
def decoded(kind: Kind, model: PreTrainedModel, prompts: list[list[int]], sizes: list[int], leaving: list[Any]) -> Any:
    """Log-probs of every step; ``leaving`` says after which step which rows go. Rows are named by their first place."""
    made, found = kind(model), {}
    names = list(range(sum(sizes)))
    logits = made.start(prompts, sizes)
    for t, gone in enumerate(leaving):
        for name, row in zip(names, logits.float().log_softmax(-1), strict=True):
            found[t, name] = row
        kept = [i for i, name in enumerate(names) if name not in gone]
        if not kept:
            break
        tokens = torch.tensor([(7 * name + 13 * t + 1) % 97 for name in names])
        if len(kept) < len(names):
            made.select_rows(torch.tensor(kept))
            names, tokens = [names[i] for i in kept], tokens[kept]
        logits = made.step(tokens)
    return found


def assert_same(found: dict[Any, Tensor], expected: dict[Any, Tensor], atol: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for place, row in expected.items():
        assert (found[place] - row).abs().max() < atol, place


# ---- the same logits ----


@pytest.mark.parametrize("shared_from", [0, 64])  # prompts are shared, prompts are copied
@pytest.mark.parametrize("prompts", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("architecture", [*LEAN, *GENERAL])
def test_decoders_give_the_same_log_probs(
    models: dict[str, PreTrainedModel],
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    prompts: list[list[int]],
    shared_from: int,
) -> None:
    """Rows leave one by one, from the middle, and a whole group at once."""
    share_from(shared_from, monkeypatch)
    model, sizes = models[architecture], [2, 3, 1]
    leaving = [set(), {1}, set(), {2, 3, 4}, set(), {0}, set()]
    expected = decoded(CachedDecoder, model, prompts, sizes, leaving)
    assert len(expected) == 6 + 6 + 5 + 5 + 2 + 2 + 1
    for kind in [SharedPrefixDecoder, *([LlamaDecoder, GraphDecoder] if architecture in LEAN else [])]:
        assert_same(decoded(kind, model, prompts, sizes, leaving), expected)


@pytest.mark.parametrize("kind", [SharedPrefixDecoder, LlamaDecoder, GraphDecoder])
@pytest.mark.parametrize("shared_from", [0, 64])
def test_decoders_equal_full_forward_without_cache(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, kind: Kind, shared_from: int
) -> None:
    """No cache at all: each row's tokens from the start."""
    share_from(shared_from, monkeypatch)
    found = decoded(kind, llama, UNEVEN, [1, 2, 2], [set()] * 6)
    groups = [0, 1, 1, 2, 2]
    for name, group in enumerate(groups):
        tokens = [(7 * name + 13 * t + 1) % 97 for t in range(5)]
        with torch.no_grad():
            logits = llama(input_ids=torch.tensor([UNEVEN[group] + tokens])).logits[0]
        rows = logits.log_softmax(-1)[len(UNEVEN[group]) - 1 :]
        for t, row in enumerate(rows):
            assert (found[t, name] - row).abs().max() < 1e-5


PRECISIONS: dict[str, tuple[torch.dtype, bool, float]] = {  # dtype of the weights, autocast, tolerance of a log-prob
    "float32": (torch.float32, False, 1e-5),
    "bf16-mixed": (torch.float32, True, 0.2),
    "bfloat16": (torch.bfloat16, False, 0.2),
    "float16": (torch.float16, False, 0.03),
}


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("architecture", [*LEAN[:6], *GENERAL])
def test_decoder_in_any_precision_equals_the_exact_one_to_its_rounding(
    make_model: Make, monkeypatch: pytest.MonkeyPatch, architecture: str, precision: str, length: int
) -> None:
    dtype, autocast, tolerance = PRECISIONS[precision]
    exact, model = make_model(architecture), make_model(architecture).to(dtype)
    prompts, sizes, leaving = [[(3 * i + 1) % 97 for i in range(length)], [4, 5]], [2, 1], [set(), {1}, set(), set()]
    expected = decoded(CachedDecoder, exact, prompts, sizes, leaving)
    kinds = [CachedDecoder, SharedPrefixDecoder, *([LlamaDecoder, GraphDecoder] if architecture in LEAN else [])]
    monkeypatch.setattr(GraphDecoder, "shared_from", 64)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for kind in kinds:
            assert_same(decoded(kind, model, prompts, sizes, leaving), expected, atol=tolerance)


prompts_of = st.lists(st.lists(st.integers(0, 96), min_size=1, max_size=8), min_size=1, max_size=4)


@settings(max_examples=30)
@given(prompts=prompts_of, data=st.data())
def test_dropped_rows_do_not_change_the_others(
    llama: PreTrainedModel, prompts: list[list[int]], data: st.DataObject
) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=len(prompts), max_size=len(prompts)))
    rows = st.sets(st.integers(0, sum(sizes) - 1))
    leaving = [data.draw(rows) if t % 2 else set() for t in range(6)]
    gone_before: list[set[int]] = [set().union(*leaving[: t + 1]) for t in range(6)]
    with pytest.MonkeyPatch.context() as patch:
        share_from(data.draw(st.sampled_from([0, 4, 64])), patch)
        patch.setattr(shared, "FIRST_CAPACITY", data.draw(st.sampled_from([1, 2, 32])))
        patch.setattr(graph, "FIRST_GRAPH_CAPACITY", data.draw(st.sampled_from([1, 2, 32])))
        for kind in (SharedPrefixDecoder, LlamaDecoder, GraphDecoder):
            found = decoded(kind, llama, prompts, sizes, gone_before)
            assert_same(found, decoded(CachedDecoder, llama, prompts, sizes, gone_before))


@pytest.mark.parametrize("capacity", [1, 3, 32])
@pytest.mark.parametrize("shared_from", [0, 64])
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_buffers_grow_with_long_completions(
    models: dict[str, PreTrainedModel],
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    shared_from: int,
    capacity: int,
) -> None:
    share_from(shared_from, monkeypatch)
    monkeypatch.setattr(shared, "FIRST_CAPACITY", capacity)
    monkeypatch.setattr(graph, "FIRST_GRAPH_CAPACITY", capacity)
    monkeypatch.setattr(rotary, "ROTARY_CHUNK", capacity)
    model = models[architecture]
    leaving: list[set[int]] = [{2} if t == 20 else set() for t in range(70)]
    expected = decoded(CachedDecoder, model, UNEVEN, [2, 1, 1], [{2} if t >= 20 else set() for t in range(70)])
    kind = fastest_decoder(model)
    assert kind is not None
    for made in [kind, *([GraphDecoder] if kind is LlamaDecoder else [])]:
        assert_same(decoded(made, model, UNEVEN, [2, 1, 1], leaving), expected, atol=3e-5)


def test_prompts_at_the_sharing_threshold_decode_alike(llama: PreTrainedModel) -> None:
    for length in (SharedPrefixDecoder.shared_from - 1, SharedPrefixDecoder.shared_from):
        prompts = [[(3 * i) % 97 for i in range(length)], [4, 5]]
        expected = decoded(CachedDecoder, llama, prompts, [2, 2], [set(), {0}, {0}, set()])
        for kind in (SharedPrefixDecoder, LlamaDecoder, GraphDecoder):
            assert_same(decoded(kind, llama, prompts, [2, 2], [set(), {0}, {0}, set()]), expected)
        made = LlamaDecoder(llama)
        made.start(prompts, [2, 2])
        assert (made.state.copied_length == 0) == (length >= SharedPrefixDecoder.shared_from)


def test_prompt_is_prefilled_once_per_group(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    share_from(0, monkeypatch)
    made = SharedPrefixDecoder(llama)
    logits = made.start(UNEVEN, [5, 1, 2])
    assert logits.shape[0] == 8
    assert {tuple(layer.prompt_keys.shape) for layer in made.state.layers} == {(3, 1, 6, 16)}
    assert {layer.keys.shape[0] for layer in made.state.layers} == {8}
    made.select_rows(torch.tensor([0, 1, 7]))  # the second prompt has no row left
    assert {len(layer.prompt_keys) for layer in made.state.layers} == {2}


# ---- which model is served by which ----


@pytest.mark.parametrize("architecture", LEAN)
def test_described_models_use_the_llama_decoder(models: dict[str, PreTrainedModel], architecture: str) -> None:
    assert is_llama_like(models[architecture].config)
    assert fastest_decoder(models[architecture]) is LlamaDecoder


def test_length_dependent_rope_uses_the_shared_prefix_decoder(make_model: Make) -> None:
    scaled = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert fastest_decoder(make_model("llama", rope_parameters=scaled)) is SharedPrefixDecoder
    assert fastest_decoder(make_model("llama", rope_parameters=scaled | {"rope_type": "linear"})) is LlamaDecoder


@pytest.mark.parametrize("architecture", GENERAL)
def test_other_models_use_the_shared_prefix_decoder(models: dict[str, PreTrainedModel], architecture: str) -> None:
    assert fastest_decoder(models[architecture]) is SharedPrefixDecoder


RELATIVES: list[tuple[str, dict[str, Any]]] = [
    ("smollm3", {"no_rope_layers": [1, 0], "pad_token_id": 0}),  # a layer without rotation
    ("ernie4_5", {}),  # another pairing of the dimensions
    ("granite", {"residual_multiplier": 0.22}),
    ("hunyuan_v1_dense", {"head_dim": 16, "pad_token_id": 0}),  # norms behind the rotation
]


@pytest.mark.parametrize(("architecture", "fields"), RELATIVES)
def test_what_no_probe_shows_in_a_new_model_is_right_in_a_trained_one(
    make_model: Make, architecture: str, fields: dict[str, Any]
) -> None:
    """Near zero, where a new model's weights are, a layer's differences from llama do not show."""
    model = make_model(architecture, initializer_range=0.02, **fields)
    assert fastest_decoder(model) is LlamaDecoder
    with torch.no_grad():
        for p in model.parameters():
            p *= 8 if p.ndim > 1 else 1  # what training makes of it
    expected = decoded(CachedDecoder, model, UNEVEN, [2, 1, 1], [set()] * 5)
    for kind in (SharedPrefixDecoder, LlamaDecoder, GraphDecoder):
        assert_same(decoded(kind, model, UNEVEN, [2, 1, 1], [set()] * 5), expected, atol=3e-5)


def test_configs_that_the_description_does_not_fit_use_the_shared_prefix_decoder(make_model: Make) -> None:
    assert fastest_decoder(make_model("olmo", clip_qkv=0.5, pad_token_id=0)) is SharedPrefixDecoder
    assert fastest_decoder(make_model("stablelm", use_parallel_residual=True)) is SharedPrefixDecoder


def test_models_that_do_not_pack_use_the_cached_decoder(make_model: Make) -> None:
    model = make_model("lfm2", layer_types=["conv", "full_attention"])
    with pytest.warns(UserWarning, match="Lfm2ForCausalLM decodes with transformers' own forward and cache"):
        assert type(make_decoder(model, 8)) is CachedDecoder
    assert fastest_decoder(model) is CachedDecoder  # said once


def test_output_layer_with_bias_uses_the_cached_decoder(make_model: Make) -> None:
    model = make_model("llama")
    model.lm_head.bias = nn.Parameter(torch.randn(97))
    with pytest.warns(UserWarning, match="no faster decoder fits it"):
        assert type(make_decoder(model, 8)) is CachedDecoder


MIXED = ["sliding_attention", "full_attention"]
# windows shorter than the sequences, caps and sinks that matter
PARTS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 7},
    "gemma2": {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0, "sliding_window": 7},
    "gemma3_text": {"layer_types": MIXED, "sliding_window": 7},
    "gpt_oss": {"layer_types": MIXED, "sliding_window": 7, "num_local_experts": 2, "num_experts_per_tok": 1},
    "llama4_text": {
        "attention_chunk_size": 7,
        "num_local_experts": 2,
        "intermediate_size_mlp": 64,
        "attn_temperature_tuning": False,
    },
    "cohere2": {"layer_types": MIXED, "sliding_window": 7, "logit_scale": 0.3},
}


@pytest.mark.parametrize("shared_from", [0, 64])
@pytest.mark.parametrize("architecture", list(PARTS))
def test_windows_caps_and_sinks_decode_as_each_sequence_alone(
    make_model: Make, monkeypatch: pytest.MonkeyPatch, architecture: str, shared_from: int
) -> None:
    """A prompt that lies behind the window at the end, one within it, and one beyond it from the start."""
    share_from(shared_from, monkeypatch)
    monkeypatch.setattr(graph, "FIRST_GRAPH_CAPACITY", 5)
    model = make_model(architecture, **PARTS[architecture])
    prompts, sizes, leaving = (
        [[5, 6], [7] * 3, list(range(8, 17))],
        [2, 1, 2],
        [{1} if t == 4 else set() for t in range(14)],
    )
    rows = [0, 0, 1, 2, 2]
    assert fastest_decoder(model) is (LlamaDecoder if is_llama_like(model.config) else SharedPrefixDecoder)
    for kind in [SharedPrefixDecoder, *([LlamaDecoder, GraphDecoder] if is_llama_like(model.config) else [])]:
        found = decoded(kind, model, prompts, sizes, leaving)
        for name, prompt in enumerate(rows):
            steps = [t for t, place in found if place == name]
            tokens = [(7 * name + 13 * t + 1) % 97 for t in steps[:-1]]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompts[prompt] + tokens])).logits[0]
            own = logits.log_softmax(-1)[len(prompts[prompt]) - 1 :]
            for t in steps:
                assert (found[t, name] - own[t]).abs().max() < 1e-4


def test_half_precision_and_autocast_use_the_llama_decoder(make_model: Make) -> None:
    assert fastest_decoder(make_model("llama").to(torch.bfloat16)) is LlamaDecoder
    model = make_model("llama", hidden_size=64)
    with torch.autocast("cpu", torch.bfloat16):
        assert fastest_decoder(model) is LlamaDecoder
        rounded = [decoded(kind, model, UNEVEN, [1, 1, 1], [set()] * 6) for kind in (LlamaDecoder, SharedPrefixDecoder)]
    exact = decoded(CachedDecoder, model, UNEVEN, [1, 1, 1], [set()] * 6)
    lean_error, shared_error = (sum(float((r[place] - exact[place]).abs().mean()) for place in exact) for r in rounded)
    assert lean_error < 1.3 * shared_error, "the residual stream stays in float32"


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_lora_adapters_are_applied_in_decoding(make_model: Make, targets: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = make_lora(target_modules=targets).wrap(make_model("llama")).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in (p for p in model.parameters() if p.requires_grad):
            p += 0.3 * torch.randn(p.shape, generator=generator)
    assert fastest_decoder(model) is LlamaDecoder
    expected = decoded(CachedDecoder, model, UNEVEN, [2, 1, 1], [set(), {0}, {0}, set()])
    for kind in (GraphDecoder, LlamaDecoder):
        found = decoded(kind, model, UNEVEN, [2, 1, 1], [set(), {0}, {0}, set()])
        assert_same(found, expected)
    with model.disable_adapter():
        without = decoded(LlamaDecoder, model, UNEVEN, [2, 1, 1], [set()] * 4)
    assert (found[2, 1] - without[2, 1]).abs().max() > 0.01


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are recorded on a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shared_from", [0, 64])
def test_cuda_graph_replay_equals_the_cached_decoder(
    make_model: Make, monkeypatch: pytest.MonkeyPatch, shared_from: int, dtype: torch.dtype
) -> None:
    share_from(shared_from, monkeypatch)
    monkeypatch.setattr(graph, "FIRST_GRAPH_CAPACITY", 3)
    model = make_model("qwen2").to("cuda", dtype)
    assert fastest_decoder(model) is GraphDecoder
    leaving = [{2} if t == 4 else set() for t in range(12)]
    gone = [{2} if t >= 4 else set() for t in range(12)]
    with torch.device("cuda"):
        expected = decoded(CachedDecoder, model, UNEVEN, [2, 1, 1], gone)
        found = decoded(GraphDecoder, model, UNEVEN, [2, 1, 1], leaving)
    assert_same(found, expected, atol=1e-4 if dtype == torch.float32 else 0.3)


# ---- through the engine ----


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt_bigcode"])
def test_engine_samples_the_same_tokens_with_each_decoder(
    make_model: Make, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    model = make_model(architecture)
    prompts = [*UNEVEN, [(5 * i) % 97 for i in range(70)]]
    seeds = [[derive_seed("decoder", p, g) for g in range(p + 1)] for p in range(4)]
    engine = Transformers(**at(0.9), max_completion_length=40, batch_size=64, async_steps=0)
    stops = set(range(92, 97))
    kinds: list[Any] = [
        CachedDecoder,
        SharedPrefixDecoder,
        *([LlamaDecoder, GraphDecoder] if is_llama_like(model.config) else []),
    ]
    (expected, *others) = [rollouts(engine, model, prompts, seeds, stops, kind, monkeypatch) for kind in kinds]
    assert len({len(r.completion_ids) for r in expected}) > 3
    assert max(len(r.completion_ids) for r in expected) == 40  # past the first buffers
    for found in others:
        for a, b in zip(found, expected, strict=True):
            assert (a.completion_ids, a.truncated) == (b.completion_ids, b.truncated)
            assert a.logps == pytest.approx(b.logps, abs=1e-5)


def rollouts(engine: Transformers, model: Any, prompts: Any, seeds: Any, stops: Any, kind: Any, patch: Any) -> Any:
    patch.setattr("r1.rollout.transformers.make_decoder", lambda model, longest: kind(model))
    engine.update(model, 0)
    return [r for group in engine.generate(prompts, seeds, stops) for r in group]


# ---- the twin ----


UNSEEN = [
    ("lfm2", {"layer_types": ["conv", "full_attention"]}),
    ("gpt_neo", {"attention_types": [[["global", "local"], 1]]}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("architecture", "fields"), UNSEEN)
def test_new_models_are_told_apart_in_any_precision(
    make_model: Make, architecture: str, fields: dict[str, Any], dtype: torch.dtype
) -> None:
    """Weights near zero in half precision: no probe of the model itself could see that it needs a slow decoder."""
    model = make_model(architecture, initializer_range=0.02, **fields).to(dtype)
    with pytest.warns(UserWarning, match="no faster decoder fits it"):
        assert fastest_decoder(model) is CachedDecoder


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_rotations_by_length_do_not_depend_on_the_other_rows(make_model: Make, rope_type: str) -> None:
    """One row far beyond the original context, one within it; before that, a longer one through the same model."""
    rope = {"rope_type": rope_type, "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 8}
    rope |= {"short_factor": [1.0] * 8, "long_factor": [3.0] * 8} if rope_type == "longrope" else {}
    length = {} if rope_type == "longrope" else {"max_position_embeddings": 8}
    model = make_model("llama", rope_parameters=rope, **length)
    with pytest.warns(UserWarning, match="prompts of each length apart"):
        assert fastest_decoder(model, 24) is UnpaddedDecoder
    prompts, steps = [[5, 6], [9] * 15, [7] * 15], [set()] * 5
    together = decoded(UnpaddedDecoder, model, prompts, [1, 1, 1], steps)
    for name, prompt in enumerate(prompts):
        made = UnpaddedDecoder(model)
        with torch.no_grad():
            rows = [made.start([prompt], [1])[0]]
            rows += [made.step(torch.tensor([(7 * name + 13 * t + 1) % 97]))[0] for t in range(4)]
        for t, row in enumerate(rows):
            assert (together[t, name] - row.log_softmax(-1)).abs().max() < 1e-5
    pairs = [(prompt, [1, 2, 3]) for prompt in prompts]
    forward = Forward(packing=True, share_prompts=True)
    with torch.no_grad():
        logps, _ = forward(model, stack(pairs, 0), 1.0)
        alone = [forward(model, stack([pair], 0), 1.0)[0][0] for pair in reversed(pairs)]
    torch.testing.assert_close(logps, torch.stack(alone[::-1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [{"use_sliding_window": False}, {"sliding_window": 0}, {"sliding_window": None}])
def test_unused_window_is_none(make_model: Make, window: dict[str, Any]) -> None:
    model = make_model("qwen2_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, **window)
    assert Forward(packing=True, share_prompts=True).can_pack(model, stack([([1] * 9, [2] * 9)], 0))
    assert fastest_decoder(model, 4096) is not CachedDecoder


def test_architecture_that_is_not_causal_is_refused_before_loading() -> None:
    with pytest.raises(UserError, match="XLNetLMHeadModel is not causal") as error:
        check_architecture(AutoConfig.for_model("xlnet"))
    assert (error.value.key, error.value.value) == ("model.config.model_type", "xlnet")
