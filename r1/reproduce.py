"""python -m r1.reproduce RUN: run it again from its record and report whether every metric matches."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from r1.core import provenance
from r1.core.command import run_command
from r1.core.errors import UserError
from r1.core.runs import RunRecord, read_run
from r1.core.secrets import REDACTED
from r1.run import execute


def reproduce(run: RunRecord, output_dir: str) -> bool:
    """Run ``run``'s config into ``output_dir``; True if every row of metrics.jsonl and every final metric is equal.

    Raises:
        UserError: the record lacks what a run needs.
    """
    if REDACTED in str(run.config):
        raise UserError(
            "the record's config holds redacted values",
            key=str(run.dir / "config.yaml"),
            hint="name secrets by an environment variable instead of writing them into the config",
        )
    if run.manifest["status"] != "finished":
        print(f"note: the run is {run.manifest['status']}, so it may have fewer metrics than the new run")
    for difference in provenance.environment_changes(run.manifest, provenance.environment(run.config)):
        print(f"note: {difference}")
    again_dir = execute(run.config | {"output_dir": output_dir, "resume": None, "dry_run": False}, [], "r1.reproduce")
    assert again_dir is not None
    again = read_run(str(again_dir))
    differences = compare_metrics(run, again)
    for line in differences[:20]:
        print(line)
    count = sum(len(row) - 1 for row in run.metrics)
    print(
        f"{count} values in {len(run.metrics)} rows: " + (f"{len(differences)} differ" if differences else "all equal")
    )
    print(again.dir)
    return not differences


def compare_metrics(run: RunRecord, again: RunRecord) -> list[str]:
    """One line per value that differs, wall-clock times aside."""
    lines = []
    if len(run.metrics) != len(again.metrics):
        lines.append(f"metrics.jsonl: {len(run.metrics)} rows then, {len(again.metrics)} now")
    rows = [(f"step {then['step']}", then, now) for then, now in zip(run.metrics, again.metrics, strict=False)]
    rows.append(("final", run.manifest["metrics"]["final"], again.manifest["metrics"]["final"]))
    for label, then, now in rows:
        names = sorted(then.keys() | now.keys())
        pairs = [
            (n, json.dumps(then.get(n)), json.dumps(now.get(n))) for n in names
        ]  # as text, in which NaN equals NaN
        lines += [f"{label}  {name}: {before} -> {after}" for name, before, after in pairs if before != after]
    return lines


def main() -> None:
    run_command(_main)


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m r1.reproduce", description=__doc__)
    parser.add_argument("run", help="a run's folder")
    parser.add_argument("--output-dir", help="where the new record goes; default: RUN with -again behind it")
    args = parser.parse_args()
    run = read_run(args.run)
    return 0 if reproduce(run, args.output_dir or next_to(run.dir)) else 1


def next_to(folder: Path) -> str:
    names = (folder.with_name(f"{folder.name}-again{i or ''}") for i in range(1000))
    return str(next(path for path in names if not path.exists()))


if __name__ == "__main__":
    main()
