"""Pure tensor functions: log-probabilities, entropy, KL estimators. No state, no model, no config."""

from __future__ import annotations

import torch
from torch import Tensor


def token_logps(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Log-probability of each target under the distribution that is sampled from.

    Args:
        logits: (..., V).
        targets: (...) token ids.
        temperature: what the logits are divided by, in rollout and training alike.

    Returns:
        (...) log-probabilities in float32, <= 0.
    """
    scaled = logits.float() / temperature
    return scaled.gather(-1, targets[..., None]).squeeze(-1) - scaled.logsumexp(-1)


def token_entropy(logits: Tensor, temperature: float) -> Tensor:
    """Entropy in nats of the next-token distribution; (..., V) -> (...)."""
    logps = (logits.float() / temperature).log_softmax(-1)
    return -(logps.exp() * logps).sum(-1)


def k1(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """log(p/q): unbiased, can be negative (Schulman, "Approximating KL divergence", 2020)."""
    return logps - ref_logps


def k2(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """log(p/q)^2 / 2: biased, never negative, its gradient is that of the KL on policy (Schulman, 2020)."""
    return (logps - ref_logps).square() / 2


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """q/p - 1 - log(q/p): unbiased, never negative; the estimator of GRPO (DeepSeekMath, eq. 4)."""
    gap = ref_logps - logps
    return gap.exp() - 1 - gap


KL_ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


def sample(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Draw one token per row by inverting the cumulative distribution at ``uniform``; greedy at temperature 0.

    One uniform number per draw makes the draw a function of (distribution, number): the rows of a batch cannot
    influence each other.

    Args:
        logits: (B, V).
        uniform: (B,) float64 in [0, 1).

    Returns:
        (B,) token ids.
    """
    if temperature == 0:
        return logits.argmax(-1)
    cdf = (logits.float() / temperature).softmax(-1).double().cumsum(-1)
    threshold = uniform[:, None] * cdf[:, -1:]
    return torch.searchsorted(cdf, threshold, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
