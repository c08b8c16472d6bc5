"""Pure tensor functions: log-probabilities, entropy, KL estimators. No state, no model, no config."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def token_logps(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Log-probability of each target under the sampling distribution.

    Args:
        logits: (..., V).
        targets: (...) token ids.
        temperature: divides the logits, in rollout and training alike.

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


SAMPLE_BLOCK = 128  # tokens per block of the cumulative distribution; most vocabulary sizes are multiples


def sample(logits: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw one token per row by inverting the cumulative distribution at ``uniform``; greedy at temperature 0.

    One uniform number per draw makes the draw a function of (distribution, number), so the rows of a batch cannot
    influence each other. The cumulative sum has two levels: over blocks of the vocabulary, then within one block.

    Args:
        logits: (B, V).
        uniform: (B,) float64 in [0, 1).

    Returns:
        (B,) token ids and (B,) float32 log-probabilities under the sampling distribution; at temperature 0 under the
        model's own.
    """
    scaled = logits.float() if temperature in (0, 1) else logits.float() / temperature  # saves a (B, V) copy
    probs = scaled.softmax(-1)
    if temperature == 0:
        tokens = logits.argmax(-1)
    else:
        blocks = F.pad(probs, (0, -probs.shape[-1] % SAMPLE_BLOCK)).unflatten(-1, (-1, SAMPLE_BLOCK))
        cdf = blocks.sum(-1).double().cumsum(-1)
        threshold = uniform[:, None] * cdf[:, -1:]
        block = torch.searchsorted(cdf, threshold, right=True).clamp_(max=cdf.shape[-1] - 1)
        block_cdf = blocks[torch.arange(len(blocks), device=block.device), block[:, 0]].double().cumsum(-1)
        index = torch.searchsorted(block_cdf, threshold - F.pad(cdf, (1, 0)).gather(-1, block), right=True)
        # rounding must not select a token of probability 0 behind the last one of positive probability
        last = (block_cdf < block_cdf[:, -1:]).sum(-1, keepdim=True)
        tokens = (block * SAMPLE_BLOCK + torch.minimum(index, last)).squeeze(-1)
    return tokens, probs.gather(-1, tokens[:, None]).squeeze(-1).log()
