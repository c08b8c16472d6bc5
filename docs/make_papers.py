"""Writes docs/papers.md: the experiments of conf/experiment/papers side by side, with the sources of their values.

python docs/make_papers.py
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from r1.config.overrides import parse_command_line
from r1.core.paths import CONF
from r1.experiment.pipeline.parse import parse_pipelines
from r1.model.memory import GB, MemoryEstimate, estimate_memory
from r1.model.recipe import num_parameters

PAGE = Path(__file__).with_name("papers.md")
PAPERS = {file.stem: file for file in sorted((CONF / "experiment/papers").glob("[!_]*.yaml"))}
QWEN2 = {"model_type": "qwen2", "vocab_size": 152_064, "num_key_value_heads": 8}
SHAPES: dict[str, dict[str, int | str]] = {  # from the models' config.json
    "Qwen/Qwen2.5-32B": QWEN2
    | {"hidden_size": 5120, "intermediate_size": 27_648, "num_hidden_layers": 64, "num_attention_heads": 40},
    "Qwen/Qwen2.5-Math-7B": QWEN2
    | {"hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4},
    "Qwen/Qwen2.5-Math-1.5B": QWEN2
    | {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}
    | {"num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True},
    "Qwen/Qwen3-1.7B-Base": QWEN2
    | {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16}
    | {"vocab_size": 151_936, "tie_word_embeddings": True},
    "Qwen/Qwen3-4B": QWEN2
    | {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32}
    | {"head_dim": 128, "vocab_size": 151_936, "tie_word_embeddings": True},
    "Qwen/Qwen3-8B-Base": QWEN2
    | {"hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36, "num_attention_heads": 32}
    | {"vocab_size": 151_936},
    "meta-llama/Llama-3.1-8B": {"model_type": "llama", "vocab_size": 128_256, "num_key_value_heads": 8}
    | {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "mistralai/Mistral-Small-24B-Instruct-2501": {"model_type": "mistral", "vocab_size": 131_072}
    | {"hidden_size": 5120, "intermediate_size": 32_768, "num_hidden_layers": 40, "num_attention_heads": 32}
    | {"num_key_value_heads": 8, "head_dim": 128},
}
SHAPES["deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"] = SHAPES["Qwen/Qwen2.5-Math-1.5B"] | {"tie_word_embeddings": False}
SHAPES["deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"] = SHAPES["Qwen/Qwen2.5-Math-7B"]

KEYS = {  # column -> key
    "loss": "stage.loss._target_",
    "advantage": "stage.advantage._target_",
    "P": "stage.examples_per_step",
    "S": "stage.steps_per_rollout",
    "G": "stage.group_size",
    "mu": "stage.num_iterations",
    "lr": "stage.lr",
    "clip": "stage.clip_low",
    "KL": "stage.kl_coef",
    "entropy target": "stage.entropy_target",
    "equal groups": "stage.zero_variance",
    "tau": "rollout.temperature",
    "T": "rollout.max_completion_length",
    "steps": "trainer.max_steps",
}


@cache
def composed_steps(name: str) -> dict[str, Any]:
    """The config of each of a paper's steps; a single run is the step ``""``."""
    args, overrides = parse_command_line([f"experiment=papers/{name}"])
    pipelines = parse_pipelines(args, overrides, {})
    steps = pipelines[0].steps if pipelines else {}
    texts = {step: part.overrides() for step, part in steps.items()} or {"": [f"experiment=papers/{name}"]}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return {
            step: OmegaConf.to_container(compose("config", [re.sub(r"\$\{step:(\w+)\}", r"\1", text) for text in part]))
            for step, part in texts.items()
        }


