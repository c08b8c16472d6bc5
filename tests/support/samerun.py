"""Whether two runs ended alike: the same bits, the same record, and nothing left lying about."""

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


def assert_same_run(expected: Path, found: Path, checkpoints: bool = True) -> None:
    """``found`` ended as ``expected`` did, byte by byte; ``checkpoints``: it also saved at the same steps."""
    held = manifest(expected)
    assert held["status"] == "finished"
    assert held["best"] or not (expected / "model").exists(), (
        "a run that never improves does not show whether best/ survives"
    )
    assert {key: manifest(found)[key] for key in DECIDED} == {key: held[key] for key in DECIDED}
    assert files(found, checkpoints) == files(expected, checkpoints)
    for name in GREW:
        if (expected / name).exists():
            assert (found / name).read_text() == (expected / name).read_text(), name
    for name in WEIGHTS:
        if (expected / name).exists():
            assert (found / name).read_bytes() == (expected / name).read_bytes(), name
