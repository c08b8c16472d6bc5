"""GRPO: prompts -> rollouts -> rewards -> advantages -> micro-batches -> loss (DeepSeekMath 2024; DeepSeek-R1 2025).

The rollouts are the data loader: ``micro_batches`` makes a whole optimizer step in advance, so every micro-batch
carries the step's normaliser and ``training_step`` is the loss and nothing else.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Unpack

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from r1.data.base import Data
from r1.evaluate import Validation
from r1.functional import KL_ESTIMATORS, token_entropy, token_logps
from r1.model import Model
from r1.reward.base import Rewards, Scores
from r1.rollout.base import Engine, Rollout, pad
from r1.seeds import key
from r1.stage.advantage.base import Advantage, group_std, has_signal
from r1.stage.base import Optimization, Stage
from r1.stage.loss.base import Loss, StepCounts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass  # not frozen: Lightning moves its tensors to the device
class Experience:
    """One rollout batch of this device, B sequences, right-padded to L; per-token fields are aligned with the targets.

    Attributes:
        input_ids: (B, L) prompt and completion.
        mask: (B, L - 1) completion targets.
        old_logps: (B, L - 1) log pi_old(token), 0 outside the mask.
        ref_logps: (B, L - 1) log pi_ref(token), 0 where there is no reference.
        advantages: (B,) A_i.
        num_tokens: completion tokens over all devices.
    """

    input_ids: Tensor
    mask: Tensor
    old_logps: Tensor
    ref_logps: Tensor
    advantages: Tensor
    num_tokens: int


class Grpo(Stage):
    """Group-relative policy optimization.

    Args:
        loss: what each token costs and weighs (nested group ``stage/loss``).
        advantage: how rewards become credit (nested group ``stage/advantage``).
        group_size: G, completions per prompt.
        num_iterations: mu, optimizer steps on one rollout batch.
        clip_low, clip_high: epsilon; the ratio is kept in [1 - clip_low, 1 + clip_high].
        kl_coef: beta, weight of the KL to the frozen start of the run; 0 loads no reference.
        kl_estimator: k1, k2 or k3.
    """

    def __init__(
        self,
        model: Model,
        data: Data,
        rewards: Rewards,
        engine: Engine,
        validation: Validation,
        seed: int,
        num_devices: int,
        *,
        loss: Loss,
        advantage: Advantage,
        group_size: Annotated[int, Ge(1)],
        num_iterations: Annotated[int, Ge(1)],
        clip_low: Annotated[float, Gt(0)],
        clip_high: Annotated[float, Gt(0)],
        kl_coef: Annotated[float, Ge(0)],
        kl_estimator: Literal["k1", "k2", "k3"],
        **optimization: Unpack[Optimization],
    ) -> None:
        super().__init__(model, data, rewards, engine, validation, seed)
        self.group_size = group_size
        self.training_setup(optimization, num_devices)
        self.loss, self.advantage = loss, advantage
        self.num_iterations = num_iterations
        self.clip_low, self.clip_high = clip_low, clip_high
        self.kl_coef, self.kl = kl_coef, KL_ESTIMATORS[kl_estimator]
        self.experience: Experience | None = None

    def configure_model(self) -> None:
        super().configure_model()
        if self.kl_coef > 0 and not hasattr(self, "_ref"):
            ref = copy.deepcopy(self.policy).eval().requires_grad_(False)
            self._ref = (ref,)  # in a tuple: a submodule would be checkpointed and handed to the strategy

    # ---- the loss ----

    def training_step(self, batch: Experience, batch_idx: int) -> Tensor:
        logits = self.policy(input_ids=batch.input_ids, use_cache=False).logits[:, :-1]
        logps = self.target_logps(logits, batch)
        per_token, clipped = self.loss.per_token(
            logps, batch.old_logps, batch.advantages[:, None], batch.mask, self.clip_low, self.clip_high
        )
        metrics: dict[str, Tensor | float] = {"train/clip_frac": (clipped & batch.mask).sum() / batch.num_tokens}
        if self.kl_coef > 0:
            kl = self.kl(logps, batch.ref_logps)
            per_token = per_token + self.kl_coef * kl
            metrics["train/kl"] = (kl.detach() * batch.mask).sum() / batch.num_tokens
        loss = (per_token * self.loss.weights(batch.mask, self.counts(batch))).sum()
        with torch.no_grad():
            entropy = token_entropy(logits[batch.mask], self.engine.temperature).sum() / batch.num_tokens
        self.accumulate(metrics | {"train/loss": loss.detach(), "train/entropy": entropy})
        return loss * self.backward_scale()

    def target_logps(self, logits: Tensor, batch: Experience) -> Tensor:
        """(B, L - 1) log-probabilities of the completion targets, 0 elsewhere, at the sampling temperature."""
        targets = batch.input_ids[:, 1:][batch.mask]
        logps = token_logps(logits[batch.mask], targets, self.engine.temperature)
        return torch.zeros_like(batch.old_logps).masked_scatter(batch.mask, logps)

    def counts(self, batch: Experience) -> StepCounts:
        return StepCounts(batch.num_tokens, self.plan.sequences_per_step, self.engine.max_completion_length)

    # ---- the data: rollouts ----

    def micro_batches(self, step: int) -> list[Experience]:
        if self.experience is None or step % self.num_iterations == 0:
            self.experience = self.collect(step // self.num_iterations)
        return split(self.experience, self.plan.micro_batch_size)

    def collect(self, rollout_step: int) -> Experience:
        """Make one rollout batch: sample, score, assign credit."""
        started = time.monotonic()
        indices = self.step_indices(rollout_step)
        rows = [self.data.train[i] for i in indices]
        samples = range(self.group_size)
        groups = self.sample(rows, [[key(self.seed, "rollout", rollout_step, i, g) for g in samples] for i in indices])
        sampled = time.monotonic()
        flat_rows = [row for row in rows for _ in samples]
        rollouts = [rollout for group in groups for rollout in group]
        texts, scores = self.score(flat_rows, rollouts)
        rewards = torch.tensor(scores.total).view(len(rows), self.group_size)
        advantages = self.advantage(rewards).flatten()
        experience = self.experience_from(rollouts, advantages)
        self.accumulate(_rollout_metrics(rollouts, rewards, scores))
        self.accumulate({"time/rollout": sampled - started, "time/score": time.monotonic() - sampled})
        if self.record:
            count = self.group_size  # one whole group per step
            self.record.add_rollouts(rollout_step * self.num_iterations, flat_rows[:count], texts, scores, advantages)
        return experience

    @torch.no_grad()
    def experience_from(self, rollouts: Sequence[Rollout], advantages: Tensor) -> Experience:
        """Pad to one rectangle, longest first: micro-batches of like lengths carry little padding."""
        order = sorted(range(len(rollouts)), key=lambda i: -_length(rollouts[i]))
        ordered = [rollouts[i] for i in order]
        padded = pad([(r.prompt_ids, r.completion_ids) for r in ordered], self.tokenizer.pad_token_id)
        logps = torch.tensor([p for r in ordered for p in r.logps])
        old_logps = torch.zeros(padded.mask.shape).masked_scatter(padded.mask, logps)
        num_tokens = self.global_sum(sum(len(r.completion_ids) for r in rollouts))
        experience = Experience(
            padded.input_ids,
            padded.mask,
            old_logps,
            torch.zeros_like(old_logps),
            advantages[order],
            num_tokens,
        )
        if not self.engine_is_exact:
            experience.old_logps = self.logps_under(self.policy, experience)
        if self.kl_coef > 0:
            experience.ref_logps = self.logps_under(self._ref[0].to(self.device), experience)
        return experience

    @property
    def engine_is_exact(self) -> bool:
        """Whether the log-probs kept while sampling are the trainer's: in half precision they are not."""
        return self.policy.dtype == torch.float32 and self.trainer.precision == "32-true"

    def logps_under(self, model: PreTrainedModel, experience: Experience) -> Tensor:
        """(B, L - 1) log-probabilities of the experience's completions, in the trainer's precision."""
        rows = []
        for part in split(experience, self.plan.micro_batch_size):
            batch = self.transfer_batch_to_device(part, self.device, 0)
            with self.trainer.precision_plugin.forward_context():
                logits = model(input_ids=batch.input_ids, use_cache=False).logits[:, :-1]
            logps = self.target_logps(logits, batch).cpu()
            rows.append(torch.nn.functional.pad(logps, (0, experience.mask.shape[1] - logps.shape[1])))
        return torch.cat(rows)

    def loader_state(self) -> dict[str, Any]:
        return {"experience": asdict(self.experience) if self.experience else None}

    def load_loader_state(self, state: dict[str, Any]) -> None:
        self.experience = Experience(**state["experience"]) if state["experience"] else None


