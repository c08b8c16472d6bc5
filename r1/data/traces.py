"""Traces written by an earlier run: a teacher's answers (stage=distill) or the policy's (stage=rejection_sampling)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Unpack

from annotated_types import Ge

from r1.core.errors import DATA, UserError
from r1.core.storage import parse_json
from r1.data.base import Data, DataOptions
from r1.data.columns import RESERVED
from r1.data.jsonl import FORBIDDEN, Columns, prompts, read_rows
from r1.data.split import hold_out

COLUMNS: Columns = {name: name for name in ("prompt", "completion")}


def traces(*, path: str, num_val: Annotated[int, Ge(1)] | None, **shared: Unpack[DataOptions]) -> Data:
    """Rows ``{prompt, completion, answer?, ...}``; ``num_val`` of them held out, by a hash of the question.

    Only a file with a card, which r1 wrote, may have columns of r1's own (``columns.INTERNAL``).

    Args:
        path: a run's folder, its ``traces/`` folder, or a .jsonl file: the first that is there.
        num_val: None: the share that ``hold_out`` has.

    Raises:
        UserError: no such file, a bad row, or a file that does not match its card (the .json with its name).
    """
    file = find_traces(path)
    has_card = file.with_suffix(".json").is_file()
    rows = read_rows(str(file), COLUMNS, "error", ".path", RESERVED if has_card else FORBIDDEN)
    if has_card:
        check_card(file, len(rows))
    for row in rows:
        row.pop("part", None)  # of the mixture that was answered; this dataset may be a part of another one
    train, val = hold_out(prompts(rows), num_val)
    return Data(train=[rows[i] for i in train], val=[rows[i] for i in val], **shared)


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
    with file.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
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
