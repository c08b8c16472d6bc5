"""From a pipeline's record to what became of each claim."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.claims.claims import CLAIMS, Claim
from examples.claims.effect import UNDECIDED, Measured, Runs, measure, overall_outcome
from r1.core.runs import read_run

Record = dict[str, Any]  # a pipeline's manifest
AVAILABLE = ("finished", "cached")


@dataclass(frozen=True)
class Finding:
    """A claim with its figures.

    Attributes:
        verdict: reproduced, not reproduced, or undecided.
        missing: one line for each run that it needs and that is not there.
        commands: what runs it under the first seed, in order.
    """

    number: int
    claim: Claim
    verdict: str
    measured: list[Measured]
    missing: list[str]
    commands: list[str]


def find_all(manifest: Record, runs: Runs) -> list[Finding]:
    return [_finding(number, claim, manifest["steps"], runs) for number, claim in enumerate(CLAIMS, 1)]


def read_manifest(folder: Path) -> Record:
    """What a pipeline's folder says of itself."""
    held: Record = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return held


def finished_runs(manifest: Record) -> Runs:
    """step -> seed -> its run, of the steps that have finished."""
    found: dict[str, dict[Any, Any]] = {}
    for step in manifest["steps"]:
        if step["status"] in AVAILABLE:
            found.setdefault(step["name"], {})[step["seed"]] = read_run(step["path"])
    return found


def _finding(number: int, claim: Claim, steps: Sequence[Record], runs: Runs) -> Finding:
    found = [measure(effect, runs) for effect in claim.effects]
    return Finding(number, claim, overall_outcome(found), found, _missing(claim, steps, runs), _commands(claim, steps))


def _missing(claim: Claim, steps: Sequence[Record], runs: Runs) -> list[str]:
    planned = {step["name"] for step in steps}
    lines = [f"there is no step {name}" for name in claim.steps if name not in planned]
    lines += [
        f"{step['name']}[{step['seed']}]: {step['status']}" + (f", {step['error']}" if step["error"] else "")
        for step in steps
        if step["name"] in claim.steps and step["status"] not in AVAILABLE
    ]
    if not lines and any(len(runs[name]) < 2 for name in claim.steps):
        lines.append("one seed has no interval")
    return lines


def _commands(claim: Claim, steps: Sequence[Record]) -> list[str]:
    """The runs that a claim reads and those that they start from, as anyone may type them."""
    first = [step for step in steps if step["seed"] == steps[0]["seed"]]
    wanted = set(claim.steps)
    for step in reversed(first):  # what is needed stands before what needs it
        if step["name"] in wanted:
            wanted |= {need.partition("[")[0] for need in step["needs"]}
    return [
        shlex.join(["python", "-m", "r1.run", *step["overrides"], f"output_dir={_relative(step['path'])}"])
        for step in first
        if step["name"] in wanted
    ]


def _relative(path: str) -> str:
    place, here = Path(path), Path.cwd()
    return str(place.relative_to(here)) if place.is_relative_to(here) else path


def counts(found: Sequence[Finding]) -> dict[str, int]:
    """verdict -> how many claims have it, undecided last."""
    verdicts = sorted((finding.verdict for finding in found), key=lambda verdict: (verdict == UNDECIDED, verdict))
    return {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
