"""What every stage has: a policy, completions sampled from it, and validation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import lightning as L
import torch

from r1.core.batch import chunks
from r1.core.progress_counter import ProgressCounter
from r1.core.runs import NUM_SHOWN_PROMPTS
from r1.core.seeds import derive_seed
from r1.data.base import Data, Row
from r1.distributed.sharding import ShardedPolicy
from r1.model.dither import dither
from r1.model.export import export
from r1.model.loading import Model
from r1.model.logit_scale import logit_scale
from r1.reward.base import Rewards
from r1.rollout.base import Engine
from r1.stage.runtime.policy_sampler import PolicySampler
from r1.stage.runtime.run_context import RunContext
from r1.stage.training.loader import Batches
from r1.stage.training.symptoms import first_validation, warn
from r1.stage.validation.metrics import Validation
from r1.stage.validation.sampling import SampledCount, ValidationCompletions, join_completions, sample_validation
from r1.stage.validation.summary import sampling_metrics
from r1.stage.validation.validator import Validator

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from r1.stage.distillation.filters import Filters


@dataclass(frozen=True)
class StageParts:
    """The runtime objects that every stage is built from.

    Attributes:
        model: source of the policy; loaded in ``Stage.configure_model``.
        tokenizer: the policy's, with the chat template that the run trains with.
        data: training rows and held-out rows.
        rewards: the reward terms, logged at every validation.
        engine: samples completions.
        validation: when and how much to validate.
        seed: the run's seed; every random draw is keyed by it.
        num_devices: processes over all nodes.
        precision: of the Trainer, resolved.
    """

    model: Model
    tokenizer: PreTrainedTokenizerBase
    data: Data
    rewards: Rewards
    engine: Engine
    validation: Validation
    seed: int
    num_devices: int
    precision: str


class Stage(L.LightningModule):
    """A stage that samples and validates; ``TrainingStage`` adds the optimizer steps."""

    trains: ClassVar[bool] = False
    learns_from_rewards: ClassVar[bool] = False  # of the completions of one prompt
    predicts: ClassVar[bool] = False  # one pass over the training questions without learning: Lightning's predict loop
    keeps_completions: ClassVar[bool] = False  # of validation, all of them; else those of the first prompts
    writes_questions: ClassVar[bool] = False  # the policy writes its own questions; the dataset's are not used
    required_columns: ClassVar[tuple[str, ...]] = ()  # of every training row, besides its prompt
    val_columns: ClassVar[tuple[str, ...]] = ()  # of every held-out row
    policy: PreTrainedModel
    teacher: object = None  # of the stages that distill
    filters: Filters | None = None  # of the stages that select answers

    def __init__(self, parts: StageParts) -> None:
        super().__init__()
        self.model_source, self.data, self.engine, self.seed = parts.model, parts.data, parts.engine, parts.seed
        self.validation, self.precision = parts.validation, parts.precision
        self.tokenizer = parts.tokenizer
        self.run = RunContext()
        self.sampler = PolicySampler(parts.data, parts.rewards, parts.engine, self.tokenizer, self.run)
        self.validator = Validator()

    # ---- the data ----

    def full_texts(self, row: Row, columns: Sequence[str]) -> list[str]:
        """The texts that ``columns`` of a row are learned from, each read by the model as one sequence; here none."""
        return []

    @property
    def text_options(self) -> dict[str, Any]:
        """The knobs of the stage that decide ``full_texts``, or whether a row has such texts."""
        return {}

    def shown_texts(self, row: Row) -> dict[str, str]:
        """What the model reads and learns of a row, by name, for the plan of a dry run."""
        return {"prompt": self.data.prompt_text(self.tokenizer, row)}

    # ---- the policy ----

    def configure_model(self) -> None:
        """Lightning calls this before each of validate, fit and predict; the weights are loaded once."""
        if not hasattr(self, "policy"):
            self.policy = self.load_policy()
            with suppress(Exception):  # an architecture may fail in any way; packing then looks again
                logit_scale(
                    self.policy
                )  # now, for it runs the model: with shards all ranks must, and not each validates
            if self.trains and self.precision == "bf16-mixed":
                dither(self.policy, derive_seed(self.seed, "dither"))
            self.sampler.attach(self.policy)

    def load_policy(self) -> PreTrainedModel:
        """The model that the stage trains or evaluates, on the CPU."""
        return self.model_source.load(derive_seed(self.seed, "weights"))

    def update_engine(self) -> None:
        """Sync the engine's weights with the policy; every rank must call this."""
        self.engine.update(self.policy, self.trainer.global_step, self.run.ranks)

    def summon_full_params(self) -> AbstractContextManager[None]:
        """Context in which every rank holds all weights of the policy; every rank must enter it."""
        strategy = self.trainer.strategy
        return strategy.full_params() if isinstance(strategy, ShardedPolicy) else nullcontext()

    def export_policy(self, folder: Path, resumable: bool = False) -> None:
        """Rank zero exports the policy; every rank must call this.

        Args:
            resumable: the policy is trained further afterwards.
        """
        strategy = self.trainer.strategy
        policy = strategy.gather_policy() if isinstance(strategy, ShardedPolicy) else self.policy
        if self.run.ranks.is_rank_zero:
            self.save_pretrained(policy, folder, resumable)

    def save_pretrained(self, policy: PreTrainedModel, folder: Path, resumable: bool) -> None:
        """The policy as a Hugging Face folder; at the end its adapters, too, in ``adapter/`` beside it."""
        adapter_folder = None if resumable else folder.with_name("adapter")
        export(policy, self.tokenizer, self.sampler.stop_ids, folder, resumable, adapter_folder)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device) if hasattr(batch, "to") else batch

    # ---- validation ----

    @property
    def validation_plan(self) -> str:
        changes = self.validation.sampling.changes if self.validation.sampling else {}
        knobs = "".join(f", {name} {value}" for name, value in changes.items())
        return f"{self.num_val_rows} prompts{self.of_held_out} x {self.validation.num_samples} completions{knobs}"

    @property
    def num_val_rows(self) -> int:
        """Held-out rows that are validated: ``val.num_prompts``, or all if there are fewer."""
        return min(self.validation.num_prompts, len(self.data.val))

    @property
    def of_held_out(self) -> str:
        """For the plan: a note if the held-out split is smaller than ``val.num_prompts``."""
        wanted = self.validation.num_prompts
        return f" (all that are held out; val.num_prompts={wanted})" if self.num_val_rows < wanted else ""

    def val_dataloader(self) -> Batches:
        return Batches([list(range(self.num_val_rows))])

    def validation_step(self, indices: list[int], batch_idx: int) -> None:
        """Validate on these held-out rows; the whole validation is one batch."""
        num_samples = self.validation.num_samples
        completions = self.sample_validation(indices)
        metrics = sampling_metrics(completions, self.data.parts, self.validation, self.sampler.count_tokens)
        if self.run.record and not self.keeps_completions:  # before the row of metrics that they belong to
            first = completions.rows[: NUM_SHOWN_PROMPTS * num_samples]
            self.run.record.add_samples("val", self.trainer.global_step, first, completions.samples, completions.scores)
        self.validator.update(self.trainer.global_step, metrics, completions.samples[: 3 * num_samples : num_samples])
        self.report_validation({f"val/{name}": count for name, count in completions.scoring_errors.items()})
        if self.trainer.global_step == 0:
            rewards = chunks(completions.scores.total, num_samples) if self.learns_from_rewards else None
            length = self.engine.max_completion_length
            for message in first_validation(metrics["val/truncated"].value, rewards, length):
                warn(message)

    def sample_validation(self, indices: Sequence[int]) -> ValidationCompletions:
        """Completions of these held-out rows by the policy as it is now; every rank must call this."""
        parts: list[ValidationCompletions] = []
        per_prompt = self.validation.num_samples + self.validation.greedy
        with self.summon_full_params(), ProgressCounter("validation", len(indices) * per_prompt) as progress:
            self.update_engine()
            count = SampledCount()

            def show(finished: int) -> None:  # of this rank's call; the other ranks are taken to be as far
                progress.set_progress(count.during_call(finished * self.run.ranks.size), "completions")

            with self.sampler.reporting(show):
                for part in sample_validation(self.sampler, self.run.ranks, self.validation, self.seed, indices):
                    if self.run.record and self.keeps_completions:
                        self.run.record.add_completions(self.trainer.global_step, part)
                    parts.append(part)
                    count.add_part(len(part.samples) + len(part.greedy))
        return join_completions(parts)

    def report_validation(self, counts: dict[str, float]) -> None:
        """Send the validator's metrics, and ``counts`` with them, to the loggers; the first time those of the data."""
        metrics = {name: estimate.value for name, estimate in self.validator.metrics.items()}
        self.report(metrics | counts | (self.data.counts if self.validator.is_first else {}))

    def report(self, metrics: dict[str, float]) -> None:
        """Send one row to every logger, at the optimizer step."""
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        if not self.trainer.sanity_checking:
            for logger in self.trainer.loggers:
                logger.log_metrics(metrics, step=self.trainer.global_step)
