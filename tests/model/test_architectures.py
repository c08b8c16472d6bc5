"""Every row of docs/models.md: rollouts are those of ``generate``, and log-probs those of each sequence by itself."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from rolloutsupport import at
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from r1.core.errors import UserError
from r1.model.forward import Forward
from r1.model.sequences import stack
from r1.model.twin import small_config
from r1.rollout.base import Rollout
from r1.rollout.decoding.decoder import check_architecture, fastest_decoder
from r1.rollout.transformers import Transformers

DOCS = Path(__file__).parents[2] / "docs" / "models.md"
ROW = re.compile(r"^\| `([^`]+)` \| (\w+) \| (yes|no|[a-z ]+) \|$", re.MULTILINE)
DECODERS = {
    "LlamaDecoder": "fast",
    "SharedPrefixDecoder": "shared",
    "CachedDecoder": "cached",
    "UnpaddedDecoder": "unpadded",
    "RecomputeDecoder": "recompute",
}
REPRESENTATIVE = ["gemma2", "jamba", "mamba", "minimax", "qwen2_moe", "rwkv", "bart", "xlnet"]
PROMPTS = [[5, 6, 7], [9, 2, 4, 4, 8, 1, 3], [40, 41, 42, 43, 44], [11, 12, 13], [30, 31]]
GROUP_SIZES = [2, 1, 1, 1, 1]
STOPS, LENGTH, ATOL = set(range(1, 9)), 9, 2e-4
CONV, MAMBA = ["conv", "conv", "full_attention"] * 2, ["linear_attention", "hybrid"] * 2
DECODER: dict[str, Any] = {"is_decoder": True}  # of an encoder's config
# fields without which a config class makes no model, or none with layers of both kinds
FIELDS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie"), DECODER),
    **dict.fromkeys(("megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer"), DECODER),
    **dict.fromkeys(("xlm-roberta", "xlm-roberta-xl"), DECODER),
    **{name: {"head_dim": 128} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    **{name: {"layer_types": CONV, "num_hidden_layers": 6} for name in ("lfm2", "lfm2_moe")},
    "bamba": {"attn_layer_indices": [1], "num_hidden_layers": 4},
    "blenderbot": {"encoder_layers": 2, "decoder_layers": 2},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4},
    "granitemoehybrid": {"layers_block_type": ["mamba", "attention"] * 2, "num_hidden_layers": 4, "mamba_n_heads": 128},
    "hrm_text": {"num_hidden_layers": 1, "H_cycles": 1, "L_cycles": 1, "L_bp_cycles": [1]},
    "nemotron": {"num_key_value_heads": 8},
    "reformer": DECODER | {"axial_pos_embds": False},
    "xmod": DECODER | {"default_language": "en_XX"},
    "zamba": {"hidden_size": 32, "num_attention_heads": 4},
    "zamba2": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "mamba_expand": 1,
        "n_mamba_heads": 4,
        "layers_block_type": MAMBA,
        "num_hidden_layers": 4,
    },
}
FIELDS["cohere_compass_text"] = {
    "rope_parameters": {
        kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")
    }
}


@cache
def table() -> dict[str, tuple[str, str]]:
    """Decoder and packing by family."""
    return {name: (decoder, packing) for name, decoder, packing in ROW.findall(DOCS.read_text())}


def tiny_config(name: str) -> PretrainedConfig:
    full = AutoConfig.for_model(name, **FIELDS.get(name, {}))
    small = small_config(full)
    for field in ("time_step_min", "mamba_dt_min"):  # raised in a twin
        if hasattr(full, field):
            setattr(small, field, getattr(full, field))
    if name == "xlstm":  # transformers' kernels need heads of 64 / num_heads at least
        small.update({"hidden_size": 128, "embedding_dim": 128})
    return small


@torch.no_grad()
def tiny_model(config: PretrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for weight in model.parameters():
            weight.copy_(0.15 * torch.randn_like(weight) + (weight if weight.ndim == 1 else 0))
    model.generation_config = type(model.generation_config)(pad_token_id=0)
    return model


def sampled(model: PreTrainedModel) -> list[Rollout]:
    engine = Transformers(**at(0), max_completion_length=LENGTH, batch_size=64, async_steps=0)
    engine.update(model, 0)
    seeds = [list(range(size)) for size in GROUP_SIZES]
    return [rollout for group in engine.generate(PROMPTS, seeds, STOPS) for rollout in group]


@torch.no_grad()
def own_logps(model: PreTrainedModel, rollout: Rollout) -> Tensor:
    """Of the completion's tokens, from one row without padding and without a cache."""
    ids, start = rollout.prompt_ids + rollout.completion_ids, len(rollout.prompt_ids)
    logps = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)
    return logps[start - 1 : -1].gather(1, torch.tensor(ids[start:])[:, None]).squeeze(1)


def greedy(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    options: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "do_sample": False, "use_cache": True}
    return model.generate(ids, max_new_tokens=LENGTH, **options)[0, len(prompt) :].tolist()


FAMILIES = [pytest.param(n, marks=[] if n in REPRESENTATIVE else pytest.mark.slow) for n in table()]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore")  # of transformers' own modules
def test_family_runs_as_generate_and_as_each_sequence_alone(name: str) -> None:
    decoder, packing = table()[name]
    config = tiny_config(name)
    if decoder == "refused":
        with pytest.raises(UserError, match=packing):
            check_architecture(config)
        return
    check_architecture(config)
    model = tiny_model(config)
    rollouts = sampled(model)
    assert DECODERS[fastest_decoder(model, 20).__name__] == decoder  # type: ignore[attr-defined]
    batch = stack([(r.prompt_ids, r.completion_ids) for r in rollouts], 0)
    forwards = [Forward(packing=True, share_prompts=True), Forward(packing=False, share_prompts=False)]
    with torch.no_grad():
        trained = [forward(model, batch, 1.0)[0] for forward in forwards]
    assert forwards[0].can_pack(model, batch) == (packing == "yes")
    for b, rollout in enumerate(rollouts):
        length = len(rollout.completion_ids)
        assert rollout.completion_ids == greedy(model, rollout.prompt_ids)[:length]
        expected = own_logps(model, rollout)
        for logps in (torch.tensor(rollout.logps), *(rows[b, :length] for rows in trained)):
            torch.testing.assert_close(logps, expected, atol=ATOL, rtol=0)


def test_95_families_of_100_run() -> None:
    refused = [name for name, (decoder, _) in table().items() if decoder == "refused"]
    assert len(table()) >= 170
    assert len(refused) <= 0.08 * len(table())
