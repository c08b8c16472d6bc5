"""Draws from a truncated distribution: against transformers' own filters, in the order that vLLM applies them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rolloutsupport import at
from scipy.stats import chisquare
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from r1.core.seeds import derive_seed
from r1.rollout.base import Sampling
from r1.rollout.decoding.cuda_graph import GraphDecoder
from r1.rollout.decoding.decoder import CachedDecoder
from r1.rollout.decoding.llama_decoder import LlamaDecoder
from r1.rollout.decoding.shared_prefix import SharedPrefixDecoder
from r1.rollout.decoding.token_sampler import TokenSampler, truncate
from r1.rollout.transformers import Transformers

DECODERS = [CachedDecoder, SharedPrefixDecoder, LlamaDecoder, GraphDecoder]
KNOBS = [
    at(0.7, top_p=0.8),
    at(1.3, top_k=5),
    at(1.0, min_p=0.2),
    at(1.0, repetition_penalty=1.8),
    at(0.9, top_p=0.9, top_k=12, min_p=0.05, repetition_penalty=1.3),
]
DRAWN = [(decoder, KNOBS[k]) for decoder in DECODERS for k in ((0, 1, 2, 3, 4) if decoder is LlamaDecoder else (0, 4))]
PROMPT = [3, 7, 7, 90]
DRAWS = 2000


def reference(sampling: Sampling, input_ids: Tensor, logits: Tensor) -> Tensor:
    """(B, V) log-probs by transformers' classes."""
    filters = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(float(sampling["repetition_penalty"]))])
    filters.append(TemperatureLogitsWarper(float(sampling["temperature"])))
    filters.append(MinPLogitsWarper(sampling["min_p"]))
    filters += [TopKLogitsWarper(sampling["top_k"])] if sampling["top_k"] else []
    filters.append(TopPLogitsWarper(sampling["top_p"]))
    scores: Tensor = filters(input_ids, logits)
    return scores.log_softmax(-1)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 999),
    vocab_size=st.sampled_from([3, 97, 2500]),
    spread=st.sampled_from([0.1, 2.0, 8.0]),
    knobs=st.fixed_dictionaries(
        {
            "top_p": st.floats(0.01, 1),
            "top_k": st.integers(0, 120),
            "min_p": st.sampled_from([0.0, 0.01, 0.3, 1.0]),
        }
    ),
)
def test_kept_set_equals_that_of_transformers(seed: int, vocab_size: int, spread: float, knobs: dict[str, Any]) -> None:
    logits = spread * torch.randn(4, vocab_size, generator=torch.Generator().manual_seed(seed))
    sampling = at(1.0, **knobs)
    expected = reference(sampling, torch.zeros(4, 1, dtype=torch.long), logits)
    actual = truncate(logits, sampling).log_softmax(-1)
    assert torch.equal(actual.isfinite(), expected.isfinite())
    assert actual[actual.isfinite()].tolist() == pytest.approx(expected[expected.isfinite()].tolist(), abs=1e-4)


def test_truncate_keeps_the_sets_worked_out_by_hand() -> None:
    """Probabilities .4 .3 .2 .1: min_p first, and top_p counts the mass that is left."""
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    for knobs, kept_set in [
        ({"top_p": 0.65}, [0, 1]),
        ({"top_p": 0.75}, [0, 1, 2]),
        ({"top_k": 3}, [0, 1, 2]),
        ({"top_k": 9}, [0, 1, 2, 3]),
        ({"min_p": 0.6}, [0, 1]),
        ({"min_p": 0.6, "top_p": 0.5}, [0]),  # .4 is 57 % of .4 + .3
        ({"top_k": 2, "top_p": 0.9}, [0, 1]),
        ({"top_p": 1e-9}, [0]),
    ]:
        assert truncate(logits, at(1.0, **knobs)).isfinite()[0].nonzero().flatten().tolist() == kept_set, knobs


def test_tokens_of_equal_probability_stay_together() -> None:
    kept_set = truncate(torch.zeros(1, 8), at(1.0, top_p=0.5, top_k=2)).isfinite()
    assert kept_set.all()


@pytest.mark.parametrize("spread", [0.01, 4.0])
def test_nucleus_of_a_row_does_not_depend_on_the_other_rows(spread: float) -> None:
    logits = spread * torch.randn(3, 9000, generator=torch.Generator().manual_seed(1))
    flat = torch.zeros(1, 9000)  # needs all candidates
    together = truncate(torch.cat([logits, flat]), at(1.0, top_p=0.9))[:3]
    assert torch.equal(together, torch.cat([truncate(row[None], at(1.0, top_p=0.9)) for row in logits]))


def test_greedy_draw_ignores_the_filters_but_not_the_penalty() -> None:
    logits, uniform = torch.tensor([[2.0, 1.9, -3.0]]), torch.tensor([0.5], dtype=torch.float64)
    assert TokenSampler(at(0.0, top_p=0.1, min_p=0.5), [[0]]).draw(logits, uniform)[0].tolist() == [0]
    sampler = TokenSampler(at(0.0, repetition_penalty=1.2), [[0]])  # 2.0 / 1.2 = 1.67; then 1.9 / 1.2 = 1.58
    assert [int(sampler.draw(logits, uniform)[0]) for _ in range(2)] == [1, 0]


@torch.no_grad()
def exact_logps(model: PreTrainedModel, sampling: Sampling, completion: list[int]) -> list[float]:
    """The log-prob of each token under the truncated distribution, the sequence anew for each."""
    result = []
    for t, token in enumerate(completion):
        ids = torch.tensor([PROMPT + completion[:t]])
        result.append(float(reference(sampling, ids, model(input_ids=ids).logits[:, -1].float())[0, token]))
    return result


@pytest.mark.parametrize(
    ("decoder", "sampling"),
    [
        *((decoder, KNOBS[k]) for decoder in DECODERS for k in (0, -1)),
        *((LlamaDecoder, knobs) for knobs in KNOBS[1:-1]),
    ],
)
def test_draws_of_each_decoder_have_the_truncated_distribution(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, decoder: Callable[..., Any], sampling: Sampling
) -> None:
    monkeypatch.setattr("r1.rollout.transformers.make_decoder", lambda model, longest: decoder(model))
    engine = Transformers(**sampling, max_completion_length=3, batch_size=DRAWS, async_steps=0)
    engine.update(llama, 0)
    (group,) = engine.generate([PROMPT], [[derive_seed("chi", g) for g in range(DRAWS)]], set())
    for rollout in group[:20]:
        assert rollout.logps == pytest.approx(exact_logps(llama, sampling, rollout.completion_ids), abs=1e-4)
    pairs = Counter(tuple(rollout.completion_ids[:2]) for rollout in group)
    probs = {tuple(r.completion_ids[:2]): float(torch.tensor(r.logps[:2]).sum().exp()) for r in group}
    frequent = [pair for pair, p in probs.items() if p * DRAWS >= 5]
    expected = [probs[pair] * DRAWS for pair in frequent]
    observed = [pairs[pair] for pair in frequent]
    rest = DRAWS - sum(expected)
    if rest >= 5:
        expected, observed = [*expected, rest], [*observed, DRAWS - sum(observed)]
    else:
        expected = [e * sum(observed) / sum(expected) for e in expected]
    assert len(expected) > 3
    assert chisquare(observed, expected).pvalue > 1e-3
