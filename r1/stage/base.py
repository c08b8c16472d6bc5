"""What all stages share: loading, the step loader, the optimizer, reporting, and validation by sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor

from r1.core.batch import BatchPlan
from r1.core.errors import TrainingHalted
from r1.core.metrics import primary_metric
from r1.core.seeds import batch_indices, derive_seed
from r1.core.statistics import Estimate
from r1.data.base import Data, Row
from r1.distributed.collectives import RankGroup
from r1.distributed.sharding import ShardedPolicy
from r1.model import loading as models
from r1.model.forward import Forward
from r1.model.loading import Model
from r1.model.sequences import Sequences
from r1.reward.base import Rewards, Scores
from r1.reward.initial_policy import InitialPolicy
from r1.rollout.base import Engine, Rollout, no_op
from r1.stage.training.loader import SingleBatchLoader, StepLoader, rescale_progress
from r1.stage.training.optimization import Optimization, adamw, clip_grad_norm, lr_factor
from r1.stage.training.step_metrics import StepMetrics
from r1.stage.validation import readability
from r1.stage.validation.metrics import Sample, Validation
from r1.stage.validation.sampling import sample_validation
from r1.stage.validation.summary import validation_metrics

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from r1.stage.recorder import Recorder


class Stage(L.LightningModule):
    """A stage that can sample and validate; the training stages add ``micro_batches`` and ``training_step``.

    Args:
        model: where the policy comes from; loaded in ``configure_model``.
        data: rows to train on and rows held out.
        rewards: the reward terms, logged at every validation.
        engine: writes completions.
        validation: when and how much to validate.
        seed: the run's seed; every random draw is keyed by it.
    """

    group_size = 1
    unit = "sequences"  # what goes through the model
    trains = True
    predicts = False  # goes once over the training questions without learning: Lightning's predict loop
    needs_columns: tuple[str, ...] = ()  # what every training row must have besides its prompt
    writes_questions = False  # the policy asks; the dataset's training rows are not learned from
    val_columns: tuple[str, ...] = ()  # and every held-out row
    plan: BatchPlan
    policy: PreTrainedModel

    def __init__(
        self, model: Model, data: Data, rewards: Rewards, engine: Engine, validation: Validation, seed: int
    ) -> None:
        super().__init__()
        self.model_source, self.data, self.rewards, self.engine = model, data, rewards, engine
        self.validation, self.seed = validation, seed
        self.tokenizer = model.load_tokenizer()
        self.record: Recorder | None = None  # of the first process alone
        self.ranks = RankGroup()
        self.poll: Callable[[], None] = no_op  # called between tokens; raises if the run is asked to stop
        self.frozen_policy: InitialPolicy | None = None
        self.figures: dict[str, Estimate] = {}
        self.validated_at = -1
        self.best: dict[str, float] | None = None
        self.shown_samples: list[Sample] = []
        self._sums = StepMetrics()

    # ---- the policy ----

    def configure_model(self) -> None:
        if not hasattr(self, "policy"):
            self.policy = self.model_source.load(derive_seed(self.seed, "weights"))
            if self.rewards.any_term_needs("frozen_policy"):
                self.frozen_policy = InitialPolicy(self.policy, self.tokenizer, self.stop_ids, lambda: self.poll())

    @property
    def stop_ids(self) -> set[int]:
        """Tokens that close a completion: the templates', the tokenizer's and the generation config's."""
        ends = self.data.end_tokens(self.tokenizer)
        ids: set[Any] = {*map(self.tokenizer.convert_tokens_to_ids, ends)}
        return (models.stop_ids(self.policy, self.tokenizer) | ids) - {None}

    def sample(self, rows: Sequence[Row], seeds: list[list[int]]) -> list[list[Rollout]]:
        """``len(seeds[p])`` completions for each row p, of the weights that the engine was last told of."""
        prompts = [self.data.prompt_ids(self.tokenizer, row) for row in rows]
        return self.engine.generate(prompts, seeds, self.stop_ids, self.poll)

    def text(self, rollout: Rollout, row: Row) -> str:
        """What the reader and the rewards see: the template's prefill and the completion without its closing token."""
        ids = rollout.completion_ids if rollout.truncated else rollout.completion_ids[:-1]
        return self.data.template_of(row).prefill + str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def count_tokens(self, texts: list[str]) -> list[int]:
        return [len(ids) for ids in self.tokenizer(texts, add_special_tokens=False).input_ids]

    def score(self, rows: Sequence[Row], rollouts: Sequence[Rollout]) -> tuple[list[str], Scores]:
        """Texts and reward terms of one completion per row."""
        texts = [self.text(r, row) for r, row in zip(rollouts, rows, strict=True)]
        scores = self.rewards.score(
            prompts=[row["prompt"] for row in rows],
            completions=texts,
            rows=list(rows),
            verifier=self.data.verifier,
            completion_ids=[r.completion_ids for r in rollouts],
            max_completion_length=self.engine.max_completion_length,
            truncated=[r.truncated for r in rollouts],
            frozen_policy=self.frozen_policy,
            poll=self.poll,
        )
        return texts, scores

    def pop_scorer_counts(self) -> dict[str, float]:
        """What verifier and rewards could not score since the last call, by reason, as metrics."""
        counts = self.data.pop_error_counts() | self.rewards.pop_error_counts()
        return {name: float(count) for name, count in counts.items()}

    def export_policy(self, folder: Path, go_on: bool = False) -> None:
        """The first process exports the policy, with ``go_on`` to train on afterwards; every one must come here."""
        strategy = self.trainer.strategy
        policy = strategy.gather_policy() if isinstance(strategy, ShardedPolicy) else self.policy
        if self.ranks.is_rank_zero:
            self.export(policy, folder, go_on)

    def export(self, policy: PreTrainedModel, folder: Path, go_on: bool = False) -> None:
        """The policy as a Hugging Face folder."""
        models.export(policy, self.tokenizer, self.stop_ids, folder, go_on)

    def summon_full_params(self) -> AbstractContextManager[None]:
        """Inside, every device has all weights of the policy; every one must come here."""
        strategy = self.trainer.strategy
        return strategy.full_params() if isinstance(strategy, ShardedPolicy) else nullcontext()

    def update_engine(self) -> None:
        """From here on the engine samples with the policy as it is now; every device must come here."""
        self.engine.update(self.policy, self.trainer.global_step, self.ranks)

    # ---- validation ----

    @property
    def validation_plan(self) -> str:
        return f"{self.validation.num_prompts} prompts x {self.validation.num_samples} completions"

    def val_dataloader(self) -> SingleBatchLoader:
        return SingleBatchLoader(list(range(self.validation.num_prompts)))

    def validation_step(self, indices: list[int], batch_idx: int) -> None:
        n = self.validation.num_samples
        with self.summon_full_params():
            self.update_engine()
            rows, samples, scores, counts = sample_validation(self, indices)
        self.figures = validation_metrics(rows, samples, scores, self.data.parts, n, self.validation.ks)
        self.figures |= readability.summarise([sample.completion for sample in samples], n, self.count_tokens)
        self.shown_samples = samples[: 3 * n : n]
        if self.record:  # before the row that they belong to
            self.record.add_samples("val", self.trainer.global_step, rows[: 8 * n], samples, scores)
        self.validated({f"val/{name}": count for name, count in counts.items()})

    def validated(self, counts: dict[str, float]) -> None:
        """``validation_metrics`` are those of the current step: report them, and ``counts`` with them."""
        self.validated_at = self.trainer.global_step
        self.report({name: figure.value for name, figure in self.figures.items()} | counts)

    def improved(self, start: dict[str, Estimate]) -> bool:
        """Whether this validation's headline is the best so far, the run's start included; ``best`` remembers it."""
        name = primary_metric(self.figures)
        value = self.figures[name].value
        if value <= (self.best or {name: start[name].value})[name]:
            return False
        self.best = {"step": self.validated_at, name: value}
        return True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        plain = {name: asdict(figure) for name, figure in self.figures.items()}
        checkpoint["validation"] = {"step": self.validated_at, "figures": plain, "best": self.best}
        checkpoint["num_micro_batches"] = self.plan.num_micro_batches

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        held = checkpoint["validation"]
        self.validated_at, self.best = held["step"], held["best"]
        self.figures = {name: Estimate(**figure) for name, figure in held["figures"].items()}
        rescale_progress(checkpoint, self.plan.num_micro_batches)

    # ---- optimization ----

    def training_setup(self, optimization: Optimization, num_devices: int, share_prompts: bool = False) -> None:
        """Called by the training stages' ``__init__``."""
        self.optimization = optimization
        self.forward_pass = Forward(optimization["packing"], share_prompts)
        sizes = optimization["examples_per_step"], self.group_size, optimization["micro_batch_size"]
        self.plan = BatchPlan(*sizes, num_devices, self.unit)

    def train_dataloader(self) -> StepLoader:
        return StepLoader(self, self.trainer.max_steps)

    def micro_batches(self, step: int) -> list[Any]:
        """All micro-batches of one optimizer step on this device, each with the step's global normaliser."""
        raise NotImplementedError

    def loader_state(self, step: int) -> dict[str, Any]:
        """What this device's loader must remember before ``step`` besides the step itself."""
        return {}

    def load_loader_state(self, states: list[dict[str, Any]]) -> None:
        """Take back the ``loader_state`` of every device there was then; there may be more or fewer now."""

    def gather(self, value: Any) -> list[Any]:
        """A value of each device, in the order of their ranks; every device must come here."""
        return self.ranks.gather(value)

    def global_sum(self, count: int) -> int:
        """Sum of a count over all devices."""
        return sum(self.gather(count))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device) if hasattr(batch, "to") else batch

    def forward_logps(
        self, model: PreTrainedModel, batch: Sequences, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        """(B, T) log-probabilities and entropies under ``model`` at the sampling temperature."""
        return self.forward_pass(model, batch, self.temperature, entropy_gradient)

    @property
    def temperature(self) -> float:
        """What logits are divided by in training."""
        return self.engine.temperature

    def step_indices(self, step: int) -> list[int]:
        """This device's share of the step's examples, as indices into ``data.train``."""
        indices = batch_indices(self.seed, step, self.plan.examples_per_step, len(self.data.train))
        share = len(indices) // self.trainer.world_size
        return indices[self.trainer.global_rank * share : (self.trainer.global_rank + 1) * share]

    def backward_scale(self) -> float:
        """Undoes what Lightning divides by: accumulation, and the mean over devices.

        Every micro-batch is already normalised by the whole step, so contributions must add up, not average.
        """
        return float(self.plan.num_micro_batches * self.trainer.world_size)

    def configure_optimizers(self) -> Any:
        optimizer = adamw(self.policy, self.optimization)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_factor(self, step: int) -> float:
        return lr_factor(self.optimization, step, self.trainer.max_steps)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Dropout is the one thing that draws from the global generator: it is keyed like every other draw."""
        part = batch_idx % self.plan.num_micro_batches
        self.ranks.heartbeat()
        torch.manual_seed(derive_seed(self.seed, "dropout", self.trainer.global_step, part, self.trainer.global_rank))

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        norm = clip_grad_norm(self.trainer.strategy, self.policy, self.optimization["max_grad_norm"])
        if not norm.isfinite():  # the weights are still those of the last good step
            raise TrainingHalted("the loss or its gradient is not finite", float(norm))
        self.note({"train/grad_norm": norm, "train/lr": optimizer.param_groups[0]["lr"]})

    # ---- reporting: one row per optimizer step ----

    def log_sum(self, metrics: dict[str, Tensor | float]) -> None:
        """Add contributions of this device and micro-batch (already normalised by the step) to the step's row."""
        self._sums.add(metrics)

    def note(self, metrics: dict[str, Tensor | float]) -> None:
        """Add to the step's row what every device finds alike."""
        self._sums.note(metrics)

    def report_step(self) -> None:
        """Called once per optimizer step, before anything else looks at it (a checkpoint includes its step's row)."""
        self.report(metrics := self._sums.close(self.gather))
        self.check_step(metrics)

    def check_step(self, metrics: dict[str, float]) -> None:
        """A stage's own guards, on the row of the step that has just been made; raises Halted."""

    def report(self, metrics: dict[str, float]) -> None:
        """Send one row to every logger, at the optimizer step."""
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        if not self.trainer.sanity_checking:
            for logger in self.trainer.loggers:
                logger.log_metrics(metrics, step=self.trainer.global_step)
