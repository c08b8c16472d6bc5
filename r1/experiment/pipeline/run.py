"""Pipelines from a command line to their records: plan all of them, then run one after the other."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from r1.config.build import instantiate_node
from r1.config.check.schema import resolve
from r1.core.budget import check_equal_compute
from r1.core.console import command_line, console, print_error, status_line
from r1.core.errors import UserError, UserErrors
from r1.core.secrets import redact
from r1.core.types import Config
from r1.experiment.pipeline.steps import Pipeline

if TYPE_CHECKING:
    from r1.experiment.pipeline.node import PipelinePlan


def run_pipelines(args: Namespace, pipelines: list[Pipeline]) -> int:
    """Plan, check and run pipelines; returns the highest of their exit codes.

    Raises:
        UserError: one of them is invalid, so none was started; or the only one failed.
        Interrupted: by a signal, which ends all of them.
    """
    from r1.experiment.pipeline.explain import print_plan

    plans = _plan_all(args, pipelines)
    if all(pipeline.config["dry_run"] for pipeline in pipelines):
        for plan in plans:
            print_plan(plan)
        return 0
    codes = []
    for plan in plans:
        try:
            print(run_plan(args, plan))
        except UserError as error:
            if len(pipelines) == 1:
                raise
            codes.append(print_error(error))
    return max(codes, default=0)


def _plan_all(args: Namespace, pipelines: list[Pipeline]) -> list[PipelinePlan]:
    from r1.experiment.pipeline.plan import plan_pipeline

    plans, digests = [], dict[str, str]()
    for pipeline in pipelines:
        build_page(pipeline.config)  # its errors come before any step
    for number, pipeline in enumerate(pipelines, 1):
        try:
            plans.append(plan_pipeline(args, pipeline, digests))
        except UserError as error:
            if len(pipelines) == 1:
                raise
            point = f"point {number} of {len(pipelines)}"
            message = f"{point} cannot run, so none was started: {' '.join(redact(pipeline.overrides))}"
            raise UserErrors([UserError(message, code=error.code), error]) from None
    for step in pipelines[0].steps:
        check_equal_compute([node.config for plan in plans for node in plan.nodes if node.step == step])
    return plans


def run_plan(args: Namespace, plan: PipelinePlan) -> Path:
    """Run one plan; returns the folder of its record.

    Raises:
        UserError: a step failed.
        Interrupted: a signal stopped it.
    """
    from r1.experiment.pipeline.record import PipelineRecord
    from r1.experiment.pipeline.scheduler import Steps

    flags = ["--config-dir", args.config_dir] if args.config_dir else []
    record = PipelineRecord(plan, command_line("r1.run"))
    try:
        with record:
            Steps(record, flags).run()
    finally:  # of a failed or interrupted pipeline, too, the steps that finished are shown
        if hasattr(record, "dir"):
            console.print(record.table())
            write_page(plan.pipeline.config, record.dir)
    return record.dir


def build_page(cfg: Config) -> Callable[[Path], Path] | None:
    """The pipeline's ``page``, if it has one: a function of its folder, or an object that is called with it.

    Raises:
        UserError: the object rejects its values.
    """
    if not cfg["page"]:
        return None
    is_function = not isinstance(resolve(cfg["page"]["_target_"], "page", cfg["extensions"]), type)
    page: Callable[[Path], Path] = instantiate_node({"_partial_": is_function} | cfg["page"], "page", cfg)
    return page


def write_page(cfg: Config, folder: Path) -> None:
    """Write the page from the steps that have finished, and print where it is."""
    if page := build_page(cfg):
        console.print(status_line(f"page: {page(folder)}"))


def print_steps(pipelines: list[Pipeline]) -> int:
    """``--cfg job``: print each pipeline with the overrides of its steps, as YAML; returns the exit code."""
    for pipeline in pipelines:
        print(OmegaConf.to_yaml(OmegaConf.create(redact(pipeline.as_yaml()))).rstrip())
    return 0
