"""From steps to nodes: each composed, checked as far as it can be, and given the fingerprint that its run will have.

A fingerprint needs no run: a step's inputs count as the fingerprints of the steps that make them.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.hydra import Hydra

from r1 import provenance
from r1.build import build, make
from r1.check.config import check_schema
from r1.check.parts import check_parts
from r1.check.rules import check_rules, output
from r1.compose import Config, hydra, point
from r1.errors import UserError, UserErrors
from r1.fit import quiet
from r1.pipeline.node import Node, Plan, waits
from r1.pipeline.steps import REFERENCE, Pipeline, escaped, within


def plan(args: Namespace, pipeline: Pipeline) -> Plan:
    """Compose and check every step.

    Raises:
        UserErrors: what is wrong with any of them; what needs a wrong one is not looked at.
    """
    quiet()
    cfg = pipeline.config
    made = Plan(pipeline, Path(cfg["output_dir"] or Path("outputs", pipeline.name)))
    _check_base(made.base, pipeline.name)
    result = cfg["result"] or list(cfg["steps"])[-1]
    found: dict[str, Node] = {}  # by fingerprint
    errors: list[UserError] = []
    with hydra(args) as loader:
        for seed in cfg["seeds"] or [None]:
            nodes: dict[str, Node] = {}
            for step in pipeline.steps:
                if nodes.keys() >= set(pipeline.steps[step].needs):
                    try:
                        node = Planner(loader, args, made).node(step, seed, nodes)
                    except UserError as error:
                        errors += error.errors if isinstance(error, UserErrors) else [error]
                        continue
                    nodes[step] = found.setdefault(node.fingerprint, node)
            if errors:
                raise UserErrors(errors)
            made.results.append(nodes[result])
    made.nodes = list(found.values())
    _check_parts(made.nodes)
    return made


def _check_base(base: Path, name: str) -> None:
    output({"output_dir": str(base), "name": name, "resume": "auto"})
    held = base / "manifest.json"
    if held.is_file() and "steps" not in json.loads(held.read_text(encoding="utf-8")):
        what = "this folder holds a run, which is no pipeline"
        raise UserError(what, where="output_dir", given=str(base), do="take another output_dir")


class Planner:
    """Makes the nodes of one plan."""

    digests: dict[str, str] = {}  # noqa: RUF012  # of datasets, by their config: built once for all seeds and points

    def __init__(self, loader: Hydra, args: Namespace, plan: Plan) -> None:
        self.loader, self.args, self.plan = loader, args, plan

    def node(self, step: str, seed: int | None, nodes: dict[str, Node]) -> Node:
        """One step under one seed, once ``nodes`` has those that it needs.

        Raises:
            UserError: what is wrong with it.
        """
        asked = self.plan.pipeline.steps[step]
        texts = [
            REFERENCE.sub(lambda match: escaped(str(nodes[match[1]].folder)), text) for text in asked.overrides(seed)
        ]
        needs = [nodes[other] for other in asked.needs]
        with within(step):
            cfg = point(self.loader, self.args, texts).config
            self._check(cfg, texts, needs)
            parents = provenance.parents(
                provenance.paths(cfg), {str(node.folder.absolute()): node.fingerprint for node in needs}
            )
            made_here = provenance.by_lineage(cfg["data"], parents) == cfg["data"]
            data = self._digest(cfg) if made_here else ""
        fingerprint = provenance.fingerprint(cfg, data, parents)
        folder = self.plan.base / "steps" / step / fingerprint[:12]
        if f"seed={seed}" not in texts and all(other.seed is None for other in needs):
            seed = None  # the same under every seed
        model = _model(cfg["model"], needs)
        return Node(step, seed, asked.essentials(), texts, needs, cfg, data, parents, folder, fingerprint, model)

    def _check(self, cfg: Config, texts: list[str], needs: list[Node]) -> None:
        if cfg["steps"] is not None:
            raise UserError("a step is a run, not a pipeline", where="experiment")
        try:
            check_schema(cfg, texts)
            check_rules(cfg)
        except UserErrors as error:
            leaves = provenance.flat(cfg)
            found = [one for one in error.errors if not waits(leaves.get(one.where), needs)]
            for one in found:
                one.do = self._narrower(one.where) or one.do
            if found:
                raise UserErrors(found) from None

    def _narrower(self, key: str) -> str:
        """Advice where a step was given what was meant for another."""
        given = [text.lstrip("+~").partition("=") for text in self.plan.pipeline.everywhere]
        return next((f"for one step alone: steps.NAME.{k}={value}" for k, _, value in given if k == key), "")

    def _digest(self, cfg: Config) -> str:
        key = json.dumps(cfg["data"], sort_keys=True, default=str)
        if key not in self.digests:
            data = make(cfg["data"], "data", cfg)
            self.digests[key] = provenance.rows_hash(data.train, data.val)
        return self.digests[key]


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
