"""What a finished run offers to other runs: its models and datasets, each with the sha256 in its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from r1.core.content_hash import content_hashes, file_hash
from r1.core.errors import STORAGE, UserError
from r1.core.manifest import FILE as MANIFEST
from r1.core.manifest import read_manifest
from r1.core.provenance import find_parents

MODELS = ("model", "adapter", "best")  # folders of a record
DATASETS = ("traces.jsonl", "traces.json", "questions.jsonl", "questions.json")  # in traces/ of a record


SAMPLES = "samples.jsonl"
MAY_BE_GONE = ("best/", SAMPLES)  # what a user may delete, to save space


def output_hashes(folder: Path, has_all_completions: bool = False) -> dict[str, str]:
    """The sha256 of what others read from a record.

    Args:
        has_all_completions: samples.jsonl holds what ``r1.rescore`` needs.
    """
    hashes = {f"{part}/{name}": digest for part in MODELS for name, digest in content_hashes(folder / part).items()}
    traces = [file for name in DATASETS if (file := folder / "traces" / name).is_file()]
    hashes |= {f"traces/{file.name}": file_hash(file) for file in traces}
    return hashes | ({SAMPLES: file_hash(folder / SAMPLES)} if has_all_completions else {})


def damaged_outputs(folder: Path, used: Path | None = None) -> list[str]:
    """The files of a finished record that are gone or have another content than when it finished.

    Args:
        used: only those in this folder, or this file; some may be gone (``MAY_BE_GONE``).
    """
    outputs = read_manifest(folder).get("outputs") or {}
    return [
        name
        for name, digest in outputs.items()
        if used is None or (folder / name).is_relative_to(used)
        if ((folder / name).is_file() or not name.startswith(MAY_BE_GONE))
        and not ((folder / name).is_file() and file_hash(folder / name) == digest)
    ]


def check_parents(paths: Mapping[str, str]) -> None:
    """Check the files that a run is about to read from other runs' records.

    Args:
        paths: by config key, as ``input_paths`` returns them.

    Raises:
        UserError: a file has changed since its run finished.
    """
    for key, path in paths.items():
        for parent in find_parents([path]):
            if damaged := damaged_outputs(Path(parent["path"]), Path(path).absolute()):
                raise UserError(
                    f"{Path(parent['path'], damaged[0])} is damaged: it is not what its run has written",
                    key=key,
                    value=path,
                    expected=f"the sha256 in {Path(parent['path'], MANIFEST)}",
                    hint="run that run again in a new output_dir; a copy outside its record may be changed at will",
                    code=STORAGE,
                )
