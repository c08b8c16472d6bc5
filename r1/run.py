"""r1 run KEY=VALUE...: compose, check, build, fit and record an experiment, a grid or a pipeline."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from r1.core.types import Config

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from omegaconf import DictConfig

    from r1.library import LoadedRun


def execute(cfg: Config, overrides: list[str], module: str = "r1.run", command: str | None = None) -> Path | None:
    """Run one composed config; returns the record's folder, or None for a dry run and on a rank other than 0.

    Args:
        command: in the record; None: this process's command line, of ``module``.

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
    return start(cfg, experiment, overrides, command or command_line(module))


def main() -> None:
    """Check all runs of the command line, then start them; a UserError is printed without a traceback."""
    from r1.core.command import run_command
    from r1.distributed.slurm import requeue_on_preemption
    from r1.experiment.launch import launch

    with requeue_on_preemption():
        run_command(lambda: launch(sys.argv[1:], execute))


class CallableModule(ModuleType):
    """This module, which ``r1.run`` names as soon as anything imports it, as the function of that name."""

    def __call__(self, cfg: DictConfig | Mapping[str, Any]) -> LoadedRun:
        """``r1.library.run``."""
        from r1.library import run

        return run(cfg)


sys.modules[__name__].__class__ = CallableModule

if __name__ == "__main__":
    main()
