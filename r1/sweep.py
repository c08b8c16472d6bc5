"""r1 sweep FILE: run a W&B sweep file here, without an account; the same command resumes it."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from r1.core.command import ArgumentParser, run_command
from r1.core.console import console
from r1.core.errors import STORAGE, UserError
from r1.core.storage import named
from r1.distributed.slurm import requeue_on_preemption
from r1.experiment.sweep.file import Sweep, read_sweep

EPILOG = """Several of these commands may work on one sweep at the same time. Exit code: 128 + signal if a signal
stopped it, 74 if the disk was at fault in any point (the same command runs that again), 0 if any point has finished,
else that of the first point that failed."""


def main() -> None:
    with requeue_on_preemption():
        run_command(lambda: _run(_parser().parse_args()))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__, epilog=EPILOG)
    parser.add_argument("file", metavar="FILE", help="a W&B sweep file")
    parser.add_argument("--workers", metavar="N", type=_positive_int, default=1, help="points at once (default: 1)")
    parser.add_argument("--count", metavar="N", type=_positive_int, help="points of the sweep in all, at most")
    parser.add_argument("--storage", metavar="URL", help="sqlite:///FILE or FILE.log (default: study.db there)")
    parser.add_argument("--name", metavar="NAME", help="outputs/sweeps/NAME (default: the file's name)")
    parser.add_argument("--retry-failed", action="store_true", help="run failed points again")
    parser.add_argument("--check", action="store_true", help="check every point and print the cost; run nothing")
    parser.add_argument("--report", action="store_true", help="write the page of the points so far; run nothing")
    return parser


def _positive_int(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _run(args: argparse.Namespace) -> int:
    if args.check:
        from r1.experiment.sweep.check import check_sweep

        check_sweep(args.file, args.workers)
        return 0
    sweep = read_sweep(args.file)
    sweep = replace(sweep, name=args.name or sweep.name)
    folder = _folder(sweep)
    if args.report:
        from r1.report import report

        print(report([str(folder)], None))
        return 0
    return _run_sweep(sweep, folder, args)


def _folder(sweep: Sweep) -> Path:
    if not re.fullmatch(r"\w[\w.-]*", sweep.name):
        message, expected = "a sweep's name is also a folder's", "letters, digits, _ - ."
        raise UserError(message, key="name", value=sweep.name, expected=expected, hint="--name NAME")
    return Path("outputs", "sweeps", sweep.name)


def _run_sweep(sweep: Sweep, folder: Path, args: argparse.Namespace) -> int:
    """Run the remaining points of a sweep and print its summary; returns the exit code."""
    if not find_spec("optuna"):
        raise UserError("a sweep without W&B needs Optuna", key="python -m r1.sweep", hint="pip install -e '.[optuna]'")
    from r1.experiment.sweep.display import SweepDisplay
    from r1.experiment.sweep.runner import Runner, is_pipeline
    from r1.experiment.sweep.space import SearchSpace
    from r1.experiment.sweep.storage import file_of, storage_url
    from r1.experiment.sweep.study import Study
    from r1.experiment.sweep.summary import final_summary

    url = storage_url(folder, args.storage)
    space = SearchSpace(sweep)
    is_pipeline(sweep.overrides(space.values(dict(space.random_point(0)))))  # raises the errors that all points share
    study = Study(sweep, folder, url, args.count, args.retry_failed)
    with SweepDisplay(study) as display, named(file_of(url)):
        stop_signal = Runner(study, args.workers, display).run()
    console.print(final_summary(study, url))
    print(folder)
    if stop_signal is not None:
        return 128 + stop_signal
    points = study.points()
    codes = [point.code for point in points if point.status == "failed"]
    if STORAGE in codes:
        return STORAGE
    return codes[0] if codes and len(codes) == len(points) else 0


if __name__ == "__main__":
    main()