def cell(cfg: Any, column: str) -> str:
    """The text of a column; empty where the stage has no such key."""
    value = OmegaConf.select(OmegaConf.create(cfg), KEYS[column])
    if column == "steps" and cfg["trainer"]["max_epochs"]:
        return f"{cfg['trainer']['max_epochs']:g} epochs"
    if value is None or str(value).startswith("${") or (column == "steps" and "lr" not in cfg["stage"]):
        return ""
    if column == "clip":
        return f"{value:g}, {cfg['stage']['clip_high']:g}"
    if isinstance(value, str):
        return value.split(".")[-2] if column in ("loss", "advantage") else value
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def memory(cfg: Any) -> tuple[float, MemoryEstimate] | None:
    """Parameters, and the bytes of a full-length sequence on one of 8 devices; None: the shape is not known here."""
    shape = SHAPES.get(cfg["model"]["path"])
    if shape is None:
        return None
    tokens = int(cfg["rollout"]["max_completion_length"]) + 1024
    lora = cfg["model"]["lora"]
    options: dict[str, Any] = {"adapter_parameters": 4_000_000 * lora["r"]} if lora else {"num_shards": 8}
    options |= {"autocast": True, "checkpointing": True, "reference": bool(cfg["stage"].get("kl_coef"))}
    estimate = estimate_memory(shape, num_tokens=tokens, **options)
    return (num_parameters(shape) or 0, estimate) if estimate else None


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def values_table() -> str:
    rows = []
    for name in PAPERS:
        for step, cfg in composed_steps(name).items():
            stage = cfg["stage"]["_target_"].split(".")[-2]
            cells = [cell(cfg, column) for column in KEYS]
            rows.append([f"`{name}`", step, stage, *cells])
    return table(["papers/", "step", "stage", *KEYS], rows)


def memory_table() -> str:
    rows, seen = [], set[tuple[str, int]]()
    for name in PAPERS:
        for cfg in composed_steps(name).values():
            path, length = str(cfg["model"]["path"]), cfg["rollout"]["max_completion_length"]
            if (path, length) in seen or (found := memory(cfg)) is None:
                continue
            seen.add((path, length))
            size, estimate = found
            state = (estimate.weights + estimate.gradients + estimate.optimizer) / GB
            parts = [f"{part / GB:.0f}" for part in (estimate.activations, estimate.logits, estimate.total)]
            rows.append([path, f"{size / 1e9:.1f}", f"{length:,}", f"{state:.0f}", *parts])
    return table(["model", "P, 10^9", "T", "state, GB", "activations", "logits", "sum"], rows)


def headers() -> str:
    parts = []
    for name, file in PAPERS.items():
        text = file.read_text()
        head = " ".join(line.removeprefix("# ") for line in text.splitlines()[1:] if line.startswith("# "))
        notes = []
        for kind in ("differs", "not stated"):
            found = re.findall(rf"^[ -]*(?:override /)?(\S.*?) +# {kind}(?:[:;] (.*))?$", text, re.MULTILINE)
            items = dict.fromkeys(f"`{key}`" + (f" ({reason})" if reason else "") for key, reason in found)
            notes += [f"{kind.capitalize()}: {', '.join(items)}."] if items else []
        parts.append("\n\n".join([f"### papers/{name}", head, *notes]))
    return "\n\n".join(parts)


INTRODUCTION = """\
# Papers as configs

`experiment=papers/NAME` is a paper's training as r1 expresses it. Each line of a file in `conf/experiment/papers/`
names the section, table or script that its value is from. Otherwise it says that the paper does not state the value,
or how it differs. None of them was run at full size: the tests take four steps of each with a tiny model, the same S,
mu, clips, loss and schedule.

    python -m r1.run experiment=papers/dapo dry_run=true
    python -m r1.run experiment=papers/dapo data=dataset data.path=my_questions.jsonl model.path=Qwen/Qwen2.5-7B

P prompts per step, S minibatches per rollout batch, G completions per prompt, mu passes, tau temperature, T longest
completion in tokens. A batch is P x S prompts and P x S x G completions. This page is written by
`python docs/make_papers.py`, and a test holds it to the files.
"""
MEMORY = """\
## Memory, estimated

Per device, with weights, gradients and moments sharded over 8 devices (`strategy=fsdp`; adapters: not sharded). Weights
are float32, products bfloat16, activations are checkpointed, and a micro-batch is one sequence of T + 1,024 tokens.
vLLM's weights and cache come on top. `dry_run=true` prints the same estimate for your run. Against the four peaks
that were measured on one H200 (`benchmarks/gpu_h200.jsonl`, 0.5B, 16 sequences of 576 tokens) it is 4 to 9 % low
(tests/model/test_memory.py).
"""


def page() -> str:
    parts = [INTRODUCTION, values_table(), MEMORY, memory_table(), "## What differs, and what is not stated", headers()]
    return "\n\n".join(part.strip() for part in parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
