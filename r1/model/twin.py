"""The twin of a model: its architecture with a few layers of small sizes and random float32 weights.

r1's own forward passes and decoders are tried on the twin before they serve the model. The twin is known before any
weight is loaded, costs milliseconds, and is sharp in every precision of the model: its weights are large, and soft caps
and attention windows so low that a short sequence shows them.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from r1.model.transformers_adapter import quiet_loading

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

MIN_LAYERS = 3  # shows a pattern such as two recurrent layers and one of attention
SIZE, HEADS, HEAD_DIM, VOCAB_SIZE, POSITIONS, EXPERTS = 64, 4, 16, 128, 512, 4
LOW_WINDOW = 4  # tokens; shorter than the sequences of a probe
STD = 0.15  # of the weights: log-probs of different tokens differ by nats
KEY_VALUE_HEADS = re.compile("key_value_heads|kv_heads|n_heads_kv|num_key_heads|kv_n_heads")
WINDOW = re.compile("(sliding|attention|local|^)_?window(_size|_len)?$|attention_chunk_size")
# values that a float has in the twin, so that random weights show its effect
EFFECTIVE = [(re.compile("soft_?cap"), 1.0), (re.compile("time_step_min|dt_min"), 0.5)]
_of_thread = threading.local()  # its twins: an attention function that a model has for a while is seen by all threads
# the first pattern that a field's name matches gives its largest value
LARGEST: list[tuple[str, int]] = [
    ("vocab_size", VOCAB_SIZE),
    ("(_id|_index|_idx)$", VOCAB_SIZE - 1),
    ("position|n_ctx|context_length|max_seq|keep_window|index_topk$", POSITIONS),
    ("^qk_head_dim|^swa_head_dim", 2 * HEAD_DIM),
    ("head_?dim|dim_head|head_size|d_head|d_kv|rotary_dim|channels", HEAD_DIM),
    ("heads?$", HEADS),
    ("layers?$|num_blocks$", MIN_LAYERS),
    ("per_tok|top_?k|moe_k$", 2),
    ("offset|first_k_dense|expand$", 1),
    ("index_block_size|floor_scale", 2),
    ("group|expert_layer|period|interval|frequency|every|_step$|pattern$", 2),
    ("num.*expert|n_.*expert", EXPERTS),
    ("", SIZE),
]


def twin_of(config: PretrainedConfig) -> PreTrainedModel | None:
    """A causal LM in eval mode on the CPU, a function of its config; do not change it.

    Returns:
        None: transformers has no such model of small sizes.
    """
    key = (type(config), config.to_json_string(use_diff=False))
    twins: dict[tuple[type, str], PreTrainedModel | None] = vars(_of_thread).setdefault("twins", {})
    if key not in twins:
        twins[key] = _make_twin(config)
    return twins[key]


def _make_twin(config: PretrainedConfig) -> PreTrainedModel | None:
    from transformers import AutoModelForCausalLM

    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), quiet_loading():
            torch.manual_seed(0)
            small = small_config(config)
            model: PreTrainedModel = AutoModelForCausalLM.from_config(small, dtype=torch.float32).eval()
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=STD)
                else:
                    weight.add_(STD * torch.randn_like(weight))
            model(input_ids=torch.arange(3)[None], use_cache=False)
    except Exception:  # sizes that do not fit each other: an architecture may fail in any way
        return None
    return model


def small_config(config: PretrainedConfig) -> PretrainedConfig:
    """The same architecture with small sizes."""
    fields = config.to_dict()
    names = "num_hidden_layers", "num_attention_heads"
    layers_name, heads_name = (config.attribute_map.get(name, name) for name in names)
    num_layers, num_heads = fields.get(layers_name) or 0, fields.get(heads_name)
    layers = _distinct_layers(fields, num_layers)
    small = {name: _small(name, value, layers, num_layers) for name, value in fields.items()}
    for name in config.sub_configs:
        if fields.get(name) is not None:
            small[name] = small_config(getattr(config, name)).to_dict()
    if layers:
        small[layers_name] = len(layers)
    for name, value in fields.items():
        if KEY_VALUE_HEADS.search(name) and isinstance(value, int) and isinstance(num_heads, int):
            small[name] = HEADS if value >= num_heads else min(value, HEADS // 2)
    return type(config).from_dict(small)


def _distinct_layers(fields: dict[str, Any], num_layers: int) -> list[int]:
    """Indices of two layers of each kind, as the lists of the config tell them apart; at least three."""
    members = [value for name, value in fields.items() if _is_layer_indices(name, value)]
    lists = [value for value in fields.values() if isinstance(value, list) and len(value) == num_layers]
    lists = [value for value in lists if value not in members]
    changes = fields.get("per_layer_config") or {}
    counts: Counter[str] = Counter()
    chosen = []
    for layer in range(num_layers):
        kind = str([[layer in value for value in members], [value[layer] for value in lists], changes.get(layer)])
        counts[kind] += 1
        if layer < MIN_LAYERS or counts[kind] <= 2:
            chosen.append(layer)
    return chosen


def _is_layer_indices(name: str, value: Any) -> bool:
    """Whether a field lists the layers of one kind by their indices."""
    is_ints = isinstance(value, list) and all(type(element) is int for element in value)
    return is_ints and re.search("layer|idx|indices", name) is not None and sorted(set(value)) == value


def _small(name: str, value: Any, layers: list[int], num_layers: int) -> Any:
    if name == "per_layer_config" and value:
        chosen = [value.get(layer) for layer in layers]
        return {i: _small("", part, layers, num_layers) for i, part in enumerate(chosen) if part}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _small(key, element, layers, num_layers) for key, element in value.items()}
    if _is_layer_indices(name, value):
        return [i for i, layer in enumerate(layers) if layer in value]
    if isinstance(value, list) and len(value) == num_layers:
        return [value[layer] for layer in layers]
    if name.endswith("_factor") and isinstance(value, list):  # of longrope, one per pair of rotated dimensions
        return value[: HEAD_DIM // 2]
    if isinstance(value, float):
        return next((effective for pattern, effective in EFFECTIVE if pattern.search(name)), value)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if WINDOW.search(name) and value > 0:
        return min(value, LOW_WINDOW)
    return min(value, next(largest for pattern, largest in LARGEST if re.search(pattern, name)))
