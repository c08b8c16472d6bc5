"""One run from its first validation to its last: the Trainer, the record around it, and how it ends."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from r1.config.build import Experiment, instantiate_node
from r1.core import budget, provenance
from r1.core.console import console, status_line
from r1.core.errors import STOP_SIGNALS
from r1.core.malloc import tune_malloc
from r1.core.rank_info import RankInfo
from r1.core.runs import new_run_dir
from r1.core.secrets import redact
from r1.core.statistics import Estimate
from r1.core.types import Config
from r1.distributed.collectives import HOSTNAME, RankGroup, init_process_group
from r1.distributed.signals import signal_handlers
from r1.logger.base import closing
from r1.stage.advantage.base import expected_frac_zero_std
from r1.stage.base import Stage
from r1.stage.grpo import Grpo
from r1.stage.training.base import TrainingStage
from r1.train import checkpoint
from r1.train.checkpoint import Checkpoints
from r1.train.progress import Progress
from r1.train.record import MetricsFile, Record
from r1.train.run_state import RunState

if TYPE_CHECKING:
    import lightning as L
    from lightning.pytorch.loggers import Logger

TINY_WIDTH, MAX_LR_LARGE_MODEL = 256, 5e-5  # the default learning rates suit models up to this width


def print_run_summary(cfg: Config, experiment: Experiment) -> None:
    """Say what will happen: the stage, the parts, the batch arithmetic."""
    stage = experiment.stage
    if isinstance(stage, TrainingStage):
        console.print(status_line(str(stage.plan)))
    data = experiment.data
    counts = f"{len(data.train)} training and {len(data.val)} held-out examples"
    console.print(status_line(f"{counts}; validation: {stage.validation_plan}"))
    width = getattr(experiment.model.load_config(), "hidden_size", 0)
    if stage.trains and width > TINY_WIDTH and cfg["stage"]["lr"] > MAX_LR_LARGE_MODEL and not cfg["model"]["lora"]:
        usual = f"at width {width}, 1e-6 is usual for RL and 1e-5 for SFT"
        console.print(status_line(f"note: stage.lr={cfg['stage']['lr']:g} is for the tiny world; {usual}"))
    if isinstance(stage, Grpo) and stage.group_size > 1 and cfg["dry_run"]:
        shares = [f"{expected_frac_zero_std(p, stage.group_size):.0%} at p={p:g}" for p in (0.05, 0.2, 0.5, 0.8, 0.95)]
        what = f"groups of {stage.group_size} expected without signal, each answer right with probability p"
        console.print(status_line(f"{what}: {', '.join(shares)} (p^G + (1-p)^G)"))
    if cfg["dry_run"]:
        if compute := budget.compute_budget(cfg):
            console.print(status_line(str(compute)))
        console.print(status_line("dry run: the config is valid; nothing was loaded or written"))


def silence_third_party_logging() -> None:
    """Leave the screen to r1: other libraries' tips, bars and advice to their own developers are not for the user."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning)
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # a run need not be Slurm's


def fit(
    cfg: Config, experiment: Experiment, overrides: list[str], command: str, where: RankInfo, folder: Path | None = None
) -> Path | None:
    """Validate, train, validate, export; everything inside the record, however it ends.

    Args:
        where: the place of this process among those of the run; the first one keeps the record.
        folder: the record's; None: as the config says.

    Returns:
        The record's folder; None where another process keeps it.
    """
    if cfg["threads"]:
        torch.set_num_threads(cfg["threads"])
    tune_malloc()
    with init_process_group(where, backend(cfg), cfg["trainer"]["timeout_s"]) as ranks:
        console.quiet = not ranks.is_rank_zero
        place = Path(ranks.broadcast_from_rank_zero(lambda: str(folder or resolve_output_dir(cfg))))
        held = open_record(place, cfg, experiment, overrides, command, ranks)
        strategy = cfg["trainer"]["strategy"]["_target_"].split(".")[-2]
        held.devices = {"count": ranks.size, "strategy": strategy, "hosts": ranks.gather(HOSTNAME)}
        with held, ranks.propagate_failures(), limit_threads(experiment.engine.num_processes):
            broadcast_start_metrics(held, ranks)
            experiment.stage.run.ranks = ranks
            experiment.stage.run.record = held if isinstance(held, Record) else None
            try:
                _run(cfg, experiment, held, ranks)
            finally:
                experiment.engine.close()
    if not ranks.is_rank_zero:
        return None
    console.print(Progress.closing(held))
    return held.dir


