"""On-policy distillation: the student samples, and learns the teacher's distribution at each of its tokens.

Two forms are in use. One takes -(log q(x) - log p(x)) of the sampled token x as its advantage and makes a step of
policy gradient (Lu et al., "On-Policy Distillation", 2025). The other takes the divergence of the whole distributions
at that position (GKD with lambda = 1, Agarwal et al. 2024). With reverse KL the first is a one-sample estimate of the
second, E_q[grad log q(x) (log q(x) - log p(x))] = grad KL(q||p), and the second has no sampling noise (MiniLLM sums
over the vocabulary for that reason; Gu et al. 2024, sec. 2.2), needs no ratios and no clipping, and allows other
divergences. The teacher's forward pass computes the full distribution in either case, so this stage takes the second.
As in GKD no gradient flows through the sampling: a token gets no credit or blame for the tokens after it.
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
from r1.stage.sft import SftBatch, fully_learned, make_micro_batches
from r1.stage.training.base import TrainingStage
from r1.stage.training.optimization import Optimization
from r1.stage.validation.sampling import shard
from r1.teacher.base import Teacher

TokenPair = tuple[list[int], list[int]]  # prompt ids, completion ids


class DistillOnPolicy(TrainingStage):
    """D(teacher, student) per sampled token, the mean taken over the whole step; neither rewards nor a verifier.

    Args:
        divergence: D (nested group ``stage/divergence``), of both distributions at temperature tau.
        temperature: tau, divides the logits of both; D is multiplied by tau^2, as in ``DistillLogits``.
        group_size: G, completions per prompt.
        sequences_per_step: B = P x G; derived, the batch plan has it.
        num_iterations: mu, optimizer steps on one rollout batch.
        share_prompts: each prompt goes through the models once for all of its completions.
    """

    teacher: LocalTeacher

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
        self.sequences: list[TokenPair] = []  # the current rollout batch

    def training_step(self, batch: SftBatch, batch_idx: int) -> Tensor:
        teacher = self.teacher.to(self.device)
        per_token, _ = self.forward_pass.divergence_from_teacher(
            self.policy, teacher, batch, self.tau, self.divergence, want_logps=False
        )
        divergence = per_token.sum() / batch.step_tokens
        loss = self.tau**2 * divergence  # see DistillLogits
        self.step_metrics.add({"train/divergence": divergence.detach(), "train/loss": loss.detach()})
        return self.scaled_loss(loss)

    def micro_batches(self, step: int) -> list[SftBatch]:
        if not self.sequences or step % self.num_iterations == 0:
            self.sequences = self.rollouts(step // self.num_iterations)
        return make_micro_batches(self, [fully_learned(*pair) for pair in self.sequences])

    def rollouts(self, number: int) -> list[TokenPair]:
        """Sample the rollout batch ``number``, on this rank."""
        self.update_engine()
        started, indices = time.monotonic(), self.step_indices(number)
        seeds = [[derive_seed(self.seed, "rollout", number, i, g) for g in range(self.group_size)] for i in indices]
        groups = self.sampler.sample([self.data.train[i] for i in indices], seeds)
        rollouts = [rollout for group in groups for rollout in group]
        num_tokens, num_truncated = sum(len(r.completion_ids) for r in rollouts), sum(r.truncated for r in rollouts)
        self.step_metrics.add(
            {
                "time/rollout": time.monotonic() - started,
                "train/completion_length": num_tokens / self.plan.sequences_per_step,
                "train/truncated": num_truncated / self.plan.sequences_per_step,
            }
        )
        return [(rollout.prompt_ids, rollout.completion_ids) for rollout in rollouts]

    def loader_state(self, step: int) -> dict[str, Any]:
        return {"sequences": self.sequences if step % self.num_iterations else []}

    def load_loader_state(self, states: list[dict[str, Any]]) -> None:
        sequences = [sequence for state in states for sequence in state["sequences"]]
        self.sequences = shard(sequences, self.run.ranks.rank, self.run.ranks.size)
