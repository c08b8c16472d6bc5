"""r1 run KEY=VALUE...: compose, check, build, fit and record an experiment, a grid or a pipeline."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from r1.core.types import Config

if TYPE_CHECKING:
    from pathlib import Path


def execute(cfg: Config, overrides: list[str], module: str = "r1.run") -> Path | None:
    """Run one composed config; returns the record's folder, or None for a dry run and on a rank other than 0.

    Raises:
        UserError: lists all errors of the config, before any weights are loaded.
    """
    from r1.config.build import build
    from r1.config.check.components import check_parts
    from r1.config.check.config import check_config
    from r1.core.console import command_line
    from r1.core.secrets import remember_secrets
    from r1.train import fit
    from r1.train.start import start

    remember_secrets(cfg)
    check_config(cfg, overrides)
    fit.silence_third_party_logging()
    experiment = build(cfg)
    check_parts(cfg, experiment)
    fit.print_run_summary(cfg, experiment)
    if cfg["dry_run"]:
        return None
    return start(cfg, experiment, overrides, command_line(module))


def main() -> None:
    """Check all runs of the command line, then start them; a UserError is printed without a traceback."""
    from r1.core.command import run_command
    from r1.distributed.slurm import requeue_on_preemption
    from r1.experiment.launch import launch

    with requeue_on_preemption():
        run_command(lambda: launch(sys.argv[1:], execute))


if __name__ == "__main__":
    main()
