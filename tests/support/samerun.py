"""Whether two runs have the same result: weights, record, and no files left over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GREW = ("metrics.jsonl", "samples.jsonl", "traces/answers.jsonl", "traces/traces.jsonl", "traces/traces.json")
GREW += ("traces/samples.jsonl", "traces/questions.jsonl")
WEIGHTS = ("model/model.safetensors", "best/model.safetensors")
DECIDED = ("status", "error", "seed", "fingerprint", "data", "parents", "best", "metrics")


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def files(folder: Path, checkpoints: bool) -> list[str]:
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(name) for name in names if checkpoints or name.parts[0] != "checkpoints")


def assert_same_run(expected: Path, actual: Path, checkpoints: bool = True) -> None:
    """The files of two runs are equal byte by byte; ``checkpoints``: also the steps of their checkpoints."""
    expected_manifest = manifest(expected)
    assert expected_manifest["status"] == "finished"
    assert expected_manifest["best"] or not (expected / "model").exists(), (
        "a run that never improves does not show whether best/ survives"
    )
    assert {key: manifest(actual)[key] for key in DECIDED} == {key: expected_manifest[key] for key in DECIDED}
    assert files(actual, checkpoints) == files(expected, checkpoints)
    for name in GREW:
        if (expected / name).exists():
            assert (actual / name).read_text() == (expected / name).read_text(), name
    for name in WEIGHTS:
        if (expected / name).exists():
            assert (actual / name).read_bytes() == (expected / name).read_bytes(), name
