"""Pipelines from a command line to their records: plan all of them, then run one after the other."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from r1.config.build import instantiate_node
from r1.core.budget import check_equal_compute
from r1.core.cli import command_line, print_error
from r1.core.errors import UserError, UserErrors
from r1.core.types import Config
from r1.experiment.pipeline.steps import Pipeline

if TYPE_CHECKING:
    from r1.experiment.pipeline.node import PipelinePlan


def run_pipelines(args: Namespace, asked: list[Pipeline]) -> int:
    """The exit code: of several pipelines (-m) the highest; a signal ends them all.

    Raises:
        UserError: one of them cannot run, so none is started.
        Interrupted: by a signal.
    """
    from r1.experiment.pipeline.explain import print_plan
    from r1.experiment.pipeline.plan import plan_pipeline

    plans, digests = [], dict[str, str]()
    for number, pipeline in enumerate(asked, 1):
        try:
            plans.append(plan_pipeline(args, pipeline, digests))
        except UserError as error:
            if len(asked) == 1:
                raise
            message = f"point {number} of {len(asked)} cannot run, so none was started: {' '.join(pipeline.overrides)}"
            raise UserErrors([UserError(message, code=error.code), error]) from None
    for step in asked[0].steps:
        check_equal_compute([node.config for made in plans for node in made.nodes if node.step == step])
    if all(pipeline.config["dry_run"] for pipeline in asked):
        for made in plans:
            print_plan(made)
        return 0
    codes = []
    for made in plans:
        try:
            print(run_plan(args, made))
        except UserError as error:
            if len(asked) == 1:
                raise
            codes.append(print_error(error))
    return max(codes, default=0)


def run_plan(args: Namespace, plan: PipelinePlan) -> Path:
    """Run one plan into its record's folder."""
    from r1.core.console import console
    from r1.experiment.pipeline.record import PipelineRecord
    from r1.experiment.pipeline.scheduler import Steps

    flags = ["--config-dir", args.config_dir] if args.config_dir else []
    record = PipelineRecord(plan, command_line("r1.run"))
    try:
        with record:
            Steps(record, flags).run()
    finally:
        if hasattr(record, "dir"):
            console.print(record.table())
            write_page(plan.pipeline.config, record.dir)
    return record.dir


def write_page(cfg: Config, folder: Path) -> None:
    """Make what the pipeline names as its ``write_page``, of whatever steps have finished, and say where it is."""
    from r1.core.console import console, status_line

    if cfg["page"]:
        console.print(status_line(f"page: {instantiate_node(cfg['page'], 'page', cfg, folder=folder)}"))


def print_steps(asked: list[Pipeline]) -> int:
    """``--cfg job``: what each step is started with."""
    for pipeline in asked:
        print(OmegaConf.to_yaml(OmegaConf.create(pipeline.as_yaml())).rstrip())
    return 0
