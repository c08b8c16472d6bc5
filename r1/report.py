"""r1 report RUN...: one HTML page about a run, several runs, a folder of runs (a sweep) or a pipeline."""

from __future__ import annotations

from pathlib import Path

from r1.core.command import ArgumentParser, run_command
from r1.core.errors import UserError
from r1.core.files import write_atomic
from r1.core.storage import storage_errors


def main() -> None:
    run_command(_main)


def _main() -> None:
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "paths", metavar="RUN", nargs="+", help="a run's folder, a pipeline's, or a folder that holds runs"
    )
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="default: report.html in RUN, where there is one RUN"
    )
    args = parser.parse_args()
    print(report(args.paths, args.output))


def report(paths: list[str], output: Path | None) -> Path:
    """Write the page; returns its path.

    Raises:
        UserError: a path has no run, several runs have no --output, or writing fails.
    """
    from r1.experiment.report.gather import gather
    from r1.experiment.report.page import page

    if output is None and len(paths) > 1:
        raise UserError("the page of several runs needs --output", key="--output", hint="add --output report.html")
    file = (output or Path(paths[0]) / "report.html").absolute()
    text = page(gather(paths))
    with storage_errors():
        write_atomic(file, text)
    return file


if __name__ == "__main__":
    main()
