"""From a command line to the pipelines that it asks for: one, the points of a grid, or none.

``steps.NAME.KEY=VALUE`` is the override ``KEY=VALUE`` of one step, which Hydra could not compose; an override that is
not the pipeline's own goes to every step.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Annotated, Any

from annotated_types import Ge, MinLen

from r1.config.compose import config_loader, grid, point
from r1.config.hydra_adapter import HydraLoader, Override
from r1.config.overrides import name, parsed
from r1.core.errors import UserError, UserErrors, as_yaml_null, suggest
from r1.core.provenance import PIPELINE_KEYS, differences
from r1.core.types import Config
from r1.experiment.pipeline.steps import Pipeline, PipelineStep, errors_for_step, sort_steps

PIPELINE_MANAGED_KEYS = ("output_dir", "resume", "dry_run")  # a step gets these from its pipeline
PIPELINE_OVERRIDES = ("experiment", "name", *PIPELINE_MANAGED_KEYS, *PIPELINE_KEYS)  # overrides of the pipeline itself
STEP_OVERRIDE = re.compile(r"([+~]{0,2})steps\.(\w+)\.(.+)", re.DOTALL)
PIPELINE_TYPES: dict[str, Any] = {
    "shared": list[str],
    "seeds": Annotated[list[Annotated[int, Ge(0)]], MinLen(1)] | None,
    "workers": Annotated[int, Ge(1)],
    "result": str | None,
    "page": dict[str, Any] | None,
    "steps_dir": Annotated[str, MinLen(1)] | None,
    "name": Annotated[str, MinLen(1)] | None,
    "output_dir": Annotated[str, MinLen(1)] | None,
    "dry_run": bool,
}


def split_step_overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Take ``steps.NAME.KEY=VALUE`` off a command line: the rest, and ``KEY=VALUE`` by step."""
    rest, of_step = list[str](), dict[str, list[str]]()
    for text in argv:
        if found := STEP_OVERRIDE.fullmatch(text):
            prefix, step, override = found.groups()
            of_step.setdefault(step, []).append(prefix + override)
        else:
            rest.append(text)
    return rest, of_step


def parse_pipelines(args: Namespace, overrides: Sequence[Override], of_step: Mapping[str, list[str]]) -> list[Pipeline]:
    """The pipelines that a command line asks for, one for each point of a grid (-m); none: it asks for runs.

    Args:
        overrides: what is left of the command line by ``split_step_overrides``.
        of_step: what it took off.

    Raises:
        UserError: what is wrong with a pipeline, apart from what its steps make of their overrides.
    """
    keys = [name(override).partition(".")[0] for override in overrides]
    if not of_step and not {"experiment", "steps"} & set(keys):
        return []
    theirs = _parse_step_overrides(of_step, bool(args.multirun))
    found: list[Pipeline | None] = []
    with config_loader(args) as loader:
        for number, texts in enumerate(grid(loader, args, [*overrides, *(override for _, override in theirs)])):
            typed = list(zip(keys, texts, strict=False))
            own = [text for key, text in typed if _is_pipeline_override(key)]
            everywhere = [text for key, text in typed if not _is_pipeline_override(key)]
            single = [(step, text) for (step, _), text in zip(theirs, texts[len(keys) :], strict=True)]
            found.append(_pipeline(loader, args, own, everywhere, single, number))
    asked = [pipeline for pipeline in found if pipeline]
    if asked and len(asked) < len(found):
        raise UserError("a sweep is over runs or over pipelines, not over both", key="experiment")
    if asked and any(key.startswith(("hydra/sweeper", "hydra/launcher")) for key in keys):
        hint = "leave out hydra/sweeper and hydra/launcher"
        raise UserError("a sweep over pipelines is a grid, run point by point", key="-m", hint=hint)
    return asked


def _parse_step_overrides(of_step: Mapping[str, list[str]], multirun: bool) -> list[tuple[str, Override]]:
    found: list[tuple[str, Override]] = []
    for step, texts in of_step.items():
        with errors_for_step(step):
            found += [(step, override) for override in parsed(texts, multirun)]
    return found


def _is_pipeline_override(key: str) -> bool:
    return key in PIPELINE_OVERRIDES or key.startswith("hydra")


