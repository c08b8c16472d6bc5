"""The embedded engine against a decoder of ten lines without cache, batch or padding."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from rolloutsupport import at
from transformers import PreTrainedModel

from r1.core.errors import Interrupted
from r1.core.seeds import derive_seed, uniforms
from r1.model.functional import sample
from r1.rollout.base import Rollout
from r1.rollout.decoding.decoder import fastest_decoder
from r1.rollout.decoding.shared_prefix import SharedPrefixDecoder
from r1.rollout.transformers import Transformers

ARCHITECTURES = ["llama", "qwen2", "qwen3", "gpt2", "gemma2"]  # one for each decoder, and two more
TEMPERATURES = [0.6, 1.0, 1.3]
PROMPTS = [[5], [7, 8, 9, 10, 11, 12], [3, 3, 3], [90, 2, 17, 44]]
STOP = set(range(85, 97))  # an eighth of the vocabulary: completions end at different places
LENGTH = 12


def engine(temperature: float = 1.0, max_completion_length: int = LENGTH, batch_size: int = 64) -> Transformers:
    return Transformers(
        **at(temperature), max_completion_length=max_completion_length, batch_size=batch_size, async_steps=0
    )


def sampled(engine: Transformers, model: PreTrainedModel, *asked: Any) -> list[list[Rollout]]:
    engine.update(model, 0)
    return engine.generate(*asked)


def seeds_of(num_samples: int, prompts: Sequence[Any] = PROMPTS) -> list[list[int]]:
    return [[derive_seed("test", p, g) for g in range(num_samples)] for p in range(len(prompts))]


def ids(groups: list[list[Rollout]]) -> list[list[list[int]]]:
    return [[rollout.completion_ids for rollout in group] for group in groups]


@torch.no_grad()
def slow(model: PreTrainedModel, prompt: list[int], seed: int, temperature: float, stop: set[int]) -> Rollout:
    """One completion, the whole sequence anew for each token."""
    completion: list[int] = []
    logps: list[float] = []
    for t in range(LENGTH):
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[:, -1]
        token = int(sample(logits, uniforms([seed], LENGTH)[:, t], temperature)[0])
        completion.append(token)
        logps.append(float((logits[0] / (temperature or 1.0)).log_softmax(-1)[token]))
        if token in stop:
            return Rollout(prompt, completion, logps, truncated=False)
    return Rollout(prompt, completion, logps, truncated=True)


@pytest.mark.parametrize("temperature", [0.0, *TEMPERATURES])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_engine_equals_the_reference_decoder(
    make_model: Callable[..., PreTrainedModel], architecture: str, temperature: float
) -> None:
    model, seeds = make_model(architecture), seeds_of(3)
    found = sampled(engine(temperature), model, PROMPTS, seeds, STOP)
    lengths = set()
    for prompt, group, group_seeds in zip(PROMPTS, found, seeds, strict=True):
        for rollout, seed in zip(group, group_seeds, strict=True):
            expected = slow(model, prompt, seed, temperature, STOP)
            assert rollout.prompt_ids == prompt
            assert rollout.completion_ids == expected.completion_ids
            assert rollout.truncated == expected.truncated
            assert rollout.logps == pytest.approx(expected.logps, abs=1e-5)
            lengths.add(len(rollout.logps))
    assert len(lengths) > (2 if temperature else 0)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_right_padded_sequences_have_the_sampled_logps(
    make_model: Callable[..., PreTrainedModel], architecture: str, temperature: float
) -> None:
    """What a trainer sees of a rollout, closing token included: the reason that the first ratio is 1."""
    model = make_model(architecture)
    rollouts = [r for g in sampled(engine(temperature), model, PROMPTS, seeds_of(3), STOP) for r in g]
    rows = [torch.tensor(r.prompt_ids + r.completion_ids) for r in rollouts]
    input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    with torch.no_grad():
        logps = (model(input_ids=input_ids).logits[:, :-1] / temperature).log_softmax(-1)
    found = logps.gather(-1, input_ids[:, 1:, None]).squeeze(-1)
    for rollout, row in zip(rollouts, found, strict=True):
        start = len(rollout.prompt_ids) - 1
        assert row[start : start + len(rollout.logps)].tolist() == pytest.approx(rollout.logps, abs=1e-5)
    assert any(not r.truncated for r in rollouts)
    assert any(r.truncated for r in rollouts)


# ---- a completion is a function of (weights, prompt, seed) alone ----


@pytest.fixture(scope="module")
def together(llama: PreTrainedModel) -> list[list[Rollout]]:
    return sampled(engine(), llama, PROMPTS, seeds_of(4), STOP)


def assert_same(found: list[Rollout], expected: list[Rollout]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a.completion_ids, a.truncated) == (b.completion_ids, b.truncated)
        assert a.logps == pytest.approx(b.logps, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 5, 8, 16])
def test_batch_size_does_not_change_completions(
    llama: PreTrainedModel, together: list[list[Rollout]], batch_size: int
) -> None:
    found = sampled(engine(batch_size=batch_size), llama, PROMPTS, seeds_of(4), STOP)
    for a, b in zip(found, together, strict=True):
        assert_same(a, b)


def test_order_does_not_change_completions(llama: PreTrainedModel, together: list[list[Rollout]]) -> None:
    seeds = [group[::-1] for group in seeds_of(4)[::-1]]
    found = sampled(engine(), llama, PROMPTS[::-1], seeds, STOP)
    for a, b in zip(found, together[::-1], strict=True):
        assert_same(a, b[::-1])


def test_other_prompts_do_not_change_completions(llama: PreTrainedModel, together: list[list[Rollout]]) -> None:
    for p, prompt in enumerate(PROMPTS):
        for g, seed in enumerate(seeds_of(4)[p]):
            (alone,) = sampled(engine(), llama, [prompt], [[seed]], STOP)
            assert_same(alone, together[p][g : g + 1])
            far, _ = sampled(engine(), llama, [prompt, [1] * 40], [[seed], [1, 2]], STOP)
            assert_same(far, together[p][g : g + 1])


def test_groups_of_different_sizes_decode_alike(llama: PreTrainedModel, together: list[list[Rollout]]) -> None:
    seeds = [group[: p + 1] for p, group in enumerate(seeds_of(4))]
    found = sampled(engine(batch_size=4), llama, PROMPTS, seeds, STOP)
    assert [len(group) for group in found] == [1, 2, 3, 4]
    for a, b in zip(found, together, strict=True):
        assert_same(a, b[: len(a)])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.1])  # finished rows never leave, leave in lots, leave at once
def test_compaction_does_not_change_completions(
    llama: PreTrainedModel, together: list[list[Rollout]], monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(SharedPrefixDecoder, "compact_below", share)
    for a, b in zip(sampled(engine(), llama, PROMPTS, seeds_of(4), STOP), together, strict=True):
        assert_same(a, b)


def test_finished_rows_leave_the_batch(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fastest_decoder(llama)  # the probe is not counted
    prefilled: list[int] = []
    widths: list[int] = []
    start, step = SharedPrefixDecoder.start, SharedPrefixDecoder.step

    def starting(self: SharedPrefixDecoder, prompts: Sequence[list[int]], group_sizes: Sequence[int]) -> Any:
        prefilled.append(len(prompts))
        return start(self, prompts, group_sizes)

    def stepping(self: SharedPrefixDecoder, tokens: Any) -> Any:
        widths.append(len(tokens))
        return step(self, tokens)

    monkeypatch.setattr(SharedPrefixDecoder, "start", starting)
    monkeypatch.setattr(SharedPrefixDecoder, "step", stepping)
    rollouts = [r for g in sampled(engine(), llama, PROMPTS, seeds_of(4), STOP) for r in g]
    assert prefilled == [4]  # each prompt is read once
    assert widths[0] == 16
    assert widths[-1] < 16
    assert len(widths) == max(len(r.completion_ids) for r in rollouts) - 1


def test_check_for_stop_raises_between_two_tokens(llama: PreTrainedModel) -> None:
    """As many questions as tokens, and whoever raises is heard at once."""
    asked: list[int] = []

    def check_for_stop() -> None:
        asked.append(len(asked))
        if len(asked) == 5:
            raise Interrupted(signal.SIGTERM)

    llama.train()
    with pytest.raises(Interrupted):
        sampled(engine(), llama, PROMPTS, seeds_of(2), set(), check_for_stop)
    assert len(asked) == 5
    assert llama.training  # the mode is put back
    llama.eval()
    asked.clear()
    sampled(engine(max_completion_length=4), llama, PROMPTS, seeds_of(2), set(), check_for_stop)
    assert len(asked) == 4


def test_longer_limit_only_extends_completions(llama: PreTrainedModel, together: list[list[Rollout]]) -> None:
    longer = sampled(engine(max_completion_length=2 * LENGTH), llama, PROMPTS, seeds_of(4), STOP)
    for a, b in zip(longer, together, strict=True):
        assert [r.completion_ids[:LENGTH] for r in a] == [r.completion_ids for r in b]


def test_other_seeds_give_other_completions(llama: PreTrainedModel) -> None:
    (group,) = sampled(engine(), llama, [PROMPTS[0]], [[derive_seed("other", g) for g in range(8)]], set())
    assert len({tuple(r.completion_ids) for r in group}) == 8


# ---- where a completion ends ----


def test_completion_ends_at_its_first_stop_token_or_the_limit(together: list[list[Rollout]]) -> None:
    for rollout in (r for group in together for r in group):
        *inside, last = rollout.completion_ids
        assert not STOP & set(inside)
        assert rollout.truncated == (last not in STOP)
        assert len(rollout.completion_ids) == len(rollout.logps) <= LENGTH
        assert len(rollout.completion_ids) == LENGTH or not rollout.truncated


def test_limit_of_one_token_gives_one_token(llama: PreTrainedModel) -> None:
    everything = sampled(engine(max_completion_length=1), llama, PROMPTS, seeds_of(1), set(range(97)))
    nothing = sampled(engine(max_completion_length=1), llama, PROMPTS, seeds_of(1), {96})
    assert [[r.truncated for r in group] for group in everything] == [[False]] * 4
    assert {len(r.completion_ids) for group in nothing for r in group} == {1}


def test_sampling_disables_dropout_and_restores_the_mode(
    make_model: Callable[..., PreTrainedModel],
) -> None:
    model = make_model("llama", attention_dropout=0.5)
    expected = ids(sampled(engine(), model, PROMPTS, seeds_of(2), STOP))
    assert not model.training
    model.train()
    assert ids(sampled(engine(), model, PROMPTS, seeds_of(2), STOP)) == expected
    assert model.training


def test_logps_keep_their_precision_in_half_precision(make_model: Callable[..., PreTrainedModel]) -> None:
    """Lightning changes torch's default type around a validation in half precision."""
    model = make_model("llama").to(torch.bfloat16)
    expected = sampled(engine(), model, PROMPTS, seeds_of(2), STOP)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert sampled(engine(), model, PROMPTS, seeds_of(2), STOP) == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_sampling_leaves_no_graph_and_no_gradient(llama: PreTrainedModel) -> None:
    sampled(engine(), llama, PROMPTS, seeds_of(1), STOP)
    assert all(p.grad is None for p in llama.parameters())
