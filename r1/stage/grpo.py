"""GRPO: prompts -> rollouts -> rewards -> advantages -> micro-batches -> loss (DeepSeekMath 2024; DeepSeek-R1 2025).

The rollouts are the data loader: ``micro_batches`` makes a whole optimizer step in advance, so every micro-batch
carries the step's normaliser and ``training_step`` is the loss and nothing else.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Unpack

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from r1.core.errors import TrainingHalted
from r1.data.base import Data
from r1.model.functional import KL_ESTIMATORS
from r1.model.loading import Model
from r1.model.sequences import Sequences, stack
from r1.reward.base import Rewards
from r1.rollout.base import Engine
from r1.stage.advantage.base import Advantage
from r1.stage.base import Stage
from r1.stage.loss.base import Clip, Loss
from r1.stage.rl.async_rollouts import AsyncRollouts
from r1.stage.rl.collector import Collector, ZeroVariance
from r1.stage.rl.experience import Experience, concat, from_state, split, to_state
from r1.stage.rl.reference import Reference
from r1.stage.training.optimization import Optimization
from r1.stage.validation.metrics import Validation


class Grpo(Stage):
    """Group-relative policy optimization.

    Args:
        loss: what each token costs and weighs (nested group ``stage/loss``).
        advantage: how rewards become credit (nested group ``stage/advantage``).
        group_size: G, completions per prompt.
        sequences_per_step: B = P x G; the plan has it.
        num_iterations: mu, optimizer steps on one rollout batch.
        clip_low, clip_high: epsilon; the ratio is kept in [1 - clip_low, 1 + clip_high].
        clip_dual: bounds the ratio where the advantage is negative (Ye et al. 2020); null: unbounded.
        kl_coef: beta, weight of the KL to the reference; 0 keeps none.
        kl_estimator: k1, k2 or k3.
        kl_in: ``loss`` adds it per token; ``reward`` takes its sum over a completion from the completion's reward.
        ref_sync_every: optimizer steps after which the reference moves; null: it stays the start of the run.
        ref_sync_mix: how far: ref <- mix policy + (1 - mix) ref.
        entropy_coef: weight of the mean token entropy, which the loss is lowered by.
        importance_cap: truncated importance sampling: min(pi_trainer / pi_engine, cap) weighs each token where the
            engine's log-probs are not the trainer's; null: no correction.
        zero_variance: what becomes of groups whose rewards are all equal; see ``r1.stage.rl.collector``.
        max_resamples: how often at most such groups are drawn again.
        mask_truncated: learn nothing from completions that ran into the length limit.
        share_prompts: each prompt goes through the model once for all of its completions.
        total_tokens: completion tokens that end training, with the rollout batch that reaches them; null: its steps do.
        max_kl, min_entropy: the run stops where the KL to the reference or the entropy goes beyond; null: never.
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
        sequences_per_step: Annotated[int, Ge(1)],
        num_iterations: Annotated[int, Ge(1)],
        clip_low: Annotated[float, Gt(0)],
        clip_high: Annotated[float, Gt(0)],
        clip_dual: Annotated[float, Gt(1)] | None,
        kl_coef: Annotated[float, Ge(0)],
        kl_estimator: Literal["k1", "k2", "k3"],
        kl_in: Literal["loss", "reward"],
        ref_sync_every: Annotated[int, Ge(1)] | None,
        ref_sync_mix: Annotated[float, Interval(gt=0, le=1)],
        entropy_coef: Annotated[float, Ge(0)],
        importance_cap: Annotated[float, Ge(1)] | None,
        zero_variance: ZeroVariance,
        max_resamples: Annotated[int, Ge(1)],
        mask_truncated: bool,
        share_prompts: bool,
        total_tokens: Annotated[int, Ge(1)] | None,
        max_kl: Annotated[float, Gt(0)] | None,
        min_entropy: Annotated[float, Gt(0)] | None,
        **optimization: Unpack[Optimization],
    ) -> None:
        super().__init__(model, data, rewards, engine, validation, seed)
        self.group_size = group_size
        self.training_setup(optimization, num_devices, share_prompts)
        self.loss, self.advantage = loss, advantage
        self.num_iterations = num_iterations
        self.clip = Clip(clip_low, clip_high, clip_dual)
        self.kl_coef, self.kl, self.kl_in = kl_coef, KL_ESTIMATORS[kl_estimator], kl_in
        self.entropy_coef, self.importance_cap = entropy_coef, importance_cap
        self.max_kl, self.min_entropy, self.total_tokens = max_kl, min_entropy, total_tokens
        self.num_tokens = 0  # completion tokens sampled so far, on all devices
        needed = kl_coef > 0 or max_kl is not None
        self.reference = Reference(ref_sync_every, ref_sync_mix) if needed else None
        self.collector = Collector(self, zero_variance, max_resamples, mask_truncated)
        self.experience: Experience | None = None
        sampler, asked = engine.async_sampler(), lambda number: self.collector.asked(number, self.step_indices(number))
        self.ahead = AsyncRollouts(self, sampler, asked) if sampler else None

    def configure_model(self) -> None:
        super().configure_model()
        if self.reference:
            self.reference.start_from(self.policy)

    def update_engine(self) -> None:
        if self.ahead:
            self.ahead.settle()
        super().update_engine()

    # ---- the loss ----

    def training_step(self, batch: Experience, batch_idx: int) -> Tensor:
        if not len(batch):
            return self.zero_loss()
        logps, entropy = self.forward_logps(self.policy, batch, entropy_gradient=self.entropy_coef > 0)
        mask, counts = batch.mask, batch.counts
        old_logps = logps.detach() if batch.old_logps is None else batch.old_logps
        per_token, clipped = self.loss.per_token(logps, old_logps, batch.advantages[:, None], mask, self.clip)
        metrics: dict[str, Tensor | float] = {"train/clip_frac": _mean(clipped, batch)}
        if self.importance_cap is not None and not self.engine_is_exact:
            per_token = per_token * (old_logps - batch.engine_logps).exp().clamp(max=self.importance_cap)
        if batch.ref_logps is not None:
            kl = self.kl(logps, batch.ref_logps)
            per_token = per_token + self.kl_coef * kl if self.kl_in == "loss" else per_token
            metrics["train/kl"] = _mean(kl.detach(), batch)
        loss = (per_token * self.loss.weights(mask, counts)).sum()
        if self.entropy_coef > 0:
            loss = loss - self.entropy_coef * (entropy * mask).sum() / max(counts.num_tokens, 1)
        if batch.is_first_pass:
            metrics["train/logprob_gap"] = _mean((logps.detach() - batch.engine_logps).abs(), batch)
        self.log_sum(metrics | {"train/loss": loss.detach(), "train/entropy": _mean(entropy.detach(), batch)})
        return loss * self.backward_scale()

    def zero_loss(self) -> Tensor:
        """The loss of a micro-batch that all groups have been dropped from: zero, with a gradient of zero.

        The other devices go through the model meanwhile, and may need this one to.
        """
        logps, _ = self.forward_logps(self.policy, stack([([0], [0])], 0).to(self.device))
        return logps.sum() * 0

    def on_train_start(self) -> None:
        self._stop_at_total_tokens()  # a run that goes on may have reached them already

    def _stop_at_total_tokens(self) -> None:
        last_pass = self.trainer.global_step % self.num_iterations == 0
        if self.total_tokens is not None and self.num_tokens >= self.total_tokens and last_pass:
            self.trainer.should_stop = True

    def check_step(self, metrics: dict[str, float]) -> None:
        self._stop_at_total_tokens()
        if self.max_kl is not None and metrics.get("train/kl", 0.0) > self.max_kl:
            raise TrainingHalted(
                f"the KL to the reference has passed stage.max_kl={self.max_kl:g}", metrics["train/kl"]
            )
        if self.min_entropy is not None and metrics.get("train/entropy", 1e9) < self.min_entropy:
            raise TrainingHalted(
                f"the entropy has fallen below stage.min_entropy={self.min_entropy:g}", metrics["train/entropy"]
            )

    # ---- the data: rollouts ----

    def micro_batches(self, step: int) -> list[Experience]:
        if self.reference:
            self.reference.sync(self.policy, step)
        fresh = self.experience is None or step % self.num_iterations == 0
        if fresh:
            self.experience = self.collector.collect(step // self.num_iterations)
            self.num_tokens += self.global_sum(self.collector.pop_tokens())
        assert self.experience is not None
        self.note({"train/total_tokens": self.num_tokens})
        return split(self.experience if fresh else self.experience.as_stale(), self.plan.num_micro_batches)

    @property
    def engine_is_exact(self) -> bool:
        """Whether the log-probs kept while sampling are the trainer's: in half precision they are not."""
        return (
            self.engine.logprobs_match_trainer
            and self.policy.dtype == torch.float32
            and self.trainer.precision == "32-true"
        )

    @torch.no_grad()
    def logps_under(self, model: Any, batch: Sequences) -> Tensor:
        """(B, T) log-probabilities of the completions, in the trainer's precision, worked out in micro-batches."""
        rows = []
        size, width = self.plan.micro_batch_size, batch.completion_ids.shape[1]
        for start in range(0, len(batch), size):
            fields = batch.rows(range(start, min(start + size, len(batch))))
            part = Sequences(**fields).to(self.device)
            with self.trainer.precision_plugin.forward_context():
                logps, _ = self.forward_logps(model, part)
            rows.append(torch.nn.functional.pad(logps.cpu(), (0, width - logps.shape[1])))
        return torch.cat(rows)

    def loader_state(self, step: int) -> dict[str, Any]:
        used_again = self.experience is not None and step % self.num_iterations > 0
        return {
            "num_tokens": self.num_tokens,
            "experience": to_state(self.experience) if self.experience and used_again else None,
            "reference": self.reference.state() if self.reference and self.ranks.is_rank_zero else None,
            "ahead": self.ahead.state(step) if self.ahead else None,
        }

    def load_loader_state(self, states: list[dict[str, Any]]) -> None:
        self.num_tokens = states[0]["num_tokens"]
        held = [from_state(state["experience"]) for state in states if state["experience"]]
        if len(held) == self.ranks.size:
            self.experience = held[self.ranks.rank]
        elif held:  # other devices than then: each row carries the step's normaliser, wherever it goes
            self.experience = split(concat(held), self.ranks.size)[self.ranks.rank]
        if self.reference:
            self.reference.load_state(states[0]["reference"])
        if self.ahead:
            self.ahead.load_state([state["ahead"] for state in states])


def _mean(values: Tensor, batch: Experience) -> Tensor:
    """This micro-batch's part of the mean over all tokens that go through the model in the step."""
    return (values * batch.mask).sum() / max(batch.counts.active_tokens, 1)
