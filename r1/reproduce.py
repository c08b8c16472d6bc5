"""r1 reproduce RUN: run it again from its record and report whether every metric matches."""

from __future__ import annotations

import json
from typing import Any

from r1.core import provenance
from r1.core.command import ArgumentParser, run_command
from r1.core.errors import UserError
from r1.core.outputs import SAMPLES
from r1.core.runs import RunRecord, errors_of, next_to, read_run, refuse_pipeline
from r1.core.secrets import REDACTED
from r1.run import execute


def reproduce(run: RunRecord, output_dir: str) -> bool:
    """Run ``run``'s config into ``output_dir``; True if every row of metrics.jsonl, every metric of the manifest,
    its best step and, with the same code, its fingerprint are equal.

    Raises:
        UserError: the record lacks what a run needs.
    """
    from r1.config.check.config import check_config

    refuse_pipeline(run.dir, run.config)
    if REDACTED in str(run.config):
        raise UserError(
            "the record's config holds redacted values",
            key=str(run.dir / "config.yaml"),
            hint="name secrets by an environment variable instead of writing them into the config",
        )
    config = run.config | {"output_dir": None, "resume": None, "dry_run": False}
    with errors_of(run.dir / "config.yaml"):
        check_config(config)
    if run.manifest["status"] != "finished":
        print(f"note: the run is {run.manifest['status']}, so it may have fewer metrics than the new run")
    for difference in provenance.environment_changes(run.manifest, provenance.environment(run.config)):
        print(f"note: {difference}")
    again_dir = execute(config | {"output_dir": output_dir}, [], "r1.reproduce")
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
    for when in ("start", "final"):
        rows.append((when, run.manifest["metrics"][when], again.manifest["metrics"][when]))
    rows.append(("manifest", _compared_fields(run, run.manifest), _compared_fields(again, run.manifest)))
    for label, then, now in rows:
        names = sorted(then.keys() | now.keys())
        pairs = [
            (n, json.dumps(then.get(n)), json.dumps(now.get(n))) for n in names
        ]  # as text, in which NaN equals NaN
        lines += [f"{label}  {name}: {before} -> {after}" for name, before, after in pairs if before != after]
    return lines


def _compared_fields(record: RunRecord, original: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says besides metrics; another code, which has its note, gives another fingerprint."""
    manifest = record.manifest
    is_same_code = manifest.get("code") == provenance.code_hash(*record.config["extensions"]) == original.get("code")
    fields = {"best": manifest.get("best")}
    if SAMPLES in original.get("outputs", {}):  # of an evaluation, which keeps every completion
        fields[SAMPLES] = manifest["outputs"].get(SAMPLES)
    return fields | ({"fingerprint": manifest.get("fingerprint")} if is_same_code else {})


def main() -> None:
    run_command(_main)


def _main() -> int:
    parser = ArgumentParser(__doc__)
    parser.add_argument("run", help="a run's folder")
    parser.add_argument("--output-dir", help="where the new record goes; default: RUN with -again behind it")
    args = parser.parse_args()
    run = read_run(args.run)
    return 0 if reproduce(run, args.output_dir or next_to(run.dir, "again")) else 1


if __name__ == "__main__":
    main()
