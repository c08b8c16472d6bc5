"""From a command line to its runs: a single run, the points of a sweep, a pipeline, or a printed config.

No run starts before every run of the command line has passed its checks.
"""

from __future__ import annotations

import io
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from r1.config.compose import ComposedRun, compose_points, config_loader
from r1.config.hydra_adapter import HydraConfig, JobReturn, Override
from r1.config.overrides import drop_repeated, hide_in_environment, parse_command_line, parse_overrides
from r1.core import budget
from r1.core.errors import Interrupted, UserError, UserErrors
from r1.core.paths import CONF
from r1.core.rank_info import rank_info_from_env
from r1.core.runs import new_run_dir
from r1.core.secrets import redact
from r1.core.storage import storage_errors
from r1.core.yaml import ConfigLoader
from r1.distributed.signals import sweep_stop_signal
from r1.experiment.hydra_jobs import Execute, HydraJob, JobResult, run_and_report_errors
from r1.experiment.pipeline.parse import parse_pipelines, split_step_overrides


def launch(argv: list[str], execute: Execute) -> int:
    """The exit code of one command line: of a sweep, the highest of its runs.

    Raises:
        UserError: the errors of the command line, or of any of its runs.
    """
    argv, of_step = split_step_overrides(drop_repeated(argv))
    args, overrides = parse_command_line(argv)
    if args.multirun:
        _require_single_process("-m")
        args.overrides = hide_in_environment(args.overrides)  # before Hydra keeps a config, which launchers pickle
        overrides = parse_overrides(args.overrides, multirun=True)
    if selected := [] if args.help or args.info else parse_pipelines(args, overrides, of_step):
        from r1.experiment.pipeline.run import print_steps, run_pipelines

        _require_single_process("steps")
        return print_steps(selected) if args.cfg else run_pipelines(args, selected)
    if args.help:
        from r1.config.reference.text import run_help, show

        show(run_help())
        return 0
    if args.cfg or args.hydra_help or args.info or args.shell_completion:
        return _show(args, overrides)
    runs = compose_points(args, overrides)
    _check(runs)
    if all(point.config["dry_run"] for point in runs):
        for point in runs:
            execute(point.config, point.overrides)
        return 0
    if args.multirun:
        return _sweep(args, execute, len(runs))
    result = run_and_report_errors(execute, runs[0].config, runs[0].overrides)
    if result.folder:
        print(result.folder)
    return result.code


def _require_single_process(key: str) -> None:
    """torchrun and srun start the ranks of one run only."""
    if (info := rank_info_from_env()) and info.size > 1:
        message = "a command of several runs starts the processes of each run itself"
        hint = "start the command once, without torchrun or srun"
        raise UserError(message, key=key, value=f"{info.size} processes", expected="1 process", hint=hint)


def _sweep(args: Namespace, execute: Execute, num_runs: int) -> int:
    """Hand the runs of a sweep to Hydra's launcher: the highest of their exit codes.

    Raises:
        Interrupted: a stop signal came.
        UserError: the launcher itself failed.
    """
    overrides = [*args.overrides, "hydra.mode=MULTIRUN"]
    if not any(text.startswith("hydra.sweep.dir=") for text in overrides):
        overrides.append(f"hydra.sweep.dir={(folder := new_run_dir('multirun'))}")
        if "submitit_folder" in HydraConfig.get().launcher:
            print(f"r1  what the runs print: {folder}/.submitit/*/*_log.err", file=sys.stderr)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray sends usage statistics
    with config_loader(args) as loader, sweep_stop_signal() as stop:
        job = HydraJob(execute, redact(sys.argv), num_runs, stop)
        try:
            with redirect_stdout(sys.stderr), storage_errors():
                batches = loader.multirun(job, overrides)
        except (Interrupted, UserError):
            raise
        except Exception as error:  # launchers raise many kinds
            stop.check()
            message = "the launcher failed: it could not start a run, or the process of one has died"
            hint = "with output_dir='FOLDER/${hydra:job.num}' resume=auto the same command resumes every run"
            value = f"{type(error).__name__}: {error}"
            raise UserError(message, key="hydra/launcher", value=value, hint=hint, code=1) from None
        code = _print_results([job_return for batch in batches for job_return in batch])
        stop.check()
    return code


def _print_results(returns: Sequence[JobReturn]) -> int:
    """Print the result of each run in a worker; the highest exit code of all."""
    overrides = [list(job_return.overrides or ()) for job_return in returns]
    results: list[JobResult] = [job_return.return_value for job_return in returns]
    shared = set.intersection(*map(set, overrides)) if len(returns) > 1 else set()
    for number, result in enumerate(results):
        if result.in_worker:
            varied = " ".join(redact([text for text in overrides[number] if text not in shared]))
            print(f"r1  [{number}] {varied}: {result.error or 'finished'}", file=sys.stderr, flush=True)
            if result.folder:
                print(result.folder, flush=True)
    return max((result.code for result in results), default=0)


def _check(runs: Sequence[ComposedRun]) -> None:
    """Raise the errors of the first run that cannot start, with its number and overrides."""
    from r1.config.check.config import check_config

    folders = [point.config["output_dir"] for point in runs if point.config.get("output_dir") is not None]
    if len(set(folders)) < len(folders):
        hint = "output_dir='FOLDER/${hydra:job.num}'"
        raise UserError("every run of a sweep needs a folder of its own", key="output_dir", value=folders[0], hint=hint)
    for number, point in enumerate(runs, 1):
        try:
            check_config(point.config, point.overrides)
        except UserError as error:
            if len(runs) == 1:
                raise
            varied = [o for o in point.overrides if any(o not in other.overrides for other in runs)]
            message = f"point {number} of {len(runs)} cannot run, so none was started: {' '.join(redact(varied))}"
            raise UserErrors([UserError(message, code=error.code), error]) from None
    budget.check_equal_compute([point.config for point in runs])


def _show(args: Namespace, overrides: Sequence[Override]) -> int:
    """--cfg, --info, --hydra-help: Hydra's own screens; if Hydra raises, r1's error screen."""
    import hydra

    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise errors instead of printing them
    screen = io.StringIO()
    try:
        with redirect_stdout(screen):
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(lambda _: None)()
    except Exception as error:  # Hydra raises many kinds
        compose_points(args, overrides)
        raise UserError(str(error), key="command line") from None
    finally:
        text = _without_secret_keys(screen.getvalue()) if args.cfg else screen.getvalue()
        print("\n".join(map(redact, text.split("\n"))), end="")
    return 0


def _without_secret_keys(screen: str) -> str:
    """A screen of ``--cfg`` whose secret values are hidden by their keys: YAML may write one in several lines."""
    with suppress(yaml.YAMLError, ValueError):
        config = yaml.load(screen, ConfigLoader)
        if isinstance(config, dict) and redact(config) != config:
            return str(OmegaConf.to_yaml(OmegaConf.create(redact(config))))
    return screen
