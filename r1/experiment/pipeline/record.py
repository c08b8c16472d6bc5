"""A pipeline's own folder: the graph, how each step ended, and the figures of its result."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table

from r1.core import provenance
from r1.core.console import format_duration, format_estimate, status_line
from r1.core.errors import UserError
from r1.core.files import lock_folder
from r1.core.manifest import manifest_header, status_of, time_now, write_manifest
from r1.core.runs import new_run_dir
from r1.core.secrets import redact
from r1.core.statistics import Estimate, mean_over_seeds
from r1.experiment.pipeline.node import PipelineNode, PipelinePlan

HEADLINE_METRIC = "val/pass@1"


@dataclass
class NodeState:
    """How far a node has come: waiting, cached, running, finished, failed, interrupted or blocked.

    Attributes:
        wall_s: seconds that this pipeline has spent on it.
        error: why it failed, or what blocks it.
    """

    status: str
    wall_s: float = 0.0
    error: str | None = None


class PipelineRecord:
    """Context manager around the steps: whatever happens inside, the manifest says how it ended.

    Raises:
        UserError: another process runs this pipeline, or its folder cannot be written.
    """

    def __init__(self, plan: PipelinePlan, command: str) -> None:
        self.plan, self.command = plan, command
        self.states = {node.fingerprint: NodeState("cached" if node.done else "waiting") for node in plan.nodes}

    def __enter__(self) -> PipelineRecord:
        self._lock = lock_folder(self.plan.base.absolute())
        try:
            self._begin()
        except BaseException:
            self._lock.close()
            raise
        return self

    def _begin(self) -> None:
        self._started = time.monotonic()
        pipeline = self.plan.pipeline
        folder = self.plan.base if pipeline.config["output_dir"] else new_run_dir(pipeline.name)
        self.dir = folder.absolute()
        own = self.plan.pipeline.config["extensions"]
        extensions = sorted({*own, *(name for node in self.plan.nodes for name in node.config["extensions"])})
        self._provenance = provenance.describe_environment({"extensions": extensions, "threads": None})
        provenance.write_sources(self.dir, pipeline.as_yaml(), pipeline.overrides)
        self.write("running")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.write(status_of(error), error)
        self._lock.close()

    def write(self, status: str, error: BaseException | None = None) -> None:
        message = error.message if isinstance(error, UserError) else str(error)
        manifest = {
            **manifest_header(status, error, message, self.command, self.plan.pipeline.overrides),
            "fingerprint": provenance.rows_hash([{"steps": [node.fingerprint for node in self.plan.nodes]}]),
            "steps": [self._step(node) for node in self.plan.nodes],
            "results": [str(node.folder.absolute()) for node in self.plan.results],
            **self._provenance,
            "wall_s": round(time.monotonic() - self._started, 3),
            "ended": time_now(),
            "metrics": {when: result_metrics(self.plan.results, when) for when in ("start", "final")},
        }
        write_manifest(self.dir, manifest)

    def _step(self, node: PipelineNode) -> dict[str, Any]:
        return {
            "name": node.step,
            "seed": node.seed,
            "needs": [str(needed) for needed in node.needs],
            "overrides": redact(node.overrides),
            "fingerprint": node.fingerprint,
            "path": str(node.folder.absolute()),
            **asdict(self.states[node.fingerprint]),
            "metrics": node.manifest["metrics"] if node.done and node.manifest else None,
        }

    def table(self) -> RenderableType:
        """Every step with its status and its figure, before and after."""
        columns = [Column(name, no_wrap=True) for name in ("step", "status", "time", "before", "pass@1")]
        record = Column(f"in {self.plan.steps_dir.parent}", overflow="fold")
        table = Table(*columns, record, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for node in self.plan.nodes:
            state = self.states[node.fingerprint]
            took = format_duration(state.wall_s) if state.wall_s else ""
            before, after = (result_metrics([node], when).get(HEADLINE_METRIC) for when in ("start", "final"))
            first = f"{before['value']:.3f}" if before and before != after else ""
            last = format_estimate(Estimate(**after)) if after else ""
            place = str(node.folder.relative_to(self.plan.steps_dir.parent))
            table.add_row(*map(escape, (str(node), state.status, took, first, last, place)))
        return Group(table, status_line(f"record: {self.dir}"))


def result_metrics(nodes: list[PipelineNode], when: str) -> dict[str, Any]:
    """The figures that all of some runs have at their ``start`` or as their ``final``; over several, their mean."""
    held = [node.manifest["metrics"][when] for node in nodes if node.done and node.manifest]
    if len(held) < len(nodes):
        return {}
    if len(held) == 1:
        return dict(held[0])
    names = [name for name in held[0] if all(name in one for one in held)]
    return {name: asdict(mean_over_seeds([one[name]["value"] for one in held])) for name in names}
