"""From steps to planned runs: each step is composed, checked as far as possible, and given its fingerprint.

A fingerprint needs no run: a path into another step's record counts as that step's fingerprint.
"""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from r1.config.build import build, build_data
from r1.config.check.components import check_parts
from r1.config.check.config import check_schema
from r1.config.check.resume_from import check_continuation, check_end_checkpoint, is_end_of
from r1.config.check.rules import check_rules, output
from r1.config.compose import compose_point, config_loader
from r1.config.hydra_adapter import HydraLoader
from r1.config.overrides import map_texts
from r1.core import provenance
from r1.core.errors import UserError, UserErrors
from r1.core.manifest import read_manifest
from r1.core.override_text import literal
from r1.core.types import Config
from r1.experiment.pipeline.node import PipelineNode, PipelinePlan, depends_on_unfinished
from r1.experiment.pipeline.steps import REFERENCE, Pipeline, PipelineStep, errors_for_step
from r1.train.fit import silence_third_party_logging


def plan_pipeline(args: Namespace, pipeline: Pipeline, digests: dict[str, str]) -> PipelinePlan:
    """Compose and check every step.

    Args:
        digests: of datasets, by their config: each is built once for all seeds, and for all pipelines of a grid.

    Raises:
        UserErrors: the errors of all steps; a step that needs an invalid one is not checked.
    """
    silence_third_party_logging()
    cfg = pipeline.config
    base = Path(cfg["output_dir"] or Path("outputs", pipeline.name))
    _check_base(base, cfg["output_dir"], pipeline.name)
    steps_dir = Path(cfg["steps_dir"] or base / "steps")
    with config_loader(args) as loader:
        planner = PipelinePlanner(loader, args, pipeline, steps_dir, digests)
        graphs = [planner.graph(seed) for seed in cfg["seeds"] or [None]]
    result = cfg["result"] or list(cfg["steps"])[-1]
    nodes = list(planner.nodes.values())
    _check_components(nodes)
    return PipelinePlan(pipeline, base, steps_dir, nodes, [graph[result] for graph in graphs])


def _check_base(base: Path, output_dir: str | None, name: str) -> None:
    """The folder can be written, and holds no run.

    Args:
        output_dir: None: ``base`` is outputs/NAME, which also holds the records of other runs with this name.
    """
    output({"output_dir": output_dir, "name": name, "resume": output_dir and "auto"})
    manifest = read_manifest(base)
    if manifest and "steps" not in manifest:
        message = "this folder holds a run, not a pipeline"
        raise UserError(message, key="output_dir", value=str(base), hint="take another output_dir")


