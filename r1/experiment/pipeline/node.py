"""One run of a pipeline, and all of them: what they will be, and what of them is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1.core.types import Config
from r1.experiment.pipeline.steps import Pipeline


@dataclass
class PipelineNode:
    """One run to be: a step under one seed.

    Attributes:
        overrides: its command line, with the folders of the steps that it needs.
        folder: where its record is or will be.
        data: sha256 of its rows; empty where another run makes them.
        model: its model's config; where that is yet to be trained, that of the model that the training starts from.
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

    def __str__(self) -> str:
        return self.step if self.seed is None else f"{self.step}[{self.seed}]"

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What its record says, if there is one."""
        try:
            held: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return held

    @property
    def done(self) -> bool:
        held = self.manifest
        return held is not None and held["status"] == "finished" and held["fingerprint"] == self.fingerprint


@dataclass
class PipelinePlan:
    """What a pipeline comes to.

    Attributes:
        base: its own folder, or the folder of all its records; one process at a time writes there.
        steps_dir: the folder of its steps' records, which other pipelines may share.
        nodes: every run once, in an order in which they can run.
        results: the runs whose figures are the pipeline's, one for each seed.
    """

    pipeline: Pipeline
    base: Path
    steps_dir: Path
    nodes: list[PipelineNode]
    results: list[PipelineNode]


def depends_on_unfinished(path: Any, needs: Sequence[PipelineNode]) -> bool:
    """Whether a value lies in the record of a step that has not ended."""
    places = [node.folder for node in needs if not node.done]
    return isinstance(path, str) and any(Path(path).is_relative_to(place) for place in places)