@contextmanager
def limit_threads(num_processes: int) -> Iterator[None]:
    """Leave those that compute beside this process their share: two that both want every core are slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // num_processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def backend(cfg: Config) -> str:
    on_gpus = cfg["trainer"]["accelerator"] != "cpu" and torch.cuda.is_available()
    return "nccl" if on_gpus else "gloo"


def open_record(
    folder: Path, cfg: Config, experiment: Experiment, overrides: list[str], command: str, ranks: RankGroup
) -> RunState:
    """The record, kept by the first process."""
    if not ranks.is_rank_zero:
        return RunState(folder)
    data = provenance.rows_hash(experiment.data.train, experiment.data.val)
    parents = provenance.find_parents(provenance.input_paths(cfg))
    return Record(folder, cfg, overrides, command, data, parents, resume=cfg["resume"] == "auto")


def broadcast_start_metrics(held: RunState, ranks: RankGroup) -> None:
    """What the record of a resumed run knows of its start."""
    start = ranks.broadcast_from_rank_zero(lambda: {name: asdict(figure) for name, figure in held.start.items()})
    held.start = {name: Estimate(**figure) for name, figure in start.items()}


def _run(cfg: Config, experiment: Experiment, held: RunState, ranks: RankGroup) -> None:
    stage, folder = experiment.stage, held.dir / "checkpoints"
    saved = ranks.broadcast_from_rank_zero(lambda: str(checkpoint.latest(folder) or "")) if cfg["resume"] else ""
    held.cut_files(checkpoint.file_sizes_at(Path(saved)) if saved else {})
    every, best, background = (cfg[name] for name in ("checkpoint_every", "keep_best", "checkpoint_async"))
    checkpoints = Checkpoints(held, ranks, every, experiment.validation.every, best, background)
    stage.run.check_for_stop = checkpoints.poll
    with signal_handlers(STOP_SIGNALS, checkpoints.handle_signal), loggers(cfg, held, ranks) as opened:
        trainer = instantiate_node(
            cfg["trainer"],
            "trainer",
            cfg,
            loggers=opened,
            callbacks=[checkpoints, Progress()],
            num_micro_batches=stage.plan.num_micro_batches if isinstance(stage, TrainingStage) else 1,
            validate_every=experiment.validation.every,
            root=held.dir,
            info=ranks.info,
        )
        _train(stage, trainer, Path(saved) if saved else None, held)


@contextmanager
def loggers(cfg: Config, held: RunState, ranks: RankGroup) -> Iterator[list[Logger]]:
    """Where the metrics go: the first process sends them, for all."""
    if not ranks.is_rank_zero:
        yield []
        return
    extra = instantiate_node(cfg["logger"], "logger", cfg, folder=held.dir, config=redact(cfg))
    with closing(extra):
        yield [MetricsFile(held.dir), extra]


def _train(stage: Stage, trainer: L.Trainer, saved: Path | None, record: RunState) -> None:
    if saved is None:
        trainer.validate(stage, verbose=False)
        record.start = stage.validator.metrics
        record.write_manifest("running")  # a resumed run does not validate its start again
    if stage.trains:
        trainer.fit(stage, ckpt_path=saved, weights_only=True)
        stage.run.check_for_stop()
        if stage.validator.step != trainer.global_step:
            trainer.validate(stage, verbose=False)
        stage.export_policy(record.dir / "model")
    if stage.predicts:
        trainer.predict(stage, return_predictions=False)
    record.final = stage.validator.metrics


def resolve_output_dir(cfg: Config) -> Path:
    """The record's folder; a new one where none is named."""
    return Path(cfg["output_dir"] or new_run_dir(cfg["name"] or cfg["stage"]["_target_"].split(".")[-2]))
