"""A run's checkpoints on the disk: published by a rename, verified by a checksum, pruned to the newest few.

``checkpoints/step_000010/`` holds ``state.ckpt`` (a file, or a folder of shards), ``files.json`` (the sizes of the
record's append-only files at that step, and a checksum of its metrics) and ``sha256`` over both.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread

from r1.core.console import console
from r1.core.errors import STORAGE, UserError
from r1.core.files import remove_partial, sync_path
from r1.core.runs import saved_checkpoints
from r1.core.storage import damaged, read_text, require_regular

METRICS = "metrics.jsonl"


class CheckpointWriter(Thread):
    """Writes and publishes one checkpoint: ``run`` at once, or ``start`` as a thread in the background of training.

    Args:
        partial: the folder that the checkpoint is written to.
        final: the folder that it is renamed to once it is complete.
        is_rank_zero: this rank publishes the checkpoint.
        keep: checkpoints of the run afterwards, at most.

    Attributes:
        write: writes the state of this rank; None: the state is on the disk already.
        error: raised by ``check``.
    """

    def __init__(self, partial: Path, final: Path, is_rank_zero: bool, keep: int) -> None:
        super().__init__(daemon=True)
        self.partial, self.final, self.is_rank_zero, self.keep = partial, final, is_rank_zero, keep
        self.write: Callable[[], None] | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            if self.write:
                self.write()
            if self.is_rank_zero:
                publish(self.partial, self.final, self.keep)
        except BaseException as error:  # an error of a thread would be lost; ``check`` raises it in training
            self.error = error

    def check(self) -> None:
        """Raise the error of ``run``, if any."""
        if self.error:
            raise self.error


def publish(partial: Path, final: Path, keep: int) -> None:
    """Checksum, sync and rename a checkpoint; then remove all but the newest ``keep``."""
    (partial / "sha256").write_text(_digest(partial))
    # Everything is on the disk before the rename: after a power cut, a folder with the final name is complete.
    for path in (*_files(partial), partial / "sha256", partial / "state.ckpt", partial):
        sync_path(path)
    partial.rename(final)
    sync_path(final.parent)
    for old in saved_checkpoints(final.parent)[:-keep]:
        _remove(old)


def _remove(checkpoint: Path) -> None:
    """It is renamed first: after a kill, a folder with a checkpoint's name has all of its files."""
    if not checkpoint.is_dir() or checkpoint.is_symlink():
        checkpoint.unlink()
        return
    partial = checkpoint.with_name(f"{checkpoint.name}.tmp.old")  # there is none: ``latest`` removes those of a kill
    checkpoint.rename(partial)
    shutil.rmtree(partial)


def remove_all(folder: Path) -> None:
    """Remove the checkpoints of a finished run; files of the user in their folder stay."""
    for checkpoint in saved_checkpoints(folder):
        _remove(checkpoint)
    with suppress(OSError):  # it is not empty
        folder.rmdir()


def newest_step(folder: Path) -> int:
    """The step of a run's newest checkpoint, be it damaged or not; 0 without one."""
    return max((int(checkpoint.name.removeprefix("step_")) for checkpoint in saved_checkpoints(folder)), default=0)


def latest(folder: Path, keep: int) -> Path | None:
    """The newest undamaged checkpoint of a run, or None if the run has not saved one yet.

    Removes partial checkpoints, damaged newer ones, and all older than the newest ``keep``. A checkpoint is skipped,
    too, if the metrics up to it have changed: those after an earlier one are made again.

    Raises:
        UserError: there are checkpoints, and every one is damaged, or metrics.jsonl is.
    """
    remove_partial(folder, r"step_\d{6,}")
    checkpoints = saved_checkpoints(folder)[::-1]
    undamaged = []
    for i, checkpoint in enumerate(checkpoints):
        if not _checksum_ok(checkpoint):
            console.print(f"warning: {checkpoint} is damaged and is skipped")
            continue
        if _metrics_unchanged(checkpoint):
            # The steps of the damaged ones are trained and saved again. An older one is left where a kill came between
            # a checkpoint's rename and the removal that follows it.
            for unused in (*checkpoints[:i], *checkpoints[i + keep :]):
                _remove(unused)
            return checkpoint / "state.ckpt"
        undamaged.append(checkpoint.name)
        console.print(f"warning: {METRICS} has changed since {checkpoint.name}, which is skipped")
    if undamaged:
        raise damaged(folder.parent / METRICS, f"its rows are not those at {' or '.join(undamaged)}")
    if checkpoints:
        raise UserError(
            "every checkpoint of this run is damaged",
            key="resume",
            value=str(folder),
            expected=", ".join(checkpoint.name for checkpoint in checkpoints),
            hint="take another output_dir to start again",
            code=STORAGE,
        )
    return None


def end_of(folder: Path) -> Path:
    """The newest checkpoint of a finished run, whose folder stays as it is.

    Raises:
        UserError: it is damaged.
    """
    checkpoint = folder / f"step_{newest_step(folder):06d}"
    if not _checksum_ok(checkpoint):
        message, hint = "the checkpoint of this run's end is damaged", "resume=auto in the run's folder makes it again"
        raise UserError(message, key="resume_from", value=str(checkpoint), hint=hint, code=STORAGE)
    return checkpoint / "state.ckpt"


def _checksum_ok(checkpoint: Path) -> bool:
    try:
        return _digest(checkpoint) == read_text(checkpoint / "sha256")
    except (OSError, ValueError, UserError):  # a file is missing, unreadable, not a file, or not text
        return False


def write_file_sizes(partial: Path, record: Path, sizes: Mapping[str, int]) -> None:
    """Write the sizes of a record's append-only files, and a checksum of its metrics, into a checkpoint."""
    content = {"sizes": dict(sizes), "metrics": _metrics_hash(record, sizes)}
    (partial / "files.json").write_text(json.dumps(content))


def file_sizes_at(checkpoint: Path | None) -> dict[str, int]:
    """Sizes in bytes of the record's append-only files at ``checkpoint``; None: before the first step."""
    return _read_files_json(checkpoint.parent)[0] if checkpoint else {}


def _read_files_json(checkpoint: Path) -> tuple[dict[str, int], str | None]:
    """The sizes, and the checksum of the metrics, which a checkpoint of an earlier version lacks."""
    content = json.loads((checkpoint / "files.json").read_text())
    return content.get("sizes", content), content.get("metrics")


def _metrics_unchanged(checkpoint: Path) -> bool:
    """Whether the record's metrics.jsonl begins with the rows that it had at the checkpoint."""
    sizes, checksum = _read_files_json(checkpoint)
    return checksum is None or _metrics_hash(checkpoint.parent.parent, sizes) == checksum


def _metrics_hash(record: Path, sizes: Mapping[str, int]) -> str:
    file = record / METRICS
    if not file.is_file():
        return hashlib.sha256().hexdigest()
    with file.open("rb") as rows:
        return hashlib.sha256(rows.read(sizes.get(METRICS, 0))).hexdigest()


def _digest(folder: Path) -> str:
    """sha256 over the names and contents of a checkpoint's files."""
    digest = hashlib.sha256()
    for path in _files(folder):
        require_regular(path)
        with path.open("rb") as source:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(hashlib.file_digest(source, "sha256").digest())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    """The files that the checksum covers: the state, one file or the files of all devices, and ``files.json``."""
    state = folder / "state.ckpt"
    parts = sorted(path for path in state.rglob("*") if path.is_file()) if state.is_dir() else [state]
    return [*parts, folder / "files.json"]
