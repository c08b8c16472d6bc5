"""What every training stage has: the batch plan, the micro-batches of a step, the optimizer, and the step's metrics."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from r1.core.batch import BatchPlan
from r1.core.errors import MODEL, TrainingHalted, UserError
from r1.core.seeds import batch_indices, derive_seed
from r1.distributed.sharding import ShardedPolicy
from r1.model.forward import Forward
from r1.model.router_loss import RouterLoss
from r1.model.sequences import Sequences
from r1.model.trained import frozen_checksum, with_frozen, without_frozen
from r1.stage.base import Stage, StageParts
from r1.stage.training.loader import StepLoader, rescale_progress
from r1.stage.training.micro_batches import rows_by_tokens, split_to
from r1.stage.training.optimization import Optimization, clip_grad_norm, lr_factor
from r1.stage.training.step_metrics import StepMetrics
from r1.stage.training.symptoms import Symptoms

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TrainingStage(Stage):
    """Trains the policy; a stage adds ``micro_batches`` and ``training_step``.

    Args:
        optimization: the knobs of ``conf/stage/_base.yaml``.
        group_size: G, sequences per example.
        share_prompts: each prompt goes through the model once for all of its completions.
        steps_per_rollout: S, optimizer steps that a rollout batch is split into.
    """

    trains = True
    batch_unit: ClassVar[str] = "sequences"  # counted by the batch plan
    texts_per_example: ClassVar[int] = 1  # that go through the model together

    def __init__(
        self,
        parts: StageParts,
        optimization: Optimization,
        group_size: int = 1,
        share_prompts: bool = False,
        steps_per_rollout: int = 1,
    ) -> None:
        super().__init__(parts)
        self.optimization, self.group_size = optimization, group_size
        self.forward_pass = Forward(optimization["packing"], share_prompts)
        sizes = optimization["examples_per_step"], group_size, optimization["micro_batch_size"]
        max_tokens = optimization["micro_batch_tokens"]
        self.plan = BatchPlan(*sizes, parts.num_devices, self.batch_unit, steps_per_rollout, max_tokens)
        self.step_metrics, self.symptoms = StepMetrics(), Symptoms()
        self.checkpoint_has_other_rates = False  # it was saved under another total of steps, or by another run

    # ---- data ----

    @abstractmethod
    def micro_batches(self, step: int) -> list[Any]:
        """All micro-batches of one optimizer step on this rank, each with the normaliser of the whole step."""

    def rows_by_tokens(self, batch: Sequences) -> list[list[int]]:
        """The rows of each micro-batch of at most ``micro_batch_tokens``."""
        assert self.plan.micro_batch_tokens
        prompts = [(p, batch.prompt_lengths[p]) for p in batch.prompt_index]
        lengths = [of_prompt + n for (_, of_prompt), n in zip(prompts, batch.lengths, strict=True)]
        is_packed = self.forward_pass.packing and self.forward_pass.can_pack(self.policy, batch)
        shared = prompts if self.forward_pass.share_prompts else None
        return rows_by_tokens(lengths, self.plan.micro_batch_tokens, is_packed, shared)

    def equal_counts(self, parts: list[list[int]]) -> list[list[int]]:
        """Split micro-batches until there are as many on every rank; every rank must call this."""
        return split_to(max(1, *self.run.ranks.gather(len(parts))), parts)

    def train_dataloader(self) -> StepLoader:
        return StepLoader(self, self.trainer.max_steps)

    def step_indices(self, step: int) -> list[int]:
        """This rank's share of the step's examples, as indices into ``data.train``."""
        indices = batch_indices(self.seed, step, self.plan.examples_per_step, len(self.data.train))
        share = len(indices) // self.trainer.world_size
        return indices[self.trainer.global_rank * share : (self.trainer.global_rank + 1) * share]

    def global_sum(self, count: int) -> int:
        """Sum of a count over all ranks; every rank must call this."""
        return sum(self.run.ranks.gather(count))

    def loader_state(self, step: int) -> dict[str, Any]:
        """State of this rank's data before ``step``, besides the step itself, for a checkpoint."""
        return {}

    def load_loader_state(self, states: list[dict[str, Any]]) -> None:
        """Restore from the ``loader_state`` of every rank of the saved run; there may be more or fewer ranks now."""

    # ---- loss ----

    def configure_model(self) -> None:
        super().configure_model()
        if not hasattr(self, "router_loss"):
            self.router_loss = RouterLoss(self.policy)

    @property
    def temperature(self) -> float:
        """Divides the logits in training: the sampling temperature, so that a ratio of equal policies is 1."""
        return self.engine.sampling["temperature"]

    def forward_logps(
        self, model: PreTrainedModel, batch: Sequences, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        """(B, T) log-probabilities and entropies under ``model`` at ``temperature``."""
        return self.forward_pass(model, batch, self.temperature, entropy_gradient)

    def scaled_loss(self, loss: Tensor) -> Tensor:
        """A micro-batch's loss for Lightning, with the router loss of models that have one.

        Lightning divides by the number of accumulated micro-batches and of ranks. Every micro-batch is already
        normalised by the whole step, so its loss must add up, not average; router losses do average.
        """
        return loss * float(self.plan.num_micro_batches * self.trainer.world_size) + self.router_loss.take()

    # ---- optimizer ----

    def configure_optimizers(self) -> Any:
        optimizer = self.optimization["optimizer"](self.policy, self.optimization["lr"])
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.lr_factor)
        self.hyperparameters = [
            {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
        ]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_factor(self, step: int) -> float:
        return lr_factor(self.optimization, step, self.trainer.max_steps)

    def adopt_schedule(self) -> None:
        """After a checkpoint with other rates: the next step has this run's own, and its other hyperparameters."""
        if not self.checkpoint_has_other_rates:
            return
        schedule: Any = self.trainer.lr_scheduler_configs[0].scheduler
        schedule.base_lrs = [own["initial_lr"] for own in self.hyperparameters]
        for group, own in zip(self.trainer.optimizers[0].param_groups, self.hyperparameters, strict=True):
            group |= own | {"lr": own["initial_lr"] * self.lr_factor(schedule.last_epoch)}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout is the only consumer of the global generator: it is keyed like every other draw.
        micro_batch = batch_idx % self.plan.num_micro_batches
        self.run.ranks.heartbeat()
        key = derive_seed(self.seed, "dropout", self.trainer.global_step, micro_batch, self.trainer.global_rank)
        torch.manual_seed(key)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        norm = clip_grad_norm(self.trainer.strategy, self.policy, self.optimization["max_grad_norm"])
        if not norm.isfinite():  # raised before the optimizer step: the weights are those of the last good step
            raise TrainingHalted("the loss or its gradient is not finite", float(norm))
        self.step_metrics.add_replicated({"train/grad_norm": norm, "train/lr": optimizer.param_groups[0]["lr"]})

    # ---- after a step ----

    def report_step(self) -> None:
        """Report the step's metrics; called before a checkpoint, which includes its step's row."""
        self.report(metrics := self.step_metrics.reduce(self.run.ranks.gather))
        self.symptoms.update(self.trainer.global_step, metrics)
        self.check_step(metrics)

    def check_step(self, metrics: dict[str, float]) -> None:
        """Guards of a stage, on the metrics of the newest step; raises TrainingHalted."""

    @property
    def is_budget_spent(self) -> bool:
        """Whether a budget of the stage ends training before ``trainer.max_steps``."""
        return False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["validation"] = self.validator.state_dict()
        checkpoint["num_micro_batches"] = self.plan.num_micro_batches
        checkpoint["symptoms"] = self.symptoms.state()
        checkpoint["num_steps"] = self.trainer.max_steps
        checkpoint["state_dict"] = without_frozen(checkpoint["state_dict"], self)
        checkpoint["frozen"] = self.base_checksum

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        total = self.trainer.max_steps
        self.checkpoint_has_other_rates = self.run.starts_from_another or checkpoint.get("num_steps", total) != total
        if self.run.starts_from_another:
            checkpoint["callbacks"] = {}  # they belong to the other run, as its validations do
        else:
            self.validator.load_state_dict(checkpoint["validation"])
            if "symptoms" in checkpoint:  # not in those of earlier versions
                self.symptoms.load_state(checkpoint["symptoms"])
        rescale_progress(checkpoint, self.plan.num_micro_batches)
        if checkpoint.get("frozen", self.base_checksum) != self.base_checksum:
            raise UserError(
                "the frozen weights are not those that this run's adapters were trained on",
                key="model.path",
                value=self.model_source.path,
                expected="the weights that the run started with; its checkpoints hold the adapters alone",
                hint="put the base model back, or take another output_dir to start again",
                code=MODEL,
            )
        if "state_dict" in checkpoint:  # not in that of a sharded policy, whose strategy has loaded the weights
            checkpoint["state_dict"] = with_frozen(checkpoint["state_dict"], self)

    @cached_property
    def base_checksum(self) -> int:
        """Of the weights that no checkpoint holds; the same on every device. A collective if the policy is sharded."""
        checksum = frozen_checksum(self)
        return self.global_sum(checksum) if isinstance(self.trainer.strategy, ShardedPolicy) else checksum
