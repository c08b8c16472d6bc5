"""One run: its processes, its record, its loggers and its Trainer, from the first validation to the last."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.loggers.logger import DummyLogger

from r1.config.build import Experiment, instantiate_node
from r1.config.check.templates import unread_forms
from r1.config.lengths import long_solutions
from r1.core import budget, provenance
from r1.core.console import console, status_line
from r1.core.errors import STOP_SIGNALS
from r1.core.malloc import tune_malloc
from r1.core.outputs import check_parents
from r1.core.rank_info import RankInfo
from r1.core.runs import new_run_dir
from r1.core.secrets import redact
from r1.core.statistics import Estimate
from r1.core.storage import storage_errors
from r1.core.types import Config
from r1.data.base import Data
from r1.distributed.collectives import HOSTNAME, RankGroup, init_process_group
from r1.distributed.signals import signal_handlers
from r1.logger.base import closing
from r1.model.memory import GB
from r1.stage.advantage.base import expected_frac_zero_std
from r1.stage.base import Stage
from r1.stage.grpo import Grpo
from r1.stage.loss.base import ClippedLoss
from r1.stage.runtime.recorder import Recorder
from r1.stage.training.base import TrainingStage
from r1.stage.training.optimization import schedule_notes
from r1.strategy.base import resolve_precision
from r1.train import checkpoint_files
from r1.train.callbacks import Monitors
from r1.train.checkpoint import Checkpoints
from r1.train.memory_plan import plan_memory
from r1.train.progress import Progress, closing_table
from r1.train.record import MetricsFile, Record
from r1.train.run_state import RunState

if TYPE_CHECKING:
    import lightning as L
    from lightning.pytorch.loggers import Logger


MAX_SHOWN = 1000  # characters of a text in the plan of a dry run


def print_run_summary(cfg: Config, experiment: Experiment) -> None:
    """Print the batch arithmetic, the data, and notes."""
    stage, data = experiment.stage, experiment.data
    if isinstance(stage, TrainingStage):
        console.print(status_line(str(stage.plan)))
    notes = list(plan_notes(stage, data))
    training = f"{len(data.train)} training and " if len(data.train) else ""
    sizes = f"{training}{len(data.val)} held-out examples"
    if isinstance(stage, TrainingStage) and "num_questions" not in cfg["stage"]:
        num_steps, epochs = (f(cfg, len(data.train)) for f in (budget.num_steps, budget.num_epochs))
        sizes += f"; {num_steps:,} steps = {epochs:.3g} epochs"
        notes += schedule_notes(stage.optimization, int(num_steps))
    console.print(status_line(f"{sizes}; validation: {stage.validation_plan}"))
    if left_out := [f"{count:g} {name.removeprefix('data/')}" for name, count in data.counts.items() if count]:
        console.print(status_line(f"rows left out or changed: {', '.join(left_out)}"))
    for note in [*notes, *unread_forms(cfg, experiment)]:
        console.print(status_line(note))
    if cfg["dry_run"]:
        print_dry_run(cfg, experiment)


def print_dry_run(cfg: Config, experiment: Experiment) -> None:
    """Print the first row as the model reads it, the signal to expect, and the memory and compute budget."""
    stage, data = experiment.stage, experiment.data
    uses_train = (stage.trains or stage.predicts) and not stage.writes_questions
    for name, text in stage.shown_texts((data.train if uses_train else data.val)[0]).items():
        shown = text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN // 2]} ... {text[-MAX_SHOWN // 2 :]}"
        console.print(status_line(f"first row, {name}: {shown!r}"))
    if isinstance(stage, Grpo) and stage.group_size > 1:
        shares = [f"{expected_frac_zero_std(p, stage.group_size):.0%} at p={p:g}" for p in (0.05, 0.2, 0.5, 0.8, 0.95)]
        label = f"groups of {stage.group_size} expected without signal, each answer right with probability p"
        console.print(status_line(f"{label}: {', '.join(shares)} (p^G + (1-p)^G)"))
    if memory := plan_memory(cfg, experiment):
        folded = f"; up to {memory.weights / GB:.2g} GB more while it samples with the adapters folded into a copy"
        sampling = folded if cfg["model"].get("lora") else ""
        console.print(status_line(f"memory per device, estimated: {memory}; more where the engine is vLLM{sampling}"))
    if compute := budget.compute_budget(cfg, len(data.train)):
        console.print(status_line(str(compute)))
    console.print(status_line("dry run: the config is valid; nothing was loaded or written"))


def plan_notes(stage: Stage, data: Data) -> Iterator[str]:
    """What the plan of a run adds to the questions, cannot do, or can hardly do."""
    for key, source in data.sources.items():
        if source.added_instruction:
            yield f"{key}.instruction ends every question: {source.added_instruction}"
    if note := long_solutions(data, stage.tokenizer, stage.engine.max_completion_length):
        yield f"note: {note}"
    if isinstance(stage, Grpo) and isinstance(loss := stage.objective.loss, ClippedLoss) and not loss.clips:
        yield f"note: {type(loss).__name__} clips nothing, so stage.clip_low and clip_high do nothing"
    elif isinstance(stage, Grpo) and stage.is_on_policy:
        effect = "the ratio is 1, so stage.clip_low, clip_high and clip_dual do nothing"
        yield f"on policy, one step per rollout batch (stage.steps_per_rollout, stage.num_iterations): {effect}"


def silence_third_party_logging() -> None:
    """Keep other libraries' tips, progress bars and developer warnings off the screen."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch.callbacks").setLevel(logging.INFO)  # the user's: the others log nothing
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning)
    warnings.filterwarnings(
        "ignore", message="The `srun` command is available"
    )  # a run inside a Slurm job may do without srun


