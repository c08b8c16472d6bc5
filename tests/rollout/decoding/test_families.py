"""Every family of the page of models: its decoder, and log-probs of each sequence alone from decoder and packed row."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from r1.model.forward import Forward
from r1.model.sequences import stack
from r1.rollout.decoding.decoder import make_decoder
from r1.rollout.decoding.experts import experts_of_few_tokens

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from families import FAMILIES, described, make

pytestmark = pytest.mark.slow
SHARED_PREFIX = {"opt", "deepseek_v2", "deepseek_v3"}  # the model's forward; all others without it
GENERATOR = torch.Generator().manual_seed(5)


def draw(length: int) -> list[int]:
    return torch.randint(3, 500, (length,), generator=GENERATOR).tolist()


# longer than the window, within it, and behind it at the end; rows leave at different steps
LONG, SHORT, MIDDLE = draw(40), draw(3), draw(17)
PAIRS = [(LONG, draw(30)), (LONG, draw(9)), (SHORT, draw(40)), (SHORT, draw(2)), (MIDDLE, draw(1)), (MIDDLE, draw(26))]


def own_logps(model: PreTrainedModel) -> Tensor:
    """Each sequence by itself through transformers, completion tokens in order."""
    rows = []
    for prompt, completion in PAIRS:
        logits = model(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0].float()
        logps = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        rows.append(logps.gather(1, torch.tensor(completion)[:, None])[:, 0])
    return torch.cat(rows)


def decoded_logps(model: PreTrainedModel) -> Tensor:
    """The same from the decoder that serves the model."""
    decoder = make_decoder(model, 80)
    rows, found = list(range(len(PAIRS))), {}
    logits = decoder.start([LONG, SHORT, MIDDLE], [2, 2, 2])
    for t in range(max(len(completion) for _, completion in PAIRS)):
        logps = logits.float().log_softmax(-1)
        found.update({(b, t): logps[i, PAIRS[b][1][t]] for i, b in enumerate(rows)})
        kept = [i for i, b in enumerate(rows) if len(PAIRS[b][1]) > t + 1]
        if len(kept) == 0:
            break
        if len(kept) < len(rows):
            decoder.select_rows(torch.tensor(kept))
            rows = [rows[i] for i in kept]
        logits = decoder.step(torch.tensor([PAIRS[b][1][t] for b in rows]))
    return torch.stack([found[b, t] for b, (_, completion) in enumerate(PAIRS) for t in range(len(completion))])


@pytest.mark.parametrize("shared_from", [0, 64])
@pytest.mark.parametrize("family", list(FAMILIES))
@torch.no_grad()
def test_family_decodes_and_packs_as_each_sequence_alone(
    monkeypatch: pytest.MonkeyPatch, family: str, shared_from: int
) -> None:
    monkeypatch.setattr("r1.rollout.decoding.shared_prefix.SharedPrefixDecoder.shared_from", shared_from)
    model = make(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers about tiny configs
        decoder = "SharedPrefixDecoder" if family in SHARED_PREFIX else "LlamaDecoder"
        assert described(model) == {"decoder": decoder, "packing": True}
        expected = own_logps(model)
        assert expected.std() > 0.02
        assert (decoded_logps(model) - expected).abs().max() < 2e-4
        for share_prompts in (True, False):
            batch = stack(PAIRS, 0)
            packed, _ = Forward(True, share_prompts)(model, batch, 1.0)
            assert (packed[batch.mask] - expected).abs().max() < 2e-4


@pytest.mark.parametrize("family", list(FAMILIES))
@torch.no_grad()
def test_family_in_bfloat16_is_as_close_as_its_own_forward(family: str) -> None:
    """Both round; neither may be further from the exact log-probs than the other by a part that is missing."""
    exact, model = own_logps(make(family)), make(family).to(torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own, decoded = own_logps(model), decoded_logps(model)
        packed, _ = Forward(True, share_prompts=True)(model, batch := stack(PAIRS, 0), 1.0)
    error = (own - exact).abs().mean()
    for found in (decoded, packed[batch.mask]):
        assert (found - exact).abs().mean() < 2 * error + 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss"])
@torch.no_grad()
def test_experts_of_few_tokens_equal_the_models_own(family: str, dtype: torch.dtype) -> None:
    """Of 4 experts one has no token; gpt_oss's have biases, which transformers' own function adds."""
    (experts, *_) = [module for name, module in make(family).to(dtype).named_modules() if name.endswith(".experts")]
    states = torch.randn(9, 128, generator=GENERATOR).to(dtype)
    index = torch.randint(0, 3, (9, 2), generator=GENERATOR)
    weights = torch.rand(9, 2, generator=GENERATOR)
    found, expected = experts_of_few_tokens(experts, states, index, weights), experts(states, index, weights)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
