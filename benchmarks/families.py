"""Every family of architectures at the tiny scale: which decoder, packed or padded, tokens/s against ``generate``.

    python benchmarks/families.py [--families gemma2,phi3] [--rounds 3] [--threads 1] [--write docs/models.md] [--json]

Random weights in the shape of the tiny world's model; attention windows are shorter than the sequences, soft caps and
sinks large enough to matter. 64 tokens for 4 completions of each of 16 prompts, by r1's engine and by transformers'
``generate``, in turn; a family's ratio is the median of its rounds, in CPU time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from report import print_header, where
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from r1.core.seeds import derive_seed
from r1.model.forward import Forward
from r1.model.sequences import Sequences, stack
from r1.rollout.decoding.decoder import make_decoder
from r1.rollout.transformers import Transformers

Figures = dict[str, Any]
WINDOW = 24
SIZES: Figures = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "initializer_range": 0.1,
    "pad_token_id": 0,
}
MIXED: Figures = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": WINDOW}
# two of four experts, together as wide as the MLP of the others
EXPERTS: Figures = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 192}
WIDE_EXPERTS: Figures = {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 192}
ROUTED: Figures = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 192,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LATENT: Figures = {  # multi-head latent attention
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 24,
    "head_dim": 16,
}
CAPS: Figures = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}
FAMILIES: dict[str, Figures] = {
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": MIXED | CAPS,
    "gemma3_text": MIXED,
    "phi3": {"sliding_window": WINDOW},
    "olmo": {},
    "olmo2": {},
    "olmo3": MIXED,
    "granite": {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "logits_scaling": 4.0},
    "smollm3": {"no_rope_layers": [1, 0, 1, 0]},
    "glm": {},
    "glm4": {},
    "cohere": {},
    "cohere2": MIXED,
    "starcoder2": {"sliding_window": WINDOW},
    "gpt2": {"n_embd": 128, "n_layer": 4, "n_head": 4},
    "gpt_neox": {},
    "stablelm": {},
    "nemotron": {},
    "helium": {},
    "ernie4_5": {},
    "exaone4": MIXED,
    "seed_oss": {},
    "arcee": {},
    "apertus": {},
    "hunyuan_v1_dense": {},
    "nanochat": {},
    "ministral": MIXED,
    "opt": {"ffn_dim": 384, "word_embed_proj_dim": 128},
    "mixtral": WIDE_EXPERTS,
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 192},
    "qwen3_moe": EXPERTS,
    "olmoe": EXPERTS | {"intermediate_size": 192},
    "phimoe": WIDE_EXPERTS,
    "granitemoe": WIDE_EXPERTS,
    "glm4_moe": ROUTED,
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 192},
    "gpt_oss": MIXED | WIDE_EXPERTS,
    "deepseek_v2": ROUTED | LATENT | {"topk_method": "greedy"},
    "deepseek_v3": ROUTED | LATENT,
}
PROMPTS, GROUP, LIMIT = 16, 4, 64
SAMPLING: Figures = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "stop": []}
WORDS = {"LlamaDecoder": "fast", "GraphDecoder": "fast", "SharedPrefixDecoder": "shared"}  # of the page of models
MARKS = "<!-- families -->", "<!-- end of families -->"


def make(family: str, seed: int = 0, **fields: Any) -> PreTrainedModel:
    """Random weights, norms, biases and sinks included, in eval mode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        config = AutoConfig.for_model(family, **SIZES | FAMILIES[family] | fields)
        model = AutoModelForCausalLM.from_config(config).eval()
        for vector in (p for p in model.parameters() if p.ndim == 1):
            vector += 0.2 * torch.randn_like(vector)
    model.generation_config.eos_token_id = None
    return model


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(8, 32, (PROMPTS,), generator=generator).tolist()
    return [torch.randint(3, SIZES["vocab_size"], (n,), generator=generator).tolist() for n in lengths]


def rollouts(model: PreTrainedModel) -> Sequences:
    """All completions of one call of r1's engine."""
    engine = Transformers(max_completion_length=LIMIT, batch_size=PROMPTS * GROUP, async_steps=0, **SAMPLING)
    engine.update(model, 0)
    seeds = [[derive_seed("families", p, g) for g in range(GROUP)] for p in range(PROMPTS)]
    groups = engine.generate(prompts(), seeds, set())
    return stack([(r.prompt_ids, r.completion_ids) for group in groups for r in group], 0)


def generated(model: PreTrainedModel) -> None:
    """As many by transformers."""
    rows = [prompt for prompt in prompts() for _ in range(GROUP)]
    width = max(map(len, rows))
    model.generate(
        input_ids=torch.tensor([[0] * (width - len(row)) + row for row in rows]),
        attention_mask=torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
        generation_config=GenerationConfig(do_sample=True, top_k=0, max_new_tokens=LIMIT, pad_token_id=0),
    )


def cpu_s(function: Callable[[PreTrainedModel], Any], model: PreTrainedModel) -> float:
    start = time.process_time()
    function(model)
    return time.process_time() - start


def described(model: PreTrainedModel) -> Figures:
    """The decoder and the forward pass that serve a model."""
    length = max(map(len, prompts())) + LIMIT
    packs = Forward(True, share_prompts=True).can_pack(model, stack([([1] * (length - LIMIT), [1] * LIMIT)], 0))
    return {"decoder": type(make_decoder(model, length)).__name__, "packing": packs}


def measure(family: str, rounds: int) -> Figures:
    model = make(family)
    found = described(model)
    rollouts(model), generated(model)
    pairs = [(cpu_s(rollouts, model), cpu_s(generated, model)) for _ in range(rounds)]
    tokens = PROMPTS * GROUP * LIMIT
    ours, others = (tokens / min(seconds) for seconds in zip(*pairs, strict=True))
    ratio = statistics.median(other / our for our, other in pairs)
    return {"family": family, **found, "tokens_per_s": ours, "generate": others, "ratio": ratio}


def table(rows: list[Figures]) -> str:
    lines = ["| family | decoder | training | tokens/s | `generate` | ratio |", "|---|---|---|---:|---:|---:|"]
    for row in rows:
        packing = "packed" if row["packing"] else "padded"
        figures = f"{row['tokens_per_s']:,.0f} | {row['generate']:,.0f} | {row['ratio']:.2f}"
        decoder = WORDS.get(row["decoder"], "cached")
        lines.append(f"| `{row['family']}` | {decoder} | {packing} | {figures} |")
    return "\n".join(lines)


def write(page: Path, text: str) -> None:
    """Replace what lies between ``MARKS``."""
    before, _, rest = page.read_text().partition(MARKS[0])
    page.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, help="a page whose table is replaced")
    parser.add_argument("--json", action="store_true", help="one line of JSON at the end")
    args = parser.parse_args()
    found = where("cpu", args.threads)
    print_header(found)
    warnings.simplefilter("ignore")  # a slow decoder is in the table
    rows = []
    for family in args.families.split(","):
        rows.append(measure(family, args.rounds))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    if args.write:
        write(args.write, table(rows))
    if args.json:
        print(json.dumps(found | {"rows": rows}))


if __name__ == "__main__":
    main()
