"""GRPO: prompts -> rollouts -> rewards -> advantages -> micro-batches -> loss (DeepSeekMath 2024; DeepSeek-R1 2025).

The rollouts are the data loader: ``micro_batches`` builds a whole optimizer step in advance, so every micro-batch
carries the step's normaliser, and ``training_step`` is the loss and nothing else.

A step in this file, from top to bottom: ``micro_batches`` -> ``collect`` (sample groups, compute advantages, split
into minibatches, select) -> ``training_step`` (the loss of a micro-batch). ``rl/group_sampler.py`` samples and scores,
``rl/experience.py`` holds the batch and its counts, ``rl/objective.py`` the loss of a micro-batch, ``loss/``,
``advantage/`` and ``importance/`` the formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Unpack

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from r1.core.batch import chunks
from r1.core.errors import TrainingHalted
from r1.model.functional import KL_ESTIMATORS
from r1.model.sequences import Sequences, stack
from r1.stage.advantage.base import Advantage, compute_advantages, is_per_minibatch
from r1.stage.base import StageParts
from r1.stage.importance.base import ImportanceCorrection
from r1.stage.loss.base import Clip, Loss, StepCounts
from r1.stage.rl.async_rollouts import AsyncRollouts
from r1.stage.rl.entropy import EntropyBonus
from r1.stage.rl.experience import (
    Experience,
    Group,
    ZeroVariance,
    concat,
    from_state,
    select,
    select_trainable,
    sequences_of,
    share_normalisers,
    split,
    to_state,
    total_rewards,
    weighted_terms,
)
from r1.stage.rl.group_sampler import GroupSampler, PromptKey
from r1.stage.rl.objective import Objective
from r1.stage.rl.reference import Reference
from r1.stage.training.base import TrainingStage
from r1.stage.training.optimization import Optimization


class Grpo(TrainingStage):
    """Group-relative policy optimization.

    Args:
        loss: cost and weight of each token (nested group ``stage/loss``).
        advantage: rewards of a group -> advantages (nested group ``stage/advantage``).
        group_size: G, completions per prompt.
        sequences_per_step: B = P x G; derived, the batch plan has it.
        steps_per_rollout: S, minibatches of a rollout batch, an optimizer step each (DeepSeek-R1, 2.1: 16). S x P
            prompts are sampled with one set of weights. Minibatch k of rollout batch n has the prompts, with all of
            their completions, and the seeds that optimizer step n x S + k has with S = 1.
        num_iterations: mu, passes over the minibatches of a rollout batch.
        clip_low, clip_high: epsilon; the ratio is clipped to [1 - clip_low, 1 + clip_high].
        clip_dual: bounds the ratio where the advantage is negative (Ye et al. 2020); null: unbounded.
        kl_coef: beta, weight of the KL to the reference; 0: no reference is loaded.
        kl_estimator: k1, k2 or k3 (Schulman 2020).
        kl_unbiased: the KL of a token is weighed by pi / pi_old (DeepSeek-V3.2); with ``kl_in=loss`` only.
        kl_in: ``loss`` adds the KL per token; ``reward`` subtracts its sum over a completion from the reward.
        ref_sync_every: optimizer steps between two syncs of the reference; null: it stays the initial policy.
        ref_sync_mix: ref <- mix policy + (1 - mix) ref.
        entropy_coef: weight of the mean token entropy, which is subtracted from the loss; with a target, its start.
        entropy_target: nats per token below which the bonus acts and its weight grows (Skywork-OR1); null: constant.
        entropy_coef_delta, entropy_coef_min, entropy_coef_max: change per step and bounds of the adapted weight.
        importance: weight of each token where the engine's log-probs differ from the trainer's (nested group
            ``stage/importance``); null: no correction. Without effect on asynchronous rollouts, whose clipped ratio is
            pi_trainer / pi_engine; ``clip_dual`` bounds that one.
        zero_variance: treatment of groups whose rewards are all equal; see ``r1.stage.rl.experience``.
        max_resamples: times that such groups are resampled at most.
        mask_truncated: learn nothing from completions that reached the length limit.
        share_prompts: each prompt goes through the model once for all of its completions.
        total_tokens: completion tokens after which training ends, with the rollout batch that reaches them; null: off.
        max_kl, min_entropy: guards; the run halts where the KL or the entropy passes them; null: off.
    """

    learns_from_rewards = True

    def __init__(
        self,
        parts: StageParts,
        *,
        loss: Loss,
        advantage: Advantage,
        importance: ImportanceCorrection | None,
        group_size: Annotated[int, Ge(1)],
        sequences_per_step: Annotated[int, Ge(1)],
        steps_per_rollout: Annotated[int, Ge(1)],
        num_iterations: Annotated[int, Ge(1)],
        clip_low: Annotated[float, Gt(0)],
        clip_high: Annotated[float, Gt(0)],
        clip_dual: Annotated[float, Gt(1)] | None,
        kl_coef: Annotated[float, Ge(0)],
        kl_estimator: Literal["k1", "k2", "k3"],
        kl_unbiased: bool,
        kl_in: Literal["loss", "reward"],
        ref_sync_every: Annotated[int, Ge(1)] | None,
        ref_sync_mix: Annotated[float, Interval(gt=0, le=1)],
        entropy_coef: Annotated[float, Ge(0)],
        entropy_target: Annotated[float, Gt(0)] | None,
        entropy_coef_delta: Annotated[float, Gt(0)],
        entropy_coef_min: Annotated[float, Ge(0)],
        entropy_coef_max: Annotated[float, Gt(0)],
        zero_variance: ZeroVariance,
        max_resamples: Annotated[int, Ge(1)],
        mask_truncated: bool,
        share_prompts: bool,
        total_tokens: Annotated[int, Ge(1)] | None,
        max_kl: Annotated[float, Gt(0)] | None,
        min_entropy: Annotated[float, Gt(0)] | None,
        **optimization: Unpack[Optimization],
    ) -> None:
        super().__init__(parts, optimization, group_size, share_prompts, steps_per_rollout)
        self.advantage = advantage
        self.steps_per_rollout = steps_per_rollout
        self.steps_per_batch = steps_per_rollout * num_iterations  # optimizer steps on one rollout batch
        self.kl_coef, self.kl, self.kl_in = kl_coef, KL_ESTIMATORS[kl_estimator], kl_in
        bounds = entropy_coef_min, entropy_coef_max
        self.entropy_bonus = EntropyBonus(entropy_coef, entropy_target, entropy_coef_delta, *bounds)
        clip, kl_coef_in_loss = Clip(clip_low, clip_high, clip_dual), kl_coef if kl_in == "loss" else 0.0
        self.objective = Objective(loss, clip, importance, self.entropy_bonus, self.kl, kl_coef_in_loss, kl_unbiased)
        self.zero_variance, self.mask_truncated = zero_variance, mask_truncated
        self.max_kl, self.min_entropy, self.total_tokens = max_kl, min_entropy, total_tokens
        self.num_tokens = 0  # completion tokens sampled so far, on all ranks
        needs_reference = kl_coef > 0 or max_kl is not None
        self.reference = Reference(ref_sync_every, ref_sync_mix) if needs_reference else None
        self.group_sampler = GroupSampler(self.sampler, self.step_metrics, self.seed, group_size, max_resamples)
        self.group_sampler.async_rollouts = self._async_rollouts()
        self.minibatches: list[Experience] = []  # of the current rollout batch

    def _async_rollouts(self) -> AsyncRollouts | None:
        engine_sampler = self.engine.async_sampler()
        if engine_sampler is None:
            return None
        return AsyncRollouts(
            engine_sampler,
            self.sampler,
            lambda number: self.group_sampler.prompts_and_seeds(self.prompt_keys(number)),
            self.steps_per_batch,
            lambda: self.trainer,
        )

    def configure_model(self) -> None:
        super().configure_model()
        if self.reference:
            self.reference.start_from(self.policy)

    def update_engine(self) -> None:
        if self.group_sampler.async_rollouts:
            self.group_sampler.async_rollouts.wait_until_weights_free()
        super().update_engine()

    # ---- the data: rollouts ----

    def micro_batches(self, step: int) -> list[Experience]:
        if self.reference:
            self.reference.sync(self.policy, step)
        number, position = divmod(step, self.steps_per_batch)
        is_fresh = not self.minibatches or position == 0
        if is_fresh:
            self.minibatches = self.collect(number)
            self.num_tokens += self.global_sum(self.group_sampler.pop_num_tokens())
        self.step_metrics.add_replicated({"train/total_tokens": self.num_tokens})
        minibatch = self.minibatches[position % self.steps_per_rollout]
        minibatch = minibatch if is_fresh else minibatch.as_stale()
        if self.plan.micro_batch_size is None:
            return [select(minibatch, rows) for rows in self.equal_counts(self.rows_by_tokens(minibatch))]
        return split(minibatch, self.plan.num_micro_batches)

    def prompt_keys(self, number: int) -> list[PromptKey]:
        """The prompts of rollout batch ``number`` on this rank, minibatch by minibatch."""
        minibatches = range(number * self.steps_per_rollout, (number + 1) * self.steps_per_rollout)
        return [PromptKey(m, example) for m in minibatches for example in self.step_indices(m)]

    def collect(self, number: int) -> list[Experience]:
        """The minibatches of rollout batch ``number``, on this rank."""
        if not self.group_sampler.async_rollouts:  # which syncs the weights itself
            self.update_engine()
        keys = self.prompt_keys(number)
        groups = self.group_sampler.sample(number, keys)
        self.group_sampler.log_groups(groups)
        if self.zero_variance == "resample":
            groups = self.group_sampler.resample(number, keys, groups)
        experience = self.with_advantages(groups)
        self._record(number, groups[0], experience.advantages)
        # Whole groups, in the keyed order of the data: each device trains on what it sampled, and a prompt goes through
        # the model once for all of its completions.
        parts = split(experience, self.steps_per_rollout)
        members = chunks(groups, len(groups) // self.steps_per_rollout)
        selected = [self.select(*minibatch) for minibatch in zip(parts, members, strict=True)]
        return [self.with_logps(minibatch) for minibatch in share_normalisers(selected)]

    def with_advantages(self, groups: Sequence[Group]) -> Experience:
        """All completions of a rollout batch on this rank with their advantages, nothing dropped yet."""
        rewards = total_rewards(groups)
        batch, engine_logps = sequences_of(groups, self.tokenizer.pad_token_id)
        values, weights = weighted_terms(groups)
        if self.reference and self.kl_in == "reward":
            # Subtracted before the advantages are computed, as in RLHF's PPO: the completion closer to the reference is
            # then the better one of two with equal rewards. As one more term it also reaches per-term advantages.
            kl = self.kl(engine_logps, self.logps_under(self.reference.model, batch))
            penalty = -(kl * batch.mask).sum(1).view_as(rewards)
            mean = penalty.mean() / self.plan.num_devices
            self.step_metrics.add({"reward/kl": mean, "reward/kl_weighted": self.kl_coef * mean})
            rewards = rewards + self.kl_coef * penalty
            values = torch.cat([values, penalty[None]])
            weights = torch.cat([weights, torch.tensor([self.kl_coef])])
        return Experience(
            **vars(batch),
            advantages=self.advantages(rewards, values, weights).flatten(),
            engine_logps=engine_logps,
            old_logps=engine_logps if self.engine_logps_are_old else None,
            ref_logps=None,
            counts=StepCounts(0, 0, self.engine.max_completion_length, 0, self.plan.num_devices, 0),
        )

    def advantages(self, rewards: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        """(P, G) advantages of this rank's groups, computed among the groups of all ranks.

        Args:
            rewards: (P, G).
            values: (K, P, G) of the reward terms.
            weights: (K,) of the reward terms.
        """
        # Gathered, since an advantage may use statistics of the rollout batch; every rank computes the same, and takes
        # its part.
        parts = self.run.ranks.gather([rewards, values])
        count = self.steps_per_rollout if is_per_minibatch(self.advantage) else 1
        minibatches = []
        for k in range(count):
            of_all = [[value.chunk(count, dim=-2)[k] for value in part] for part in parts]
            all_rewards, all_values = (torch.cat(values, dim=-2) for values in zip(*of_all, strict=True))
            computed = compute_advantages(self.advantage, all_rewards, all_values, weights)
            minibatches.append(computed.chunk(len(parts))[self.run.ranks.rank])
        return torch.cat(minibatches)

    def select(self, experience: Experience, groups: Sequence[Group]) -> Experience:
        """The completions of a minibatch that are learned from, with its totals.

        Truncated completions are removed only now: their rewards are part of their group's statistics.
        """
        is_masked = [self.mask_truncated and r.truncated for group in groups for r in group.rollouts]
        return select_trainable(experience, total_rewards(groups), is_masked, self.zero_variance, self.global_sum)

    def with_logps(self, experience: Experience) -> Experience:
        """Add the log-probabilities that the loss needs, of the old policy and of the reference."""
        if not len(experience):
            return experience
        if experience.old_logps is None and self.steps_per_batch > 1:
            experience = replace(experience, old_logps=self.logps_under(self.policy, experience))
        if self.reference and (self.kl_in == "loss" or self.max_kl is not None):
            experience = replace(experience, ref_logps=self.logps_under(self.reference.model, experience))
        return experience

    def _record(self, number: int, group: Group, advantages: Tensor) -> None:
        """Write one complete group per rollout batch to the record."""
        if self.run.record:
            step, truncated = number * self.steps_per_batch, [rollout.truncated for rollout in group.rollouts]
            self.run.record.add_rollouts(step, group.row, group.texts, truncated, group.scores, advantages)

    @property
    def is_on_policy(self) -> bool:
        """Whether every step learns from completions of its own weights: the ratio is then 1, and no clip acts."""
        return self.steps_per_batch == 1 and self.group_sampler.async_rollouts is None

    @property
    def engine_is_exact(self) -> bool:
        """Whether the engine's log-probs match the trainer's: in half precision they do not."""
        is_float32 = self.policy.dtype == torch.float32 and self.trainer.precision == "32-true"
        return self.engine.logprobs_match_trainer and is_float32

    @property
    def engine_logps_are_old(self) -> bool:
        """Whether the engine's log-probs are the old ones of the clipped ratio.

        Between two synchronous updates the policy still has the weights that sampled, and the trainer computes pi_old
        itself. Asynchronous rollouts come from weights that the trainer has replaced: only the engine's log-probs
        belong to them, whatever its precision.
        """
        return self.engine_is_exact or self.group_sampler.async_rollouts is not None

    @torch.no_grad()
    def logps_under(self, model: Any, batch: Sequences) -> Tensor:
        """(B, T) log-probabilities of the completions, in the trainer's precision, computed in micro-batches."""
        size, result = self.plan.micro_batch_size, torch.zeros(batch.completion_ids.shape)
        parts = chunks(range(len(batch)), size) if size else self.rows_by_tokens(batch)
        for rows in parts:
            part = Sequences(**batch.rows(rows)).to(self.device)
            with self.trainer.precision_plugin.forward_context():
                logps, _ = self.forward_logps(model, part)
            result[list(rows), : logps.shape[1]] = logps.cpu()
        return result

    # ---- the loss ----

    def training_step(self, batch: Experience, batch_idx: int) -> Tensor:
        if not len(batch):
            return self.zero_loss()
        logps, entropy = self.forward_logps(self.policy, batch, entropy_gradient=self.entropy_bonus.weight > 0)
        loss, metrics = self.objective(batch, logps, entropy, self.engine_is_exact)
        self.step_metrics.add(metrics)
        return self.scaled_loss(loss)

    def zero_loss(self) -> Tensor:
        """The loss of a micro-batch without trainable completions: zero, with a gradient of zero.

        The other ranks run the model meanwhile; sharded, they need this rank's part of every collective.
        """
        logps, _ = self.forward_logps(self.policy, stack([([0], [0])], 0).to(self.device))
        return logps.sum() * 0

    # ---- after a step ----

    def check_step(self, metrics: dict[str, float]) -> None:
        kl, entropy = metrics.get("train/kl", 0.0), metrics.get("train/entropy", float("inf"))
        if "train/entropy" in metrics:  # not in a step without trainable tokens
            self.entropy_bonus.update(entropy)
        if self.max_kl is not None and kl > self.max_kl:
            raise TrainingHalted(f"the KL to the reference has passed stage.max_kl={self.max_kl:g}", kl)
        if self.min_entropy is not None and entropy < self.min_entropy:
            raise TrainingHalted(f"the entropy has fallen below stage.min_entropy={self.min_entropy:g}", entropy)

    @property
    def is_budget_spent(self) -> bool:
        is_used_up = self.trainer.global_step % self.steps_per_batch == 0
        return self.total_tokens is not None and self.num_tokens >= self.total_tokens and is_used_up

    # ---- resume ----

    def loader_state(self, step: int) -> dict[str, Any]:
        is_mid_batch = step % self.steps_per_batch > 0
        async_rollouts = self.group_sampler.async_rollouts
        return {
            "num_tokens": self.num_tokens,
            "minibatches": [to_state(minibatch) for minibatch in self.minibatches] if is_mid_batch else [],
            "entropy_bonus": self.entropy_bonus.state(),
            "reference": self.reference.state() if self.reference and self.run.ranks.is_rank_zero else None,
            "ahead": async_rollouts.state(step) if async_rollouts else None,
        }

    def load_loader_state(self, states: list[dict[str, Any]]) -> None:
        ranks = self.run.ranks
        self.num_tokens = states[0]["num_tokens"]
        saved = [[from_state(minibatch) for minibatch in state["minibatches"]] for state in states]
        if len(saved) == ranks.size:
            self.minibatches = saved[ranks.rank]
        else:  # another number of ranks: each row carries the step's normaliser, so rows may change ranks
            self.minibatches = [split(concat(parts), ranks.size)[ranks.rank] for parts in zip(*saved, strict=True)]
        self.entropy_bonus.load_state(states[0]["entropy_bonus"])
        if self.reference:
            self.reference.load_state(states[0]["reference"])
        if self.group_sampler.async_rollouts:
            self.group_sampler.async_rollouts.load_state([state["ahead"] for state in states])
