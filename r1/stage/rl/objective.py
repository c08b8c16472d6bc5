"""The loss of a micro-batch: the policy loss, its importance correction, the KL and the entropy bonus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from r1.stage.importance.base import ImportanceCorrection
from r1.stage.loss.base import Clip, Loss
from r1.stage.rl.entropy import EntropyBonus
from r1.stage.rl.experience import Experience


@dataclass(frozen=True)
class Objective:
    """sum over tokens of weight x (importance x cost + kl_coef x KL), minus the entropy bonus.

    Attributes:
        importance: applied where the engine's log-probs are not the trainer's; None: no correction.
        kl: estimator of the KL to the reference.
        kl_coef: weight of the KL per token; 0 where it is in the reward, or only reported.
        kl_unbiased: the KL of a token is multiplied by pi / pi_old, with its gradient (DeepSeek-V3.2,
            arXiv:2512.02556, eq. 7; TRL's ``use_bias_correction_kl``).
    """

    loss: Loss
    clip: Clip
    importance: ImportanceCorrection | None
    entropy_bonus: EntropyBonus
    kl: Callable[[Tensor, Tensor], Tensor]
    kl_coef: float
    kl_unbiased: bool

    def __call__(
        self, batch: Experience, logps: Tensor, entropy: Tensor, engine_is_exact: bool
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        """This micro-batch's part of the step's loss, and of its metrics.

        Args:
            logps: (B, T) of the policy.
            entropy: (B, T) of the policy's next-token distributions.
            engine_is_exact: the engine's log-probs are the trainer's.
        """
        mask, counts = batch.mask, batch.counts
        # Without old log-probs this is the only pass: the ratio is exactly 1 and only its gradient matters.
        old_logps = logps.detach() if batch.old_logps is None else batch.old_logps
        per_token, clipped = self.loss.per_token(logps, old_logps, batch.advantages[:, None], mask, self.clip)
        metrics: dict[str, Tensor | float] = {"train/clip_frac": step_mean(clipped, batch)}
        if self.importance is not None and not engine_is_exact:
            # The engine samples from slightly other probabilities (kernels, precision) than the old policy. An
            # importance weight corrects for it, and the clipped ratio stays between two trainer policies.
            # With asynchronous rollouts the weight is 1: the clipped ratio itself is pi_trainer / pi_engine.
            importance = self.importance((old_logps - batch.engine_logps) * mask)
            per_token = per_token * importance
            metrics["train/importance"] = step_mean(importance, batch)
        if batch.ref_logps is not None:
            kl = self.kl(logps, batch.ref_logps)
            kl = kl * (logps - old_logps).exp() if self.kl_unbiased else kl
            per_token = per_token + self.kl_coef * kl if self.kl_coef else per_token
            metrics["train/kl"] = step_mean(kl.detach(), batch)
        loss = (per_token * self.loss.weights(mask, counts)).sum()
        if weight := self.entropy_bonus.weight:
            loss = loss - weight * (entropy * mask).sum() / max(counts.num_tokens, 1)
        if batch.is_fresh:
            metrics["train/logprob_gap"] = step_mean((logps.detach() - batch.engine_logps).abs(), batch)
        if self.entropy_bonus.target is not None:
            metrics["train/entropy_coef"] = step_mean(torch.full_like(logps, weight), batch)
        return loss, metrics | {"train/loss": loss.detach(), "train/entropy": step_mean(entropy.detach(), batch)}


def step_mean(values: Tensor, batch: Experience) -> Tensor:
    """This micro-batch's contribution to the mean over all tokens that go through the model in the step."""
    return (values * batch.mask).sum() / max(batch.counts.active_tokens, 1)
