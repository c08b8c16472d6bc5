"""The experts of an MoE layer for the few tokens of a decoding step on a CPU.

transformers' grouped product prepares its groups with a dozen operations, which take longer than the products of so few
tokens. Here each expert that has tokens is two products.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def experts_of_few_tokens(experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """transformers' interface of experts: (N, E) hidden states, (N, k) experts of each and their weights to (N, E)."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    has_more = experts.has_bias or experts.is_transposed or experts.has_post_expert_norm or not experts.has_gate
    if has_more or experts._is_expert_parallel:
        out: Tensor = ALL_EXPERTS_FUNCTIONS["grouped_mm"](experts, hidden_states, top_k_index, top_k_weights)
        return out
    index = top_k_index.flatten()
    order = index.argsort()
    tokens = order // top_k_index.shape[1]
    counts = torch.bincount(index, minlength=experts.num_experts).tolist()
    outputs = [
        F.linear(experts._apply_gate(F.linear(states, gate_up)), down)
        for states, gate_up, down in zip(
            hidden_states[tokens].split(counts), experts.gate_up_proj, experts.down_proj, strict=True
        )
        if len(states)
    ]
    weighted = torch.cat(outputs) * top_k_weights.flatten()[order, None]
    total = weighted.new_zeros(hidden_states.shape).index_add_(0, tokens, weighted)
    return total.to(hidden_states.dtype)