def split(experience: Experience, micro_batch_size: int) -> list[Experience]:
    """Micro-batches in order, each trimmed to its own longest sequence."""
    parts = []
    for start in range(0, len(experience.input_ids), micro_batch_size):
        rows = slice(start, start + micro_batch_size)
        targets = int(experience.mask[rows].nonzero()[:, 1].max()) + 1
        parts.append(
            Experience(
                experience.input_ids[rows, : targets + 1],
                experience.mask[rows, :targets],
                experience.old_logps[rows, :targets],
                experience.ref_logps[rows, :targets],
                experience.advantages[rows],
                experience.num_tokens,
            )
        )
    return parts


def _length(rollout: Rollout) -> int:
    return len(rollout.prompt_ids) + len(rollout.completion_ids)


def _rollout_metrics(rollouts: Sequence[Rollout], rewards: Tensor, scores: Scores) -> dict[str, Tensor | float]:
    count = len(rollouts)
    metrics: dict[str, Tensor | float] = {
        "train/reward": rewards.nanmean(),
        "train/reward_std": group_std(rewards).mean(),
        "train/frac_zero_std": (~has_signal(rewards)).float().mean(),
        "train/completion_length": sum(len(r.completion_ids) for r in rollouts) / count,
        "train/truncated": sum(r.truncated for r in rollouts) / count,
    }
    for name, values in scores.terms.items():
        metrics[f"reward/{name}"] = torch.tensor(values).nanmean()
        metrics[f"reward/{name}_weighted"] = torch.tensor(values).nanmean() * (scores.weights[name] or 0.0)
    return metrics