class PipelinePlanner:
    """Builds the nodes of one plan. ``nodes`` has each once, by fingerprint: seeds share steps that do not differ."""

    def __init__(
        self, loader: HydraLoader, args: Namespace, pipeline: Pipeline, steps_dir: Path, digests: dict[str, str]
    ) -> None:
        self.loader, self.args, self.pipeline = loader, args, pipeline
        self.steps_dir, self.digests = steps_dir, digests
        self.nodes: dict[str, PipelineNode] = {}

    def graph(self, seed: int | None) -> dict[str, PipelineNode]:
        """All steps under one seed, by name.

        Raises:
            UserErrors: the errors of all steps.
        """
        graph: dict[str, PipelineNode] = {}
        errors: list[UserError] = []
        for name, step in self.pipeline.steps.items():
            if not graph.keys() >= set(step.needs):
                continue
            try:
                with errors_for_step(name):
                    node = self._plan_step(name, step, seed, graph)
                graph[name] = self.nodes.setdefault(node.fingerprint, node)
            except UserError as error:
                errors += error.errors if isinstance(error, UserErrors) else [error]
        if errors:
            raise UserErrors(list(map(self._with_step_hint, errors)))
        return graph

    def _plan_step(
        self, name: str, step: PipelineStep, seed: int | None, graph: dict[str, PipelineNode]
    ) -> PipelineNode:
        needs = [graph[other] for other in step.needs]
        overrides = [_resolve_references(text, graph) for text in step.overrides(seed)]
        cfg = compose_point(self.loader, self.args, overrides).config
        _check_config(cfg, overrides, needs)
        planned = {str(node.folder.absolute()): node.fingerprint for node in needs}
        parents = provenance.find_parents(provenance.input_paths(cfg).values(), planned)
        for node in needs:
            if not node.done and is_end_of(cfg["resume_from"], node.folder):
                check_end_checkpoint(cfg, node.config)
                check_continuation(cfg, parents, node.config, node.parents, _planned_end(node.config))
        reads_a_step = provenance.replace_paths_by_fingerprint(cfg["data"], parents) != cfg["data"]
        data = "" if reads_a_step else self._data_digest(cfg)
        inputs = provenance.input_hashes(cfg, parents, planned)
        fingerprint = provenance.fingerprint(cfg, data, parents, inputs)
        if step.has_seed and all(other.seed is None for other in needs):
            seed = None  # the same under every seed
        return PipelineNode(
            step=name,
            seed=seed,
            own_overrides=step.own_overrides(),
            overrides=overrides,
            needs=needs,
            config=cfg,
            data=data,
            parents=parents,
            folder=self.steps_dir / name / fingerprint[:12],
            fingerprint=fingerprint,
            model=_checkable_model(cfg["model"], needs),
        )

    def _with_step_hint(self, error: UserError) -> UserError:
        """The error; if it comes from an override for every step, its hint shows how to set it for one."""
        key = error.key.partition(".")[2].partition(".")[2]
        for name, equals, value in (text.lstrip("+~").partition("=") for text in self.pipeline.global_overrides):
            if name == key:
                error.hint = f"for one step alone: steps.NAME.{name}{equals}{value}"
        return error

    def _data_digest(self, cfg: Config) -> str:
        key = json.dumps([cfg["data"], cfg["stage"]["_target_"]], sort_keys=True, default=str)
        if key not in self.digests:
            self.digests[key] = build_data(cfg).digest()
        return self.digests[key]


def _planned_end(cfg: Config) -> int | None:
    """The step that a run will end at; None: it may end earlier, or follows from the data."""
    is_known = not cfg["callbacks"] and cfg["stage"].get("total_tokens") is None
    steps: int | None = cfg["trainer"]["max_steps"] if is_known else None
    return steps


def _resolve_references(text: str, graph: dict[str, PipelineNode]) -> str:
    """An override in which ``${step:NAME}`` is the folder of that step."""

    def folder(reference: re.Match[str]) -> str:
        return literal(str(graph[reference[1]].folder))

    return map_texts(text, lambda _, value: REFERENCE.sub(folder, value)) if "${step:" in text else text


def _check_config(cfg: Config, overrides: list[str], needs: list[PipelineNode]) -> None:
    """Check a step's config, except for values that lie in the record of a step that has not run yet."""
    if cfg["steps"] is not None:
        raise UserError("a step is a run, not a pipeline", key="experiment")
    try:
        check_schema(cfg, overrides)
        check_rules(cfg)
    except UserErrors as error:
        leaves = provenance.flatten(cfg)
        if errors := [one for one in error.errors if not depends_on_unfinished(leaves.get(one.key), needs)]:
            raise UserErrors(errors) from None


def _check_components(nodes: list[PipelineNode]) -> None:
    """Build the nodes that will run and whose inputs exist, and check that their components fit together.

    Raises:
        UserErrors: the first error of each node.
    """
    errors: list[UserError] = []
    for node in nodes:
        cfg = node.config | {"model": node.model} | ({} if node.done else {"resume_from": None})
        if node.done or any(depends_on_unfinished(path, node.needs) for path in provenance.input_paths(cfg).values()):
            continue
        try:
            with errors_for_step(node.step):
                check_parts(cfg, build(cfg))
        except UserError as error:
            errors.append(error)
    if errors:
        raise UserErrors(errors)


def _checkable_model(model: Config, needs: Sequence[PipelineNode]) -> Config:
    """The model config with which a step can be built before the model that it reads has been trained.

    Training changes no shapes, so the model that the training starts from stands in for the trained one.
    """
    for node in needs:
        if depends_on_unfinished(model["path"], [node]):
            start = node.model
            tokenizer = model["tokenizer"] or start["tokenizer"]
            return model | {"path": start["path"], "config": start["config"], "tokenizer": tokenizer}
    return model
