"""One run of a pipeline and the plan of all of them, with what their records already hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1.core.manifest import read_manifest
from r1.core.outputs import damaged_outputs
from r1.core.types import Config
from r1.experiment.pipeline.steps import Pipeline


@dataclass
class PipelineNode:
    """One planned run: a step under one seed.

    Attributes:
        seed: the pipeline's; None: it has no seeds, or the step is the same under all of them.
        own_overrides: those that distinguish the step from the others.
        overrides: the whole command line, with the folders of the steps that it needs.
        folder: of its record, which may not exist yet.
        data: sha256 of its rows; empty where another run generates them.
        model: its model's config; for one that is yet to be trained, that of the model that its training starts from.
        status: how far it has come: waiting, cached, running, finished, failed, interrupted or blocked.
        wall_s: seconds that this pipeline has spent on it.
        error: why it failed, or which step blocks it.
    """

    step: str
    seed: int | None
    own_overrides: list[str]
    overrides: list[str]
    needs: list[PipelineNode]
    config: Config
    data: str
    parents: list[dict[str, Any]]
    folder: Path
    fingerprint: str
    model: Config
    status: str = "waiting"
    wall_s: float = 0.0
    error: str | None = None

    def __str__(self) -> str:
        return self.step if self.seed is None else f"{self.step}[{self.seed}]"

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest of its record, read anew each time; empty if there is none."""
        return read_manifest(self.folder)

    @property
    def done(self) -> bool:
        """Whether its record is finished, with the files that the run has written."""
        return self._is_finished() and not self.damaged

    @property
    def damaged(self) -> list[str]:
        """Files of its finished record that have changed since: the step runs again and makes them again."""
        return damaged_outputs(self.folder) if self._is_finished() else []

    def _is_finished(self) -> bool:
        manifest = self.manifest
        if not manifest.get("metrics", {}).keys() >= {"start", "final"}:
            return False
        return manifest.get("status") == "finished" and manifest.get("fingerprint") == self.fingerprint


@dataclass
class PipelinePlan:
    """The runs of one pipeline.

    Attributes:
        base: the pipeline's folder, or the folder of all its records; one process at a time writes there.
        steps_dir: the folder of its steps' records, which other pipelines may share.
        nodes: every run once, each after those that it needs.
        results: the runs whose metrics are the pipeline's, one for each seed.
    """

    pipeline: Pipeline
    base: Path
    steps_dir: Path
    nodes: list[PipelineNode]
    results: list[PipelineNode]


def depends_on_unfinished(path: Any, needs: Sequence[PipelineNode]) -> bool:
    """Whether a config value is a path into the record of a step that has not finished."""
    unfinished = [node.folder for node in needs if not node.done]
    return isinstance(path, str) and any(Path(path).is_relative_to(folder) for folder in unfinished)
