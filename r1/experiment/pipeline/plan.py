"""From steps to nodes: each composed, checked as far as it can be, and given the fingerprint that its run will have.

A fingerprint needs no run: a step's inputs count as the fingerprints of the steps that make them.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from r1.config.build import build, instantiate_node
from r1.config.check.components import check_parts
from r1.config.check.config import check_schema
from r1.config.check.rules import check_rules, output
from r1.config.compose import config_loader, point
from r1.config.hydra_adapter import HydraLoader
from r1.core import provenance
from r1.core.errors import UserError, UserErrors
from r1.core.types import Config
from r1.distributed.process import escape_hydra
from r1.experiment.pipeline.node import PipelineNode, PipelinePlan, depends_on_unfinished
from r1.experiment.pipeline.steps import REFERENCE, Pipeline, PipelineStep, errors_for_step
from r1.train.fit import silence_third_party_logging


def plan_pipeline(args: Namespace, pipeline: Pipeline, digests: dict[str, str]) -> PipelinePlan:
    """Compose and check every step.

    Args:
        digests: of datasets, by their config: each is built once for all seeds, and for all pipelines of a grid.

    Raises:
        UserErrors: what is wrong with any of them; what needs a wrong one is not looked at.
    """
    silence_third_party_logging()
    cfg = pipeline.config
    base = Path(cfg["output_dir"] or Path("outputs", pipeline.name))
    _check_base(base, pipeline.name)
    steps_dir = Path(cfg["steps_dir"] or base / "steps")
    with config_loader(args) as loader:
        planner = PipelinePlanner(loader, args, pipeline, steps_dir, digests)
        graphs = [planner.graph(seed) for seed in cfg["seeds"] or [None]]
    result = cfg["result"] or list(cfg["steps"])[-1]
    nodes = list(planner.found.values())
    _check_parts(nodes)
    return PipelinePlan(pipeline, base, steps_dir, nodes, [graph[result] for graph in graphs])


def _check_base(base: Path, name: str) -> None:
    output({"output_dir": str(base), "name": name, "resume": "auto"})
    held = base / "manifest.json"
    if held.is_file() and "steps" not in json.loads(held.read_text(encoding="utf-8")):
        message = "this folder holds a run, which is no pipeline"
        raise UserError(message, key="output_dir", value=str(base), hint="take another output_dir")


class PipelinePlanner:
    """Makes the nodes of one plan; ``found`` has each once, by its fingerprint."""

    def __init__(
        self, loader: HydraLoader, args: Namespace, pipeline: Pipeline, steps_dir: Path, digests: dict[str, str]
    ) -> None:
        self.loader, self.args, self.pipeline = loader, args, pipeline
        self.steps_dir, self.digests = steps_dir, digests
        self.found: dict[str, PipelineNode] = {}

    def graph(self, seed: int | None) -> dict[str, PipelineNode]:
        """All steps under one seed.

        Raises:
            UserErrors: as above.
        """
        nodes: dict[str, PipelineNode] = {}
        errors: list[UserError] = []
        for name, step in self.pipeline.steps.items():
            if not nodes.keys() >= set(step.needs):
                continue
            try:
                with errors_for_step(name):
                    node = self._node(name, step, seed, nodes)
                nodes[name] = self.found.setdefault(node.fingerprint, node)
            except UserError as error:
                errors += error.errors if isinstance(error, UserErrors) else [error]
        if errors:
            raise UserErrors(list(map(self._with_step_hint, errors)))
        return nodes

    def _node(self, name: str, step: PipelineStep, seed: int | None, nodes: dict[str, PipelineNode]) -> PipelineNode:
        needs = [nodes[other] for other in step.needs]
        texts = [_resolve_references(text, nodes) for text in step.overrides(seed)]
        cfg = point(self.loader, self.args, texts).config
        _check_config(cfg, texts, needs)
        planned = {str(node.folder.absolute()): node.fingerprint for node in needs}
        parents = provenance.find_parents(provenance.input_paths(cfg), planned)
        from_outside = provenance.replace_paths_by_fingerprint(cfg["data"], parents) == cfg["data"]
        data = self._digest(cfg) if from_outside else ""
        fingerprint = provenance.fingerprint(cfg, data, parents)
        if step.has_seed and all(other.seed is None for other in needs):
            seed = None  # the same under every seed
        folder = self.steps_dir / name / fingerprint[:12]
        model = _checkable_model(cfg["model"], needs)
        return PipelineNode(
            name, seed, step.own_overrides(), texts, needs, cfg, data, parents, folder, fingerprint, model
        )

    def _with_step_hint(self, error: UserError) -> UserError:
        """Advice where a step was given what was meant for another."""
        key = error.key.partition(".")[2].partition(".")[2]
        for name, equals, value in (text.lstrip("+~").partition("=") for text in self.pipeline.global_overrides):
            if name == key:
                error.hint = f"for one step alone: steps.NAME.{name}{equals}{value}"
        return error

    def _digest(self, cfg: Config) -> str:
        key = json.dumps(cfg["data"], sort_keys=True, default=str)
        if key not in self.digests:
            data = instantiate_node(cfg["data"], "data", cfg)
            self.digests[key] = provenance.rows_hash(data.train, data.val)
        return self.digests[key]


def _resolve_references(text: str, nodes: dict[str, PipelineNode]) -> str:
    """An override with the folders of the steps that it refers to."""
    return REFERENCE.sub(lambda match: escape_hydra(str(nodes[match[1]].folder)), text)


def _check_config(cfg: Config, texts: list[str], needs: list[PipelineNode]) -> None:
    """All that can be known of a config while some of what it reads is yet to be made."""
    if cfg["steps"] is not None:
        raise UserError("a step is a run, not a pipeline", key="experiment")
    try:
        check_schema(cfg, texts)
        check_rules(cfg)
    except UserErrors as error:
        leaves = provenance.flatten(cfg)
        if found := [one for one in error.errors if not depends_on_unfinished(leaves.get(one.key), needs)]:
            raise UserErrors(found) from None


def _check_parts(nodes: list[PipelineNode]) -> None:
    """Build what is to run and can be built, and compare its parts.

    Raises:
        UserErrors: the first thing that does not fit, for each node.
    """
    errors: list[UserError] = []
    for node in nodes:
        cfg = node.config | {"model": node.model}
        if node.done or any(depends_on_unfinished(path, node.needs) for path in provenance.input_paths(cfg)):
            continue
        try:
            with errors_for_step(node.step):
                check_parts(cfg, build(cfg))
        except UserError as error:
            errors.append(error)
    if errors:
        raise UserErrors(errors)


def _checkable_model(own: Config, needs: Sequence[PipelineNode]) -> Config:
    for node in needs:
        if depends_on_unfinished(own["path"], [node]):
            start = node.model
            tokenizer = own["tokenizer"] or start["tokenizer"]
            return own | {"path": start["path"], "config": start["config"], "tokenizer": tokenizer}
    return own
