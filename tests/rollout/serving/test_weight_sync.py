"""vLLM in this process, played by a transformers model: what it is told, what it must say, what is found out."""

from __future__ import annotations

import copy
import random
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import pytest
import torch
from fakevllm import LLM, SamplingParams, WeightedModel
from loras import make_lora
from rolloutsupport import PROMPTS, SEEDS, STOP, assert_same, at, moved
from transformers import PreTrainedModel

from r1.core.errors import Interrupted, UserError
from r1.model.transformers_adapter import unwrap_peft
from r1.rollout import vllm as module
from r1.rollout.serving.weight_sync import VllmCompletion, check_tokens, checkpoint_weights, sampling_parameters
from r1.rollout.transformers import Transformers
from r1.rollout.vllm import VLLM

Make = Callable[..., PreTrainedModel]


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    played = ModuleType("vllm")
    played.LLM, played.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", played)
    monkeypatch.setattr(module, "ENVIRONMENT", {})
    LLM.instances.clear()
    return played


def engine(**changes: Any) -> VLLM:
    knobs: dict[str, Any] = {**at(0.8), "max_completion_length": 12, "batch_size": 64, "dtype": None}
    knobs |= {
        "max_model_len": None,
        "gpu_memory_utilization": 0.3,
        "cpu_kvcache_space": 1.5,
        "enable_sleep_mode": False,
    }
    return VLLM(**knobs | changes)


def test_vllm_completions_equal_the_policys_at_each_version(make_model: Make) -> None:
    model, made = make_model("llama"), engine()
    embedded = Transformers(**at(0.8), max_completion_length=12, batch_size=64, async_steps=0)
    for step in range(3):
        made.update(moved(model, step), step)
        embedded.update(model, step)
        found = made.generate(PROMPTS, SEEDS, STOP)
        assert_same(found, embedded.generate(PROMPTS, SEEDS, STOP))
    assert {r.truncated for group in found for r in group} == {True, False}
    (llm,) = LLM.instances
    assert llm.weighed.loads == 3


def test_weights_are_sent_once_per_version(make_model: Make) -> None:
    model, made = make_model("llama"), engine()
    for step in (0, 0, 1, 1, 1):
        made.update(model, step)
    assert LLM.instances[0].weighed.loads == 2
    assert LLM.instances[0].calls == ["r1_load", "reset"] * 2


def test_engine_args_start_from_random_weights(make_model: Make) -> None:
    made = engine(batch_size=7, max_model_len=64, enable_sleep_mode=True)
    made.update(make_model("llama"), 0)
    expected = {"load_format": "dummy", "skip_tokenizer_init": True, "dtype": "float32", "max_model_len": 64}
    expected |= {"max_num_seqs": 7, "enable_prefix_caching": True, "logprobs_mode": "processed_logprobs"}
    expected |= {"kv_cache_memory_bytes": 3 * 2**29, "enable_sleep_mode": False, "enforce_eager": True}
    assert LLM.instances[0].settings.items() >= expected.items()
    assert LLM.instances[0].settings["worker_extension_cls"] == "r1.rollout.serving.vllm_worker.WeightLoader"


def test_sampling_parameters_are_all_explicit() -> None:
    parameters = sampling_parameters(at(0.7, top_p=0.9, top_k=7, min_p=0.1, stop=["x"]), 5, 11, {3, 1})
    assert (parameters["temperature"], parameters["max_tokens"], parameters["seed"], parameters["stop_token_ids"]) == (
        0.7,
        5,
        11,
        [1, 3],
    )
    assert (parameters["top_p"], parameters["top_k"], parameters["min_p"], parameters["repetition_penalty"]) == (
        0.9,
        7,
        0.1,
        1.0,
    )
    assert "stop" not in parameters  # vLLM has no tokenizer
    assert (parameters["n"], parameters["logprobs"], parameters["ignore_eos"], parameters["detokenize"]) == (
        1,
        0,
        True,
        False,
    )


def test_probe_detects_weights_that_are_not_used(make_model: Make) -> None:
    model, made = make_model("llama"), engine()
    made.update(model, 0)
    LLM.instances[0].weighed.ignores_weights = True
    with pytest.raises(UserError, match=r"does not sample with them: log-probs are off by \d") as caught:
        made.update(moved(model, 1), 1)
    assert caught.value.expected == "at most 0.001"
    with pytest.raises(UserError, match="other weights"):
        made.generate(PROMPTS, SEEDS, STOP)


def test_generate_with_foreign_version_raises(make_model: Make) -> None:
    made = engine()
    made.update(make_model("llama"), 4)
    LLM.instances[0].weighed.version = "0badcafe/4"
    with pytest.raises(UserError, match="vLLM sampled with other weights than those of the last update") as caught:
        made.generate(PROMPTS, SEEDS, STOP)
    assert (caught.value.value, caught.value.expected, caught.value.code) == (
        "0badcafe/4",
        made.engine_weights.version,
        1,
    )
    assert made.engine_weights.version.endswith("/4")


def test_two_runs_have_different_versions(make_model: Make) -> None:
    one, other = engine(), engine()
    for made in (one, other):
        made.update(make_model("llama"), 0)
    assert one.engine_weights.version != other.engine_weights.version


def test_rejected_weights_raise(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WeightedModel, "load", lambda self, weights: {}["lm_head.weight"])
    with pytest.raises(UserError, match=r"vLLM does not take the policy's weights: KeyError: 'lm_head.weight'"):
        engine().update(make_model("llama"), 0)


