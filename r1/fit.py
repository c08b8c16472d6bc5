"""One run from its first validation to its last: the Trainer, the record around it, and how it ends."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from r1 import budget, checkpoint, provenance
from r1.build import Experiment, make
from r1.checkpoint import Checkpoints
from r1.errors import STOP_SIGNALS, UserError
from r1.logger.base import closing
from r1.memory import keep_freed_memory
from r1.progress import Progress, console, sentence
from r1.record import MetricsFile, Record
from r1.runs import new_folder
from r1.secrets import redact
from r1.stage.advantage.base import expected_frac_zero_std
from r1.stage.base import Stage

if TYPE_CHECKING:
    import lightning as L

Config = dict[str, Any]
TINY_WIDTH, BOLD_LR = 256, 5e-5  # the default learning rates suit models up to this width


def announce(cfg: Config, experiment: Experiment) -> None:
    """Say what will happen: the stage, the parts, the batch arithmetic."""
    stage = experiment.stage
    if stage.trains:
        console.print(sentence(str(stage.plan)))
    data = experiment.data
    counts = f"{len(data.train)} training and {len(data.val)} held-out examples"
    console.print(sentence(f"{counts}; validation: {stage.validation_plan}"))
    width = getattr(experiment.model.load_config(), "hidden_size", 0)
    if stage.trains and width > TINY_WIDTH and cfg["stage"]["lr"] > BOLD_LR and not cfg["model"]["lora"]:
        usual = f"at width {width}, 1e-6 is usual for RL and 1e-5 for SFT"
        console.print(sentence(f"note: stage.lr={cfg['stage']['lr']:g} is for the tiny world; {usual}"))
    if "advantage" in cfg["stage"] and stage.group_size > 1 and cfg["dry_run"]:
        shares = [f"{expected_frac_zero_std(p, stage.group_size):.0%} at p={p:g}" for p in (0.05, 0.2, 0.5, 0.8, 0.95)]
        what = f"groups of {stage.group_size} expected without signal, each answer right with probability p"
        console.print(sentence(f"{what}: {', '.join(shares)} (p^G + (1-p)^G)"))
    if cfg["dry_run"]:
        if compute := budget.compute(cfg):
            console.print(sentence(str(compute)))
        console.print(sentence("dry run: the config is valid; nothing was loaded or written"))


def quiet() -> None:
    """Leave the screen to r1: other libraries' tips, bars and advice to their own developers are not for the user."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning)
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # a run need not be Slurm's


def fit(cfg: Config, experiment: Experiment, overrides: list[str], command: str) -> Path:
    """Validate, train, validate, export; everything inside the record, however it ends."""
    if cfg["trainer"]["devices"] * cfg["trainer"]["num_nodes"] > 1:
        what = "this version trains on one device; several can be planned with dry_run=true"
        raise UserError(what, where="trainer.devices", given=cfg["trainer"]["devices"], allowed="1")
    if cfg["threads"]:
        torch.set_num_threads(cfg["threads"])
    keep_freed_memory()
    stage = experiment.stage
    data = provenance.rows_hash(experiment.data.train, experiment.data.val)
    parents = provenance.parents(provenance.paths(cfg))
    folder = Path(cfg["output_dir"] or new_folder(cfg["name"] or cfg["stage"]["_target_"].split(".")[-2]))
    with Record(folder, cfg, overrides, command, data, parents, resume=cfg["resume"] == "auto") as record:
        stage.record = record
        _run(cfg, experiment, record)
    console.print(Progress.closing(record))
    return record.dir


def _run(cfg: Config, experiment: Experiment, record: Record) -> None:
    stage = experiment.stage
    saved = checkpoint.latest(record.dir / "checkpoints") if cfg["resume"] else None
    record.cut_files(checkpoint.files_at(saved))
    checkpoints = Checkpoints(record, cfg["checkpoint_every"], experiment.validation.every, cfg["keep_best"])
    stage.poll = checkpoints.poll
    with stop_between_steps(checkpoints):
        extra = make(cfg["logger"], "logger", cfg, folder=record.dir, config=redact(cfg))
        with closing(extra):
            trainer = make(
                cfg["trainer"],
                "trainer",
                cfg,
                loggers=[MetricsFile(record.dir), extra],
                callbacks=[checkpoints, Progress()],
                num_micro_batches=stage.plan.num_micro_batches if stage.trains else 1,
                validate_every=experiment.validation.every,
                root=record.dir,
            )
            _train(stage, trainer, saved, record)


def _train(stage: Stage, trainer: L.Trainer, saved: Path | None, record: Record) -> None:
    if saved is None:
        trainer.validate(stage, verbose=False)
        record.start = stage.figures
        record.write_manifest("running")  # a resumed run does not validate its start again
    if stage.trains:
        trainer.fit(stage, ckpt_path=saved, weights_only=True)
        stage.poll()
        if stage.validated_at != trainer.global_step:
            trainer.validate(stage, verbose=False)
        stage.export(record.dir / "model")
    if stage.predicts:
        trainer.predict(stage, return_predictions=False)
    record.final = stage.figures


@contextmanager
def stop_between_steps(checkpoints: Checkpoints) -> Iterator[None]:
    """SIGTERM, SIGINT and SIGHUP ask the run to stop after its step, from here to the end of the block."""
    before = {number: signal.signal(number, checkpoints.ask_to_stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