def fit(
    cfg: Config, experiment: Experiment, overrides: list[str], command: str, info: RankInfo, folder: Path | None = None
) -> Path | None:
    """Validate, train, validate and export on this rank, with a record of how the run ends.

    Args:
        info: the rank of this process; rank 0 writes the record.
        folder: the record's folder; None: the one in the config.

    Returns:
        The record's folder on rank 0, None on the others.
    """
    if cfg["threads"]:
        torch.set_num_threads(cfg["threads"])
    tune_malloc()
    with init_process_group(info, backend(cfg), cfg["trainer"]["timeout_s"]) as ranks:
        console.quiet = not ranks.is_rank_zero
        # Rank 0 chooses the folder: the default one has the time in its name.
        output_dir = Path(ranks.broadcast_from_rank_zero(lambda: str(folder or resolve_output_dir(cfg))))
        record = open_record(output_dir, cfg, experiment, overrides, command, ranks)
        strategy = cfg["trainer"]["strategy"]["_target_"].split(".")[-2]
        precision = resolve_precision(cfg["trainer"]["precision"], cfg["trainer"]["accelerator"])
        devices = {"count": ranks.size, "strategy": strategy, "precision": precision}
        record.devices = devices | {"hosts": ranks.gather(HOSTNAME)}
        with record, ranks.propagate_failures(), storage_errors(), limit_threads(experiment.engine.num_processes):
            broadcast_start_metrics(record, ranks)
            recorder: Recorder | None = record if isinstance(record, Record) else None
            experiment.stage.run.ranks, experiment.stage.run.record = ranks, recorder
            try:
                _run(cfg, experiment, record, ranks)
            finally:
                experiment.engine.close()
    if not ranks.is_rank_zero:
        return None
    console.print(closing_table(record))
    return record.dir


@contextmanager
def limit_threads(num_processes: int) -> Iterator[None]:
    """Share the cores with the engine's processes: processes that compete for all cores slow each other down."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // num_processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def backend(cfg: Config) -> str:
    """torch.distributed's backend for tensors on the devices."""
    on_gpus = cfg["trainer"]["accelerator"] != "cpu" and torch.cuda.is_available()
    return "nccl" if on_gpus else "gloo"


def open_record(
    folder: Path, cfg: Config, experiment: Experiment, overrides: list[str], command: str, ranks: RankGroup
) -> RunState:
    """The record on rank 0; the other ranks have the run's state only."""
    num_examples = len(experiment.data.train)
    if not ranks.is_rank_zero:
        return RunState(folder, num_examples)
    data = experiment.source.digest()
    paths = provenance.input_paths(cfg)
    check_parents(paths)
    parents = provenance.find_parents(paths.values())
    return Record(folder, cfg, overrides, command, data, parents, cfg["resume"] == "auto", num_examples)


