"""Reverse KL, mode-seeking: the student avoids tokens that the teacher finds unlikely (MiniLLM; Gu et al. 2024)."""

from __future__ import annotations

from torch import Tensor


def reverse_kl(teacher_logps: Tensor, logps: Tensor) -> tuple[Tensor, Tensor]:
    """KL(q||p) = sum of q (log q - log p), and its slope q (log q - log p + 1); q is the student."""
    probs = logps.exp()
    terms = probs * (logps - teacher_logps)
    return terms, terms + probs
