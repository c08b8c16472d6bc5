"""Traces written by an earlier run: a teacher's answers (stage=distill) or the policy's (stage=rejection_sampling)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

from r1.core.content_hash import file_hash
from r1.core.errors import DATA, UserError
from r1.core.storage import parse_json
from r1.data.base import Data
from r1.data.columns import INTERNAL, RESERVED, Row
from r1.data.dataset import DatasetOptions, Reader, split_dataset
from r1.data.mapping import missing
from r1.data.origin import SourceFile


def traces(learns: bool, **options: Unpack[DatasetOptions]) -> Data:
    """Rows ``{prompt, completion, answer?, ...}``. ``path``: a run's folder, its ``traces/`` folder, or a .jsonl file.

    Only a file with a card, which r1 wrote, may have columns of r1's own (``columns.INTERNAL``).

    Raises:
        UserError: no such file, a bad row, or a file that does not match its card (the .json with its name).
    """
    file = find_traces(str(options["path"]))
    files = {"train": [SourceFile(str(file), str(file))]}
    has_card = file.with_suffix(".json").is_file()
    forbidden = RESERVED if has_card else RESERVED | INTERNAL
    reader = Reader(options, trace_row, "traces", forbidden)
    if has_card:
        check_card(file, len(reader.rows(files["train"])))
    return split_dataset(reader, files, learns)


def trace_row(row: Row, location: str) -> Row:
    """The row without the part of the mixture that was answered: this dataset may be a part of another one."""
    if "completion" not in row:
        raise missing("completion", "completion", row, location)
    return {name: value for name, value in row.items() if name != "part"}


def find_traces(path: str) -> Path:
    root = Path(path).expanduser()
    candidates = [root / "traces" / "traces.jsonl", root / "traces.jsonl", root]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(
        "no traces here: a run writes them with stage=distill or stage=rejection_sampling",
        key=".path",
        value=path,
        expected="a run's folder (outputs/<name>/<time>), its traces/ folder, or a traces.jsonl",
        hint="looked for " + ", ".join(str(candidate.absolute()) for candidate in candidates),
        code=DATA,
    )


def check_card(file: Path, count: int) -> None:
    """Compare the file with its card, ``{"fingerprint": sha256, "count": rows}``."""
    card = file.with_suffix(".json")
    digest = file_hash(file)
    actual: dict[str, Any] = {"fingerprint": digest, "count": count}
    try:
        stated: dict[str, Any] = parse_json(card.read_bytes())
        expected = {key: stated[key] for key in actual}
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{card} is not a dataset card",
            key=".path",
            value=str(file),
            expected='{"fingerprint": sha256 of the file, "count": number of rows}',
            code=DATA,
        ) from None
    if expected != actual:
        raise UserError(
            f"{file} was changed after it was written, or not written to its end",
            key=".path",
            value=f"{count} rows, sha256 {digest[:12]}",
            expected=f"{expected['count']} rows, sha256 {str(expected['fingerprint'])[:12]} ({card.name})",
            hint=f"write it again, or remove {card} if the change is yours",
            code=DATA,
        )