def broadcast_start_metrics(record: RunState, ranks: RankGroup) -> None:
    """Give every rank the start metrics that a resumed record has read from its manifest."""
    start = ranks.broadcast_from_rank_zero(lambda: {name: asdict(metric) for name, metric in record.start.items()})
    record.start = {name: Estimate(**fields) for name, fields in start.items()}


def _run(cfg: Config, experiment: Experiment, record: RunState, ranks: RankGroup) -> None:
    stage = experiment.stage
    # The files are truncated before the loggers open: the csv logger starts as a copy of metrics.jsonl.
    keep = max(1, cfg["keep_checkpoints"])  # 0: the record removes the last one when the run has finished
    resumed_from = _find_checkpoint(record, ranks, keep) if cfg["resume"] else None
    record.truncate_files(checkpoint_files.file_sizes_at(resumed_from))
    if resumed_from is None and cfg["resume_from"]:
        resumed_from = _end_of_run(Path(cfg["resume_from"]), ranks)
        stage.run.starts_from_another, record.start = True, {}
    every, best, background = (cfg[name] for name in ("checkpoint_every", "keep_best", "checkpoint_async"))
    callbacks = list(experiment.callbacks.values())
    checkpoints = Checkpoints(record, ranks, every, experiment.validation.every, keep, best, background, callbacks)
    stage.run.check_for_stop = checkpoints.check_for_stop
    with signal_handlers(STOP_SIGNALS, checkpoints.handle_signal), open_loggers(cfg, record, ranks) as loggers:
        trainer = instantiate_node(
            cfg["trainer"],
            "trainer",
            cfg,
            loggers=loggers,
            callbacks=[Monitors(experiment.callbacks), *callbacks, checkpoints, Progress()],
            num_micro_batches=stage.plan.num_micro_batches if isinstance(stage, TrainingStage) else 1,
            validate_every=experiment.validation.every,
            root=record.dir,
            info=ranks.info,
            num_steps=budget.num_steps(cfg, record.num_examples) if stage.trains else 1,
        )
        _train(stage, trainer, resumed_from, record)


def _find_checkpoint(record: RunState, ranks: RankGroup, keep: int) -> Path | None:
    """The newest good checkpoint; rank 0 reads and prunes the folder for all ranks."""
    folder = record.dir / "checkpoints"
    path = ranks.broadcast_from_rank_zero(lambda: str(checkpoint_files.latest(folder, keep) or ""))
    return Path(path) if path else None


def _end_of_run(folder: Path, ranks: RankGroup) -> Path:
    """The last checkpoint of another run, for all ranks."""
    path = Path(ranks.broadcast_from_rank_zero(lambda: str(checkpoint_files.end_of(folder / "checkpoints"))))
    console.print(status_line(f"continues from the end of {folder}: {path.parent.name}"))
    return path


@contextmanager
def open_loggers(cfg: Config, record: RunState, ranks: RankGroup) -> Iterator[list[Logger]]:
    """The metrics file and the logger of the config, on rank 0; the other ranks log nothing."""
    if not ranks.is_rank_zero:
        yield [DummyLogger()]  # some of Lightning's callbacks need a logger on every rank
        return
    logger = instantiate_node(cfg["logger"], "logger", cfg, folder=record.dir, config=redact(cfg))
    with closing(logger):
        yield [MetricsFile(record.dir), logger]


def _train(stage: Stage, trainer: L.Trainer, resumed_from: Path | None, record: RunState) -> None:
    if resumed_from is None:
        if stage.validation.at_start:
            trainer.validate(stage, verbose=False)
        record.start = stage.validator.metrics
        record.write_manifest("running")  # with the start metrics: a resumed run does not validate its start again
    if stage.trains:
        trainer.fit(stage, ckpt_path=resumed_from, weights_only=True)
        stage.run.check_for_stop()
        if stage.validator.step != trainer.global_step:
            trainer.validate(stage, verbose=False)
        stage.export_policy(record.dir / "model")
        record.link_best()
    if stage.predicts:
        trainer.predict(stage, return_predictions=False)
    record.final = stage.validator.metrics


def resolve_output_dir(cfg: Config) -> Path:
    """The record's folder: ``output_dir``, or a new one under ``outputs/``."""
    return Path(cfg["output_dir"] or new_run_dir(cfg["name"] or cfg["stage"]["_target_"].split(".")[-2]))