def test_failed_start_raises_and_restores_global_state(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: LLM, model: str, **settings: Any) -> None:
        random.seed(0)
        torch.set_num_threads = None  # type: ignore[assignment]
        raise ValueError("No available memory for the cache blocks")

    monkeypatch.setattr(LLM, "__init__", broken)
    before, threads, drawn = random.getstate(), torch.set_num_threads, torch.random.get_rng_state()
    with pytest.raises(UserError, match="vLLM does not start: ValueError: No available memory") as caught:
        engine().update(make_model("llama"), 0)
    assert "rollout.cpu_kvcache_space" in caught.value.hint
    assert (random.getstate(), torch.set_num_threads) == (before, threads)
    assert torch.equal(torch.random.get_rng_state(), drawn)


def test_stop_between_steps_aborts_all_requests(make_model: Make) -> None:
    made, asked = engine(), []

    def check_for_stop() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise Interrupted(signal.SIGTERM)

    made.update(make_model("llama"), 0)
    with pytest.raises(Interrupted):
        made.generate(PROMPTS, SEEDS, STOP, check_for_stop)
    inside = LLM.instances[0].llm_engine
    assert inside.aborted == [f"{n}-inside" for n in range(9)]
    assert not inside.has_unfinished_requests()


def test_sleep_mode_sleeps_between_rollouts(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = VLLM.engine_args
    monkeypatch.setattr(VLLM, "engine_args", lambda *a: settings(*a) | {"enable_sleep_mode": True})  # as on a GPU
    model, made = make_model("llama"), engine(enable_sleep_mode=True)
    made.update(model, 0)
    first = made.generate(PROMPTS, SEEDS, STOP)
    assert made.generate(PROMPTS, SEEDS, STOP) == first  # groups drawn again: no new weights
    made.update(moved(model, 1), 1)
    made.generate(PROMPTS, SEEDS, STOP)
    made.close()
    sent = ["r1_load", "reset"]
    assert LLM.instances[0].calls == [*sent, "sleep 1", "wake", "sleep 1", "wake", *sent, "sleep 1", "shutdown"]


def test_engine_copies_share_the_llm_and_its_weights(make_model: Make) -> None:
    """``stage=distill_direct`` asks for questions with another temperature and another length."""
    made = engine()
    asking = copy.copy(made)
    asking.max_completion_length = 2
    asking.update(make_model("llama"), 0)
    made.update(make_model("llama"), 0)
    assert max(len(r.completion_ids) for group in asking.generate(PROMPTS, SEEDS, set()) for r in group) == 2
    assert {len(r.completion_ids) for group in made.generate(PROMPTS, SEEDS, set()) for r in group} == {12}
    assert LLM.instances[0].weighed.loads == 1


@pytest.mark.parametrize("tied", [True, False])
def test_checkpoint_weights_equal_the_state_dict(make_model: Make, tied: bool) -> None:
    model = make_model("llama", tie_word_embeddings=tied)
    found = checkpoint_weights(model)
    assert ("lm_head.weight" in found) is not tied
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.items())


def test_checkpoint_weights_merge_lora(make_model: Make) -> None:
    wrapped: Any = make_lora(r=4, alpha=8.0, target_modules="all-linear").wrap(make_model("llama"))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            parameter += 0.1 if "lora_" in name else 0.0
    before = {name: value.clone() for name, value in unwrap_peft(wrapped).state_dict().items()}
    found = {name: value.clone() for name, value in checkpoint_weights(wrapped).items()}
    assert all(torch.equal(value, before[name]) for name, value in unwrap_peft(wrapped).state_dict().items())
    merged = dict(copy.deepcopy(wrapped).merge_and_unload().named_parameters())
    assert found.keys() == merged.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, merged[name])
    assert any(not torch.equal(value, before.get(name, value)) or name not in before for name, value in found.items())


def test_grpo_recomputes_logps_of_inexact_engines(stage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert (VLLM.logprobs_match_trainer, Transformers.logprobs_match_trainer) == (False, True)
    once, twice = stage("stage=grpo"), stage("stage=grpo", "stage.num_iterations=2")
    assert once.collect(0)[0].old_logps is not None
    monkeypatch.setattr(Transformers, "logprobs_match_trainer", False)
    assert once.collect(0)[0].old_logps is None
    assert once.objective.importance.keywords == {"cap": 2.0}  # corrected unless it is switched off
    again = twice.collect(0)[0]
    assert again.old_logps is not again.engine_logps
    torch.testing.assert_close(again.old_logps, again.engine_logps, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("ids", "logps", "accepted"),
    [
        ([1, 9], [-0.5, 0.0], True),
        ([1, 10], [-0.5, -0.1], False),  # no such token
        ([1, 2, 3], [-0.5, -0.1, -0.1], False),  # longer than asked
        ([], [], False),
        ([1], [0.5], False),  # a probability above 1
    ],
)
def test_check_tokens_rejects_completions_that_the_policy_cannot_sample(
    ids: list[int], logps: list[float], accepted: bool
) -> None:
    with nullcontext() if accepted else pytest.raises(UserError, match="cannot have sampled"):
        check_tokens([VllmCompletion(ids, logps, ["a/0"])], vocab_size=10, max_length=2)
