"""On-policy distillation: the student samples, and learns the teacher's distribution at every token it has written.

Two forms are in use. One takes -(log q(x) - log p(x)) of the sampled token x as its advantage and makes a step of
policy gradient (Lu et al., "On-Policy Distillation", 2025). The other takes the divergence of the whole distributions
at that position (GKD with lambda = 1, Agarwal et al. 2024). With reverse KL the first is a one-sample estimate of the
second, E_q[grad log q(x) (log q(x) - log p(x))] = grad KL(q||p), and the second has no sampling noise (MiniLLM sums
over the vocabulary for that reason; Gu et al. 2024, sec. 2.2), needs no ratios and no clipping, and takes other
divergences as well. The teacher's forward pass gives the whole distribution anyway, so the second is what is done here.
As in GKD no gradient flows through the sampling: a token is not charged for what comes after it.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Unpack

from annotated_types import Ge, Gt
from torch import Tensor

from r1.core.seeds import derive_seed
from r1.model.fused_divergence import Divergence
from r1.stage.base import StageParts
from r1.stage.distillation.local_teacher import LocalTeacher
from r1.stage.sft import SftBatch, make_micro_batches
from r1.stage.training.base import TrainingStage
from r1.stage.training.optimization import Optimization
from r1.stage.validation.sampling import shard
from r1.teacher.base import Teacher


class DistillOnPolicy(TrainingStage):
    """D(teacher, student) per sampled token, the mean taken over the whole step; no reward and no verifier is asked.

    Args:
        divergence: D (nested group ``stage/divergence``), of both distributions at temperature tau.
        temperature: tau, divides the logits of both; D is multiplied by tau^2, as in ``DistillLogits``.
        group_size: G, completions per prompt.
        sequences_per_step: B = P x G; the plan has it.
        num_iterations: mu, optimizer steps on one rollout batch.
        share_prompts: each prompt goes through the models once for all of its completions.
    """

    def __init__(
        self,
        parts: StageParts,
        teacher: Teacher,
        *,
        divergence: Divergence,
        temperature: Annotated[float, Gt(0)],
        group_size: Annotated[int, Ge(1)],
        sequences_per_step: Annotated[int, Ge(1)],
        num_iterations: Annotated[int, Ge(1)],
        share_prompts: bool,
        **optimization: Unpack[Optimization],
    ) -> None:
        super().__init__(parts, optimization, group_size, share_prompts)
        self.teacher = LocalTeacher(teacher, self.tokenizer)
        self.divergence, self.tau, self.num_iterations = divergence, temperature, num_iterations
        self.sequences: list[tuple[list[int], list[int]]] = []  # of the rollout batch: (prompt ids, completion ids)

    def training_step(self, batch: SftBatch, batch_idx: int) -> Tensor:
        teacher = self.teacher.on(self.device)
        found, _ = self.forward_pass.divergence_from_teacher(
            self.policy, teacher, batch, self.tau, self.divergence, want_logps=False
        )
        divergence = found.sum() / batch.step_tokens
        loss = self.tau**2 * divergence
        self.step_metrics.add({"train/divergence": divergence.detach(), "train/loss": loss.detach()})
        return loss * self.backward_scale()

    def micro_batches(self, step: int) -> list[SftBatch]:
        if not self.sequences or step % self.num_iterations == 0:
            self.sequences = self.rollouts(step // self.num_iterations)
        return make_micro_batches(self, self.sequences)

    def rollouts(self, number: int) -> list[tuple[list[int], list[int]]]:
        """Sample the rollout batch ``number``, on this device: (prompt ids, completion ids) of each completion."""
        self.update_engine()
        started, indices = time.monotonic(), self.step_indices(number)
        seeds = [[derive_seed(self.seed, "rollout", number, i, g) for g in range(self.group_size)] for i in indices]
        groups = self.sampler.sample([self.data.train[i] for i in indices], seeds)
        flat = [rollout for group in groups for rollout in group]
        self.step_metrics.add(
            {
                "time/rollout": time.monotonic() - started,
                "train/completion_length": sum(len(r.completion_ids) for r in flat) / self.plan.sequences_per_step,
                "train/truncated": sum(r.truncated for r in flat) / self.plan.sequences_per_step,
            }
        )
        return [(r.prompt_ids, r.completion_ids) for r in flat]

    def loader_state(self, step: int) -> dict[str, Any]:
        return {"sequences": self.sequences if step % self.num_iterations else []}

    def load_loader_state(self, states: list[dict[str, Any]]) -> None:
        self.sequences = shard(
            [s for state in states for s in state["sequences"]], self.run.ranks.rank, self.run.ranks.size
        )
