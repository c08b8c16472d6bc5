"""A run as a Slurm job: where its processes meet, and how the job is started again when it loses its machines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from r1.core.rank_info import RankInfo, rank_info_from_env
from r1.distributed.signals import notices

NOTICE = signal.SIGUSR2  # by which Slurm, asked with --signal, says that it will soon take the machines away

OWNER = "R1_SLURM_OWNER"  # job and process that has the job started again: those that it starts leave it to it


@contextmanager
def requeue_on_preemption() -> Iterator[None]:
    """Around a command: a notice stops it as SIGTERM does, and the job is queued once more.

    So it is where Slurm says that the SIGTERM was a preemption's; one of ``scancel`` or of the time limit is the end.
    What was stopped has been saved by then, and its records are closed.
    """
    if not (job := os.environ.get("SLURM_JOB_ID")):
        yield
        return
    own = f"{job}.{os.getpid()}"
    owner = os.environ.get(OWNER, "")
    if owner != own and owner.startswith(f"{job}."):  # Slurm tells every process, and that one passes it on
        signal.signal(NOTICE, signal.SIG_IGN)
        yield
        return
    os.environ[OWNER] = own
    signal.signal(NOTICE, _requeue)
    with notices() as notice:
        try:
            yield
        except SystemExit as end:
            if end.code and notice.given:
                notice.pass_on()
            elif end.code == 128 + signal.SIGTERM and _preempted(job):  # Slurm starts no job again that ends in time
                _requeue(signal.SIGTERM, None)
            raise


def _preempted(job: str) -> bool:
    """Whether another job takes the machines of this one away, since it was started last."""
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=False)
    fields = dict(field.split("=", 1) for field in shown.stdout.split() if "=" in field)
    when = fields.get("PreemptTime", "None")
    return when != "None" and when >= fields["StartTime"]  # both as 2026-11-26T18:37:18


def _requeue(number: int, frame: FrameType | None) -> None:
    """One process asks for all of them: the one that has closed the record."""
    if (rank_info_from_env() or RankInfo()).rank:
        return
    job = os.environ["SLURM_JOB_ID"]
    asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    said = f"does not start it again: {asked.stderr.strip()}" if asked.returncode else "will start it again"
    print(f"r1  job {job} was stopped by {signal.Signals(number).name}, and Slurm {said}", file=sys.stderr, flush=True)
