"""From a command line to its runs: one, the points of a sweep, or a look at the config.

Nothing is started before every run that is asked for has passed its checks.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout

from omegaconf import DictConfig

from r1.config.compose import Point, config_loader, points
from r1.config.hydra_adapter import HydraConfig, JobReturn, Override
from r1.config.overrides import read
from r1.core import budget
from r1.core.errors import Interrupted, UserError, UserErrors
from r1.core.paths import CONF
from r1.core.rank_info import rank_info_from_env
from r1.core.runs import new_run_dir
from r1.distributed.signals import stoppable
from r1.experiment.hydra_jobs import Execute, Job, run_and_report_errors
from r1.experiment.pipeline.parse import parse_pipelines, split_step_overrides


def launch(argv: list[str], execute: Execute) -> int:
    """The exit code of one command line: of a sweep, the highest of its runs.

    Raises:
        UserError: what is wrong with the command line, or with any run that it asks for.
    """
    argv, of_step = split_step_overrides(argv)
    args, overrides = read(argv)
    if args.multirun:
        _require_single_process("-m")
    if asked_pipelines := [] if args.help or args.info else parse_pipelines(args, overrides, of_step):
        from r1.experiment.pipeline.run import print_steps, run_pipelines

        _require_single_process("steps")
        return print_steps(asked_pipelines) if args.cfg else run_pipelines(args, asked_pipelines)
    if args.cfg or args.help or args.hydra_help or args.info or args.shell_completion:
        return _show(args, overrides)
    asked = points(args, overrides)
    _check(asked)
    if all(point.config["dry_run"] for point in asked):
        for point in asked:
            execute(point.config, point.overrides)
        return 0
    if args.multirun:
        return _sweep(args, execute, len(asked))
    ended = run_and_report_errors(execute, asked[0].config, asked[0].overrides)
    if ended.folder:
        print(ended.folder)
    return ended.code


def _require_single_process(where: str) -> None:
    """A launcher that starts a process per device starts one run."""
    if (started := rank_info_from_env()) and started.size > 1:
        message = "several runs start the processes of each themselves"
        hint = "start the command once, without torchrun or srun"
        raise UserError(message, key=where, value=f"{started.size} processes", expected="1 process", hint=hint)


def _sweep(args: Namespace, execute: Execute, num_runs: int) -> int:
    """Hand the runs of a sweep to Hydra's launcher: the highest of their exit codes.

    Raises:
        Interrupted: the sweep was asked to stop.
        UserError: the launcher itself failed.
    """
    texts = [*args.overrides, "hydra.mode=MULTIRUN"]
    if not any(text.startswith("hydra.sweep.dir=") for text in texts):
        texts.append(f"hydra.sweep.dir={(folder := new_run_dir('multirun'))}")
        if "submitit_folder" in HydraConfig.get().launcher:
            print(f"r1  what the runs print: {folder}/.submitit/*/*_log.err", file=sys.stderr)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    with config_loader(args) as loader, stoppable() as stop:
        job = Job(execute, sys.argv, num_runs, stop)
        try:
            with redirect_stdout(sys.stderr):
                batches = loader.multirun(job, texts)
        except Interrupted:
            raise
        except Exception as error:  # launchers raise many kinds
            stop.check()
            message = "the launcher failed: it could not start a run, or the process of one has died"
            hint = "the records say how far each came; with output_dir='FOLDER/${hydra:job.num}' resume=auto goes on"
            value = f"{type(error).__name__}: {error}"
            raise UserError(message, key="hydra/launcher", value=value, hint=hint, code=1) from None
        code = _report([ended for batch in batches for ended in batch])
        stop.check()
    return code


def _report(returns: Sequence[JobReturn]) -> int:
    """Say how each run in another process ended; the highest exit code."""
    ends = [ended.return_value for ended in returns]
    shared = set.intersection(*(set(ended.overrides or ()) for ended in returns)) if len(returns) > 1 else set()
    for number, (ended, end) in enumerate(zip(returns, ends, strict=True)):
        if not end.here:
            varied = " ".join(text for text in ended.overrides or () if text not in shared)
            print(f"r1  [{number}] {varied}: {end.error or 'finished'}", file=sys.stderr, flush=True)
            print(*[end.folder] if end.folder else [], sep="\n", end="\n" if end.folder else "", flush=True)
    return max((end.code for end in ends), default=0)


def _check(asked: Sequence[Point]) -> None:
    """Raise the errors of the first point that cannot run, saying which one it is."""
    from r1.config.check.config import check_config

    folders = [point.config["output_dir"] for point in asked if point.config.get("output_dir") is not None]
    if len(set(folders)) < len(folders):
        hint = "output_dir='FOLDER/${hydra:job.num}'"
        raise UserError("every run of a sweep needs a folder of its own", key="output_dir", value=folders[0], hint=hint)
    for number, point in enumerate(asked, 1):
        try:
            check_config(point.config, point.overrides)
        except UserError as error:
            if len(asked) == 1:
                raise
            varied = [o for o in point.overrides if any(o not in other.overrides for other in asked)]
            message = f"point {number} of {len(asked)} cannot run, so none was started: {' '.join(varied)}"
            raise UserErrors([UserError(message, code=error.code), error]) from None
    budget.check_equal_compute([point.config for point in asked])


def _show(args: Namespace, overrides: Sequence[Override]) -> int:
    """--cfg, --help, --info: Hydra's own screens, and ours where they cannot be shown."""
    try:
        _hydra(lambda _: None)
    except Exception as error:  # Hydra raises many kinds
        points(args, overrides)
        raise UserError(str(error), key="command line") from None
    return 0


def _hydra(job: Callable[[DictConfig], None]) -> None:
    import hydra

    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors over instead of printing them
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
