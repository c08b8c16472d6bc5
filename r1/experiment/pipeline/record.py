"""A pipeline's own record: its steps, how each of them ended, and the metrics of its result."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table

from r1.core import provenance
from r1.core.console import console, format_duration, status_line
from r1.core.errors import UserError
from r1.core.files import lock_folder
from r1.core.manifest import close_manifest, manifest_header, status_of, time_now, write_manifest
from r1.core.runs import new_run_dir
from r1.core.secrets import redact
from r1.core.statistics import Estimate, mean_over_seeds
from r1.experiment.pipeline.node import PipelineNode, PipelinePlan

HEADLINE_METRIC = "val/pass@1"


class PipelineRecord:
    """Context manager around the steps: whatever happens inside, the manifest records how it ended.

    Attributes:
        dir: the record's folder, once it is entered.

    Raises:
        UserError: on entering: another process runs this pipeline, or its folder cannot be written.
    """

    dir: Path

    def __init__(self, plan: PipelinePlan, command: str) -> None:
        self.plan, self.command = plan, command
        for node in plan.nodes:
            node.status = "cached" if node.done else "waiting"
            for name in node.damaged:
                console.print(status_line(f"warning: {node.folder / name} is damaged and is made again"))

    def __enter__(self) -> PipelineRecord:
        self._lock = lock_folder(self.plan.base.absolute())
        try:
            self._begin()
        except BaseException:
            self._lock.close()
            raise
        try:
            provenance.write_sources(self.dir, self.plan.pipeline.as_yaml(), self.plan.pipeline.overrides)
        except BaseException as error:  # there is a manifest by now, which would stay at `running`
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _begin(self) -> None:
        self._started = time.monotonic()
        pipeline, configs = self.plan.pipeline, [node.config for node in self.plan.nodes]
        folder = self.plan.base if pipeline.config["output_dir"] else new_run_dir(pipeline.name)
        self.dir = folder.absolute()
        extensions = {name for config in (pipeline.config, *configs) for name in config["extensions"]}
        self._provenance = provenance.environment({"extensions": sorted(extensions), "threads": None})
        self.write("running")  # first: it makes the folder a record

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            close_manifest(self.dir, self._manifest(status_of(error), error))
        finally:
            self._lock.close()

    def write(self, status: str) -> None:
        """Write the manifest with the current states of the steps."""
        write_manifest(self.dir, self._manifest(status))

    def _manifest(self, status: str, error: BaseException | None = None) -> dict[str, Any]:
        message = error.message if isinstance(error, UserError) else str(error)
        return {
            **manifest_header(status, error, message, self.command, self.plan.pipeline.overrides),
            "fingerprint": provenance.rows_hash([{"steps": [node.fingerprint for node in self.plan.nodes]}]),
            "steps": [self._step_entry(node) for node in self.plan.nodes],
            "results": [str(node.folder.absolute()) for node in self.plan.results],
            **self._provenance,
            "wall_s": round(time.monotonic() - self._started, 3),
            "ended": time_now(),
            "metrics": {when: result_metrics(self.plan.results, when) for when in ("start", "final")},
        }

    def _step_entry(self, node: PipelineNode) -> dict[str, Any]:
        return {
            "name": node.step,
            "seed": node.seed,
            "needs": [str(needed) for needed in node.needs],
            "overrides": redact(node.overrides),
            "fingerprint": node.fingerprint,
            "path": str(node.folder.absolute()),
            "status": node.status,
            "wall_s": node.wall_s,
            "error": node.error,
            "metrics": node.manifest["metrics"] if node.done else None,
        }

    def table(self) -> RenderableType:
        """Every step with its status, its duration and its pass@1 before and after."""
        columns = [Column(name, no_wrap=True) for name in ("step", "status", "time", "before", "pass@1")]
        record = Column(f"in {self.plan.steps_dir.parent}", overflow="fold")
        table = Table(*columns, record, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for node in self.plan.nodes:
            took = format_duration(node.wall_s) if node.wall_s else ""
            before, after = (result_metrics([node], when).get(HEADLINE_METRIC) for when in ("start", "final"))
            first = f"{before['value']:.3f}" if before and before != after else ""
            last = str(Estimate(**after)) if after else ""
            folder = str(node.folder.relative_to(self.plan.steps_dir.parent))
            table.add_row(*map(escape, (str(node), node.status, took, first, last, folder)))
        return Group(table, status_line(f"record: {self.dir}"))


def result_metrics(nodes: list[PipelineNode], when: str) -> dict[str, Any]:
    """The metrics that all of some runs have; of several runs their means over seeds. Empty if one has not finished.

    Args:
        when: ``start``, the first validation of a run, or ``final``, its last one.
    """
    per_run = [node.manifest["metrics"][when] for node in nodes if node.done]
    if len(per_run) < len(nodes):
        return {}
    if len(per_run) == 1:
        return dict(per_run[0])
    names = [name for name in per_run[0] if all(name in metrics for metrics in per_run)]
    return {name: asdict(mean_over_seeds([metrics[name]["value"] for metrics in per_run])) for name in names}
