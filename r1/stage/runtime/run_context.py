"""The run that a stage belongs to: its ranks, its record, and the signal to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from r1.distributed.collectives import RankGroup
from r1.rollout.base import no_op
from r1.stage.runtime.recorder import Recorder


@dataclass
class RunContext:
    """Filled in by ``r1.train.fit`` when the run starts; before that, a single process without a record.

    Attributes:
        ranks: collectives over the run's processes.
        record: keeps samples; None on every rank but the first.
        check_for_stop: called between tokens; raises Interrupted once a signal has arrived.
        starts_from_another: the checkpoint that is loaded is the end of another run (``resume_from``).
    """

    ranks: RankGroup = field(default_factory=RankGroup)
    record: Recorder | None = None
    check_for_stop: Callable[[], None] = no_op
    starts_from_another: bool = False
