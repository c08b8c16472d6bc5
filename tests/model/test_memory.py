"""The estimate of training memory against the tensors that autograd keeps, and against peaks measured on a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from r1.model.memory import estimate_memory

ROOT = Path(__file__).parents[2]
SHAPE = {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 64, "max_position_embeddings": 2048}
QWEN2_0_5B = {
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}


def kept_for_backward(fields: dict[str, Any], num_tokens: int, dtype: str, autocast: bool, checkpointing: bool) -> int:
    """Bytes of the distinct tensors that the forward pass saves, without the weights."""
    config = AutoConfig.for_model("llama", **fields)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=getattr(torch, dtype)).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}  # the tensor is held, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        model.model(torch.zeros(1, num_tokens, dtype=torch.long), use_cache=False)
    return sum(size for size, _ in kept.values())


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
@pytest.mark.parametrize(
    ("dtype", "autocast", "checkpointing"),
    [("float32", False, False), ("float32", True, False), ("bfloat16", False, False), ("float32", False, True)],
)
@pytest.mark.parametrize(("width", "intermediate"), [(128, 512), (256, 512), (128, 1024)])
def test_activations_are_those_that_autograd_keeps(
    dtype: str, autocast: bool, checkpointing: bool, width: int, intermediate: int
) -> None:
    options: dict[str, Any] = {"dtype": dtype, "autocast": autocast}
    kept, estimated = [], []
    for layers in (2, 4):  # a mask and the rotations are kept once
        fields = SHAPE | {"hidden_size": width, "intermediate_size": intermediate, "num_hidden_layers": layers}
        kept.append(kept_for_backward(fields, 1024, checkpointing=checkpointing, **options))
        estimate = estimate_memory(fields, num_tokens=1024, checkpointing=checkpointing, **options)
        assert estimate is not None
        estimated.append(estimate.activations)
    assert estimated[1] - estimated[0] == pytest.approx(kept[1] - kept[0], rel=0.15)


def measured_peaks() -> dict[str, float]:
    rows = [json.loads(line) for line in (ROOT / "benchmarks/gpu_h200.jsonl").read_text().splitlines()]
    return {row["worker"]: row["peak_mb"] * 2**20 for row in rows if "peak_mb" in row}


@pytest.mark.parametrize(
    ("worker", "num_prompts", "adapters"),
    [
        ("r1", 2, None),
        ("r1, group of 16", 1, None),
        ("r1, strategy=fsdp", 2, None),
        ("r1, adapters of rank 16", 2, 8_800_000),
    ],
)
def test_total_is_near_the_peak_measured_on_a_gpu(worker: str, num_prompts: int, adapters: int | None) -> None:
    num_tokens = 16 * 512 + num_prompts * 64  # 16 completions share their prompts
    estimate = estimate_memory(QWEN2_0_5B, num_tokens=num_tokens, dtype="bfloat16", adapter_parameters=adapters)
    assert estimate is not None
    assert estimate.total == pytest.approx(measured_peaks()[worker], rel=0.15)


def test_unknown_fields_have_no_estimate() -> None:
    assert estimate_memory({"model_type": "rwkv"}, num_tokens=8) is None
