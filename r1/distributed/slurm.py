"""A run as a Slurm job: the job is requeued when it loses its machines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from r1.core.rank_info import RankInfo, rank_info_from_env
from r1.distributed.signals import preemption_notice

NOTICE = signal.SIGUSR2  # sent by Slurm (option --signal) before it takes the machines away
OWNER = "R1_SLURM_OWNER"  # <job>.<pid> of the one process that requeues the job; its children inherit the variable


@contextmanager
def requeue_on_preemption() -> Iterator[None]:
    """Around a command: a notice stops it as SIGTERM does, and the job is requeued.

    A SIGTERM requeues it only if Slurm reports a preemption; after ``scancel`` or the time limit the job stays ended.
    The run has been saved by then, and its record is closed.
    """
    if not (job := os.environ.get("SLURM_JOB_ID")):
        yield
        return
    this_process = f"{job}.{os.getpid()}"
    owner = os.environ.get(OWNER, "")
    if owner != this_process and owner.startswith(f"{job}."):  # Slurm signals every process; the owner forwards it
        signal.signal(NOTICE, signal.SIG_IGN)
        yield
        return
    os.environ[OWNER] = this_process
    signal.signal(NOTICE, _requeue)
    with preemption_notice() as notice:
        try:
            yield
        except SystemExit as end:
            if end.code and notice.requeue:
                notice.requeue()
            elif end.code == 128 + signal.SIGTERM and _is_preempted(job):  # Slurm requeues no job that ends in time
                _requeue(signal.SIGTERM, None)
            raise


def _is_preempted(job: str) -> bool:
    """Whether another job takes this job's machines away, since its last start."""
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=False)
    fields = dict(field.split("=", 1) for field in shown.stdout.split() if "=" in field)
    when = fields.get("PreemptTime", "None")
    return when != "None" and when >= fields["StartTime"]  # both as 2026-11-26T18:37:18


def _requeue(number: int, frame: FrameType | None) -> None:
    """Rank 0, which has closed the record, requeues the job for all ranks."""
    if (rank_info_from_env() or RankInfo()).rank:
        return
    job = os.environ["SLURM_JOB_ID"]
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    result = f"does not start it again: {done.stderr.strip()}" if done.returncode else "will start it again"
    reason = signal.Signals(number).name
    print(f"r1  job {job} was stopped by {reason}, and Slurm {result}", file=sys.stderr, flush=True)
