"""python -m r1.sweep FILE: the sweep of a W&B sweep file on this machine, with no account; again, and it goes on."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from r1.core.cli import print_error
from r1.core.errors import UserError
from r1.distributed.slurm import requeue_on_preemption
from r1.experiment.sweep.file import Sweep, read

EXIT = """Several of these commands may work on one sweep at the same time. Exit code: 0 if any point has finished,
128 + signal if it was asked to stop, else that of the first point that failed."""


def main() -> None:
    args = _parser().parse_args()
    with requeue_on_preemption():
        try:
            code = _run(args)
        except UserError as error:
            code = print_error(error)
        sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m r1.sweep", description=__doc__, epilog=EXIT)
    parser.add_argument("file", metavar="FILE", help="a W&B sweep file")
    parser.add_argument("--workers", metavar="N", type=_count, default=1, help="points at once (default: 1)")
    parser.add_argument("--count", metavar="N", type=_count, help="points of the sweep in all, at most")
    parser.add_argument("--storage", metavar="URL", help="sqlite:///FILE or FILE.log (default: study.db there)")
    parser.add_argument("--name", metavar="NAME", help="outputs/sweeps/NAME (default: the file's name)")
    parser.add_argument("--retry-failed", action="store_true", help="run the points again that have failed")
    parser.add_argument("--check", action="store_true", help="check every point and what it costs; run nothing")
    parser.add_argument("--report", action="store_true", help="make the page of what has been run; run nothing")
    return parser


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _run(args: argparse.Namespace) -> int:
    if args.check:
        from r1.experiment.sweep.check import check

        check(args.file, args.workers)
        return 0
    sweep = read(args.file)
    sweep = replace(sweep, name=args.name or sweep.name)
    folder = _folder(sweep)
    if args.report:
        from r1.report import report

        print(report([str(folder)], None))
        return 0
    return _search(sweep, folder, args)


def _folder(sweep: Sweep) -> Path:
    if not re.fullmatch(r"\w[\w.-]*", sweep.name):
        expected = "letters, digits, _ - ."
        raise UserError(
            "a sweep's name is a folder's", key="name", value=sweep.name, expected=expected, hint="--name NAME"
        )
    return Path("outputs", "sweeps", sweep.name)


def _search(sweep: Sweep, folder: Path, args: argparse.Namespace) -> int:
    """Run what is left of a sweep, and say what it has found."""
    if not find_spec("optuna"):
        raise UserError("a sweep without W&B needs Optuna", key="python -m r1.sweep", hint="pip install 'r1[optuna]'")
    from r1.core.console import console
    from r1.experiment.sweep import storage
    from r1.experiment.sweep.display import SweepDisplay
    from r1.experiment.sweep.runner import Runner, is_pipeline
    from r1.experiment.sweep.space import Space
    from r1.experiment.sweep.study import Study
    from r1.experiment.sweep.summary import final_summary

    place = storage.url(folder, args.storage)
    space = Space(sweep)
    is_pipeline(sweep.overrides(space.values(dict(space.drawn(0)))))  # what is wrong with every point, before the first
    study = Study(sweep, folder, place, args.count, args.retry_failed)
    with SweepDisplay(study) as board:
        runner = Runner(study, args.workers, board)
        runner.run()
    console.print(final_summary(study, place))
    print(folder)
    if runner.stop_signal is not None:
        return 128 + runner.stop_signal
    points = study.points()
    codes = [point.code for point in points if point.status == "failed"]
    return codes[0] if codes and len(codes) == len(points) else 0


if __name__ == "__main__":
    main()