def _pipeline(
    loader: HydraLoader,
    args: Namespace,
    own: list[str],
    everywhere: list[str],
    single: list[tuple[str, str]],
    number: int,
) -> Pipeline | None:
    """One pipeline; None: ``own`` chooses none."""
    cfg = point(loader, args, own, number).config
    if cfg["steps"] is None:
        if single:
            message = "no pipeline is chosen, so there are no steps"
            raise UserError(message, key=f"steps.{single[0][0]}", hint="experiment=NAME of a pipeline")
        return None
    _check_pipeline(cfg, everywhere)
    _check_unused_keys(cfg, point(loader, args, [], number).config)
    steps = {}
    for step, texts in cfg["steps"].items():
        with errors_for_step(step):
            layers = [texts, everywhere, [text for other, text in single if other == step]]
            _check_step_keys(chain(cfg["shared"], *layers))
            steps[step] = PipelineStep(cfg["shared"], layers)
    for step, text in single:
        if step not in steps:
            where, hint = f"steps.{step}", suggest(step, steps, "steps.")
            raise UserError(f"there is no step `{step}`", key=where, value=text, expected=steps, hint=hint)
    typed = [*own, *everywhere, *(_as_typed(step, text) for step, text in single)]
    return Pipeline(cfg["name"] or _experiment_name(own), cfg, typed, everywhere, sort_steps(steps))


def _experiment_name(own: list[str]) -> str:
    """The experiment's."""
    chosen = [text.partition("=")[2] for text in own if text.lstrip("+").startswith("experiment=")]
    return "_".join(re.findall(r"[\w-]+", "".join(chosen))) or "pipeline"


def _as_typed(step: str, text: str) -> str:
    override = text.lstrip("+~")
    return f"{text[: len(text) - len(override)]}steps.{step}.{override}"


def _check_pipeline(cfg: Config, everywhere: list[str]) -> None:
    from r1.config.check.schema import check_value, problems

    steps = cfg["steps"]
    if not isinstance(steps, dict) or not steps:
        raise UserError(
            "a pipeline has steps", key="steps", value=as_yaml_null(steps), expected="NAME: [overrides of a run]"
        )
    found = [error for key, hint in PIPELINE_TYPES.items() for error in check_value(cfg[key], hint, key)]
    found += [error for step, texts in steps.items() for error in check_value(texts, list[str], f"steps.{step}")]
    for step in steps:
        if not re.fullmatch(r"[A-Za-z]\w*", str(step)):
            message, expected = "a step's name is a word", "letters, digits and _"
            found.append(UserError(message, key="steps", value=step, expected=expected))
    if cfg["result"] is not None and cfg["result"] not in steps:
        do = suggest(str(cfg["result"]), steps)
        found.append(UserError("there is no such step", key="result", value=cfg["result"], expected=steps, hint=do))
    if isinstance(cfg["page"], dict):
        found += problems({"_target_": None} | cfg["page"], "page", cfg["extensions"])
    if cfg["seeds"] is not None and any(text.lstrip("+").startswith("seed=") for text in everywhere):
        found.append(UserError("this pipeline runs once for each of its `seeds`", key="seed", hint="seeds=[N]"))
    if found:
        raise UserErrors(found)


def _check_unused_keys(cfg: Config, default: Config) -> None:
    """What a pipeline's file sets outside its steps, no run would ever read."""
    for key, _, value in differences(default, cfg):
        if key.partition(".")[0] not in (*PIPELINE_OVERRIDES, "extensions"):  # of the page
            hint = f"put it into the step that needs it, or for every step: shared: [{key}={value}]"
            raise UserError(f"a pipeline sets `{key}`, which none of its steps would read", key=key, hint=hint)


def _check_step_keys(texts: Iterable[str]) -> None:
    for text in texts:
        key = text.lstrip("+~").partition("=")[0]
        if key in (*PIPELINE_MANAGED_KEYS, *PIPELINE_KEYS) or key.startswith("hydra"):
            hint = f"{key} is set for the whole pipeline" if key in PIPELINE_MANAGED_KEYS else "leave it out"
            raise UserError("a step does not decide this", key=key, value=text, hint=hint)
