"""python -m r1.report RUN...: one HTML page about a run, several runs, a folder of runs (a sweep) or a pipeline."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from r1.core.console import print_error
from r1.core.errors import STORAGE, UserError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m r1.report", description=__doc__)
    parser.add_argument(
        "paths", metavar="RUN", nargs="+", help="a run's folder, a pipeline's, or a folder that holds runs"
    )
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="default: report.html in RUN, where there is one RUN"
    )
    args = parser.parse_args()
    try:
        print(report(args.paths, args.output))
    except UserError as error:
        sys.exit(print_error(error))


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
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        message = f"the page cannot be written: {error.strerror}"
        raise UserError(message, key="--output", value=str(file), code=STORAGE) from None
    return file


if __name__ == "__main__":
    main()
