"""The outcome of each claim, from a pipeline's record."""

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
    """A claim with its measurements.

    Attributes:
        outcome: reproduced, not reproduced, or undecided.
        missing: one line for each missing run.
        commands: the commands of its runs under the first seed, in order.
    """

    number: int
    claim: Claim
    outcome: str
    measured: list[Measured]
    missing: list[str]
    commands: list[str]


def find_all(manifest: Record, runs: Runs) -> list[Finding]:
    return [_finding(number, claim, manifest["steps"], runs) for number, claim in enumerate(CLAIMS, 1)]


def read_manifest(folder: Path) -> Record:
    """The manifest of a pipeline."""
    manifest: Record = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def finished_runs(manifest: Record) -> Runs:
    """step -> seed -> its run, of the steps that have finished."""
    runs: dict[str, dict[Any, Any]] = {}
    for step in manifest["steps"]:
        if step["status"] in AVAILABLE:
            runs.setdefault(step["name"], {})[step["seed"]] = read_run(step["path"])
    return runs


def _finding(number: int, claim: Claim, steps: Sequence[Record], runs: Runs) -> Finding:
    measured = [measure(effect, runs) for effect in claim.effects]
    return Finding(
        number, claim, overall_outcome(measured), measured, _missing(claim, steps, runs), _commands(claim, steps)
    )


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
    """The commands of a claim's runs and of the runs they start from."""
    first = [step for step in steps if step["seed"] == steps[0]["seed"]]
    wanted = set(claim.steps)
    for step in reversed(first):  # a step comes after the steps it needs
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


def counts(findings: Sequence[Finding]) -> dict[str, int]:
    """outcome -> number of claims, undecided last."""
    outcomes = sorted((finding.outcome for finding in findings), key=lambda outcome: (outcome == UNDECIDED, outcome))
    return {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
