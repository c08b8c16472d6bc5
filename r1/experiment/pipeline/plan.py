"""From steps to nodes: each composed, checked as far as it can be, and given the fingerprint that its run will have.

A fingerprint needs no run: a step's inputs count as the fingerprints of the steps that make them.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.hydra import Hydra

from r1.config.build import build, make
from r1.config.check.components import check_parts
from r1.config.check.config import check_schema
from r1.config.check.rules import check_rules, output
from r1.config.compose import Config, hydra, point
from r1.core import provenance
from r1.core.errors import UserError, UserErrors
from r1.distributed.process import escaped
from r1.experiment.pipeline.node import Node, Plan, waits
from r1.experiment.pipeline.steps import REFERENCE, Pipeline, Step, within
from r1.train.fit import quiet


def plan(args: Namespace, pipeline: Pipeline, digests: dict[str, str]) -> Plan:
    """Compose and check every step.

    Args:
        digests: of datasets, by their config: each is built once for all seeds, and for all pipelines of a grid.

    Raises:
        UserErrors: what is wrong with any of them; what needs a wrong one is not looked at.
    """
    quiet()
    cfg = pipeline.config
    base = Path(cfg["output_dir"] or Path("outputs", pipeline.name))
    _check_base(base, pipeline.name)
    steps_dir = Path(cfg["steps_dir"] or base / "steps")
    with hydra(args) as loader:
        planner = Planner(loader, args, pipeline, steps_dir, digests)
        graphs = [planner.graph(seed) for seed in cfg["seeds"] or [None]]
    result = cfg["result"] or list(cfg["steps"])[-1]
    nodes = list(planner.found.values())
    _check_parts(nodes)
    return Plan(pipeline, base, steps_dir, nodes, [graph[result] for graph in graphs])


def _check_base(base: Path, name: str) -> None:
    output({"output_dir": str(base), "name": name, "resume": "auto"})
    held = base / "manifest.json"
    if held.is_file() and "steps" not in json.loads(held.read_text(encoding="utf-8")):
        what = "this folder holds a run, which is no pipeline"
        raise UserError(what, where="output_dir", given=str(base), do="take another output_dir")


class Planner:
    """Makes the nodes of one plan; ``found`` has each once, by its fingerprint."""

    def __init__(
        self, loader: Hydra, args: Namespace, pipeline: Pipeline, steps_dir: Path, digests: dict[str, str]
    ) -> None:
        self.loader, self.args, self.pipeline = loader, args, pipeline
        self.steps_dir, self.digests = steps_dir, digests
        self.found: dict[str, Node] = {}

    def graph(self, seed: int | None) -> dict[str, Node]:
        """All steps under one seed.

        Raises:
            UserErrors: as above.
        """
        nodes: dict[str, Node] = {}
        errors: list[UserError] = []
        for name, step in self.pipeline.steps.items():
            if not nodes.keys() >= set(step.needs):
                continue
            try:
                with within(name):
                    node = self._node(name, step, seed, nodes)
                nodes[name] = self.found.setdefault(node.fingerprint, node)
            except UserError as error:
                errors += error.errors if isinstance(error, UserErrors) else [error]
        if errors:
            raise UserErrors(list(map(self._narrowed, errors)))
        return nodes

    def _node(self, name: str, step: Step, seed: int | None, nodes: dict[str, Node]) -> Node:
        needs = [nodes[other] for other in step.needs]
        texts = [_placed(text, nodes) for text in step.overrides(seed)]
        cfg = point(self.loader, self.args, texts).config
        _check(cfg, texts, needs)
        planned = {str(node.folder.absolute()): node.fingerprint for node in needs}
        parents = provenance.parents(provenance.paths(cfg), planned)
        from_outside = provenance.by_lineage(cfg["data"], parents) == cfg["data"]
        data = self._digest(cfg) if from_outside else ""
        fingerprint = provenance.fingerprint(cfg, data, parents)
        if step.has_seed and all(other.seed is None for other in needs):
            seed = None  # the same under every seed
        folder = self.steps_dir / name / fingerprint[:12]
        model = _model(cfg["model"], needs)
        return Node(name, seed, step.essentials(), texts, needs, cfg, data, parents, folder, fingerprint, model)

    def _narrowed(self, error: UserError) -> UserError:
        """Advice where a step was given what was meant for another."""
        key = error.where.partition(".")[2].partition(".")[2]
        for name, equals, value in (text.lstrip("+~").partition("=") for text in self.pipeline.everywhere):
            if name == key:
                error.do = f"for one step alone: steps.NAME.{name}{equals}{value}"
        return error

    def _digest(self, cfg: Config) -> str:
        key = json.dumps(cfg["data"], sort_keys=True, default=str)
        if key not in self.digests:
            data = make(cfg["data"], "data", cfg)
            self.digests[key] = provenance.rows_hash(data.train, data.val)
        return self.digests[key]


def _placed(text: str, nodes: dict[str, Node]) -> str:
    """An override with the folders of the steps that it refers to."""
    return REFERENCE.sub(lambda match: escaped(str(nodes[match[1]].folder)), text)


def _check(cfg: Config, texts: list[str], needs: list[Node]) -> None:
    """All that can be known of a config while some of what it reads is yet to be made."""
    if cfg["steps"] is not None:
        raise UserError("a step is a run, not a pipeline", where="experiment")
    try:
        check_schema(cfg, texts)
        check_rules(cfg)
    except UserErrors as error:
        leaves = provenance.flat(cfg)
        if found := [one for one in error.errors if not waits(leaves.get(one.where), needs)]:
            raise UserErrors(found) from None


def _check_parts(nodes: list[Node]) -> None:
    """Build what is to run and can be built, and compare its parts.

    Raises:
        UserErrors: the first thing that does not fit, for each node.
    """
    errors: list[UserError] = []
    for node in nodes:
        cfg = node.config | {"model": node.model}
        if node.done or any(waits(path, node.needs) for path in provenance.paths(cfg)):
            continue
        try:
            with within(node.step):
                check_parts(cfg, build(cfg))
        except UserError as error:
            errors.append(error)
    if errors:
        raise UserErrors(errors)


def _model(own: Config, needs: Sequence[Node]) -> Config:
    for node in needs:
        if waits(own["path"], [node]):
            start = node.model
            tokenizer = own["tokenizer"] or start["tokenizer"]
            return own | {"path": start["path"], "config": start["config"], "tokenizer": tokenizer}
    return own
