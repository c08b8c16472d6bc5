"""The next token of each row: the knobs of ``Sampling`` applied to its logits, in vLLM's order.

transformers has the same filters in another order, min_p last: the sets differ only where top_p and min_p are both on,
because top_p counts the mass that is left. Tokens of equal probability stay or go together, so that a draw is a
function of the distribution alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from r1.model.functional import sample
from r1.rollout.base import Sampling

NUCLEUS_CANDIDATES = 256  # likeliest tokens that are searched first: sorting a vocabulary takes longer than a layer


class TokenSampler:
    """Draws one token per row.

    Args:
        prompts: of each row; ``repetition_penalty`` counts their tokens, too, as in vLLM and transformers.
    """

    def __init__(self, sampling: Sampling, prompts: Sequence[list[int]]) -> None:
        self.sampling, self.prompts = sampling, prompts
        self.truncates = sampling["top_p"] < 1 or sampling["top_k"] > 0 or sampling["min_p"] > 0
        self.seen: Tensor | None = None  # (B, V) which tokens a row has; only with a penalty

    def draw(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) token ids and (B,) float32 log-probs under the distribution that they are drawn from.

        Args:
            logits: (B, V).
            uniform: (B,) float64 in [0, 1).
        """
        temperature, penalty = self.sampling["temperature"], self.sampling["repetition_penalty"]
        if penalty != 1:
            self.seen = seen_tokens(self.prompts, logits) if self.seen is None else self.seen
            logits = penalize(logits.float(), self.seen, penalty)
        if self.truncates and temperature > 0:
            logits, temperature = truncate(logits.float() / temperature, self.sampling), 1.0
        tokens, logps = sample(logits, uniform, temperature)
        if self.seen is not None:
            self.seen.scatter_(1, tokens[:, None], True)
        return tokens, logps

    def select_rows(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self.prompts = [self.prompts[row] for row in rows.tolist()]
        if self.seen is not None:
            self.seen = self.seen[rows]


def seen_tokens(prompts: Sequence[list[int]], logits: Tensor) -> Tensor:
    """(B, V) bool: whether a prompt has a token."""
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for row, prompt in zip(seen, prompts, strict=True):
        row[prompt] = True
    return seen


def penalize(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits of seen tokens divided by the penalty, negative ones multiplied (CTRL, Keskar et al. 2019)."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def truncate(logits: Tensor, sampling: Sampling) -> Tensor:
    """(B, V) float32 logits, the temperature applied, with -inf at the tokens that are not in the kept set."""
    if sampling["min_p"] > 0:
        logits = keep_above(logits, logits.amax(-1, keepdim=True) + math.log(sampling["min_p"]))
    if 0 < sampling["top_k"] < logits.shape[-1]:
        logits = keep_above(logits, logits.topk(sampling["top_k"]).values[:, -1:])
    if sampling["top_p"] < 1:
        logits = keep_above(logits, nucleus_threshold(logits, sampling["top_p"]))
    return logits


def keep_above(logits: Tensor, threshold: Tensor) -> Tensor:
    return logits.masked_fill(logits < threshold, -torch.inf)


def nucleus_threshold(logits: Tensor, top_p: float) -> Tensor:
    """(B, 1) smallest logit of the nucleus, the fewest likeliest tokens with mass ``top_p`` (Holtzman et al. 2020)."""
    vocab_size, num_candidates = logits.shape[-1], NUCLEUS_CANDIDATES
    total = logits.logsumexp(-1, keepdim=True)
    while True:
        largest = logits.topk(min(num_candidates, vocab_size)).values
        probs = (largest - total).exp().double()
        before = probs.cumsum(-1) - probs  # the mass of all likelier tokens
        if num_candidates >= vocab_size or bool((before[:, -1] >= top_p).all()):
            return largest.masked_fill(before >= top_p, torch.inf).amin(-1, keepdim=True)
        num_candidates *= 8
