"""Forward KL, mode-covering: every token that the teacher finds likely must be likely (Hinton et al. 2015)."""

from __future__ import annotations

from torch import Tensor


def forward_kl(teacher_logps: Tensor, logps: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p||q) = sum of p (log p - log q), and its slope -p; p is the teacher."""
    probs = teacher_logps.exp()
    return probs * (teacher_logps - logps), -probs
