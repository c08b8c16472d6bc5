"""python -m r1.reproduce RUN: run it again from its record and say whether every metric matches."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from r1 import provenance
from r1.errors import UserError
from r1.run import execute, fail
from r1.runs import Run, read
from r1.secrets import HIDDEN


def reproduce(run: Run, output_dir: str) -> bool:
    """Run ``run``'s config into ``output_dir``; True if every row of metrics.jsonl and every final figure is equal.

    Raises:
        UserError: the record lacks what a run needs.
    """
    if HIDDEN in str(run.config):
        raise UserError(
            "the record's config holds redacted values",
            where=str(run.dir / "config.yaml"),
            do="name secrets by an environment variable instead of writing them into the config",
        )
    for difference in surroundings(run):
        print(f"note: {difference}")
    again_dir = execute(run.config | {"output_dir": output_dir, "resume": None, "dry_run": False}, [])
    assert again_dir is not None
    again = read(str(again_dir))
    differences = compare_metrics(run, again)
    for line in differences[:20]:
        print(line)
    count = sum(len(row) - 1 for row in run.metrics)
    print(
        f"{count} values in {len(run.metrics)} rows: "
        + (f"{len(differences)} differ" if differences else "all equal")
    )
    print(again.dir)
    return not differences


def surroundings(run: Run) -> list[str]:
    """What is not as it was: bit-equality is only promised on the same code, packages and kind of CPU."""
    now = {
        "code": provenance.code_hash(),
        "packages": provenance.packages(),
        "hardware": provenance.hardware(),
    }
    then = {key: run.manifest[key] for key in now}
    found = ["the code has changed since"] if now["code"] != then["code"] else []
    for part in ("packages", "hardware"):
        for key, value in then[part].items():
            if key != "threads" and now[part].get(key) != value:  # type: ignore[attr-defined]
                found.append(f"{key} was {value} and is {now[part].get(key)}")  # type: ignore[attr-defined]
    return found


def compare_metrics(run: Run, again: Run) -> list[str]:
    """One line per value that differs, wall-clock times aside."""
    lines = []
    if len(run.metrics) != len(again.metrics):
        lines.append(f"metrics.jsonl: {len(run.metrics)} rows then, {len(again.metrics)} now")
    for then, now in zip(run.metrics, again.metrics, strict=False):
        names = sorted(then.keys() | now.keys())
        lines += [
            f"step {then['step']}  {n}: {then.get(n)} -> {now.get(n)}"
            for n in names
            if then.get(n) != now.get(n)
        ]
    before, after = run.manifest["metrics"]["final"], again.manifest["metrics"]["final"]
    return lines + [f"final  {n}: {before[n]} -> {after.get(n)}" for n in before if before[n] != after.get(n)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m r1.reproduce", description=__doc__)
    parser.add_argument("run", help="a run's folder")
    parser.add_argument("--output-dir", help="where the new record goes; default: RUN with -again behind it")
    args = parser.parse_args()
    try:
        run = read(args.run)
        same = reproduce(run, args.output_dir or next_to(run.dir))
    except UserError as error:
        sys.exit(fail(error))
    sys.exit(0 if same else 1)


def next_to(folder: Path) -> str:
    names = (folder.with_name(f"{folder.name}-again{i or ''}") for i in range(1000))
    return str(next(path for path in names if not path.exists()))


if __name__ == "__main__":
    main()
