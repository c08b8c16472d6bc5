"""From a command line to its pipelines: one, the points of a grid, or none.

``steps.NAME.KEY=VALUE`` is the override ``KEY=VALUE`` of one step, which Hydra could not compose. An override of a key
that is not the pipeline's goes to every step.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from r1.config.compose import compose_point, config_loader, expand_grid
from r1.config.hydra_adapter import HydraLoader, Override
from r1.config.overrides import override_key, parse_overrides
from r1.core.errors import UserError, UserErrors, as_yaml_null, suggest
from r1.core.provenance import PIPELINE_KEYS, differences
from r1.core.types import Config
from r1.experiment.pipeline.steps import Pipeline, PipelineStep, errors_for_step, sort_steps

PIPELINE_MANAGED_KEYS = ("output_dir", "resume", "dry_run")  # a step gets these from its pipeline
PIPELINE_OVERRIDES = ("experiment", "name", *PIPELINE_MANAGED_KEYS, *PIPELINE_KEYS)  # keys of the pipeline itself
STEP_OVERRIDE = re.compile(r"([+~]{0,2})steps\.(\w+)\.(.+)", re.DOTALL)


@dataclass(frozen=True)
class ScopedOverrides:
    """The overrides of one point of a command line: for the pipeline, for every step, and (step, override) for one."""

    pipeline: list[str]
    all_steps: list[str]
    one_step: list[tuple[str, str]]

    def as_typed(self) -> list[str]:
        return [*self.pipeline, *self.all_steps, *(_prefix_step(step, text) for step, text in self.one_step)]


def split_step_overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Split a command line into ``KEY=VALUE`` by step, from ``steps.NAME.KEY=VALUE``, and all other arguments."""
    others, step_overrides = list[str](), dict[str, list[str]]()
    for text in argv:
        if match := STEP_OVERRIDE.fullmatch(text):
            prefix, step, override = match.groups()
            step_overrides.setdefault(step, []).append(prefix + override)
        else:
            others.append(text)
    return others, step_overrides


def parse_pipelines(
    args: Namespace, overrides: Sequence[Override], step_overrides: Mapping[str, list[str]]
) -> list[Pipeline]:
    """The pipelines of a command line, one for each point of a grid (-m); empty: it starts runs.

    Args:
        overrides, step_overrides: the two parts that ``split_step_overrides`` returns.

    Raises:
        UserError: a pipeline is invalid. The overrides of its steps are composed later, by ``plan_pipeline``.
    """
    keys = [override_key(override).partition(".")[0] for override in overrides]
    if not step_overrides and not {"experiment", "steps"} & set(keys):
        return []
    for_steps = _parse_step_overrides(step_overrides, bool(args.multirun))
    points: list[Pipeline | None] = []
    with config_loader(args) as loader:
        # the grid is over both parts: `-m steps.sft.stage.lr=1e-4,1e-3` has two points
        for number, texts in enumerate(
            expand_grid(loader, args, [*overrides, *(override for _, override in for_steps)])
        ):
            keyed = list(zip(keys, texts, strict=False))
            scoped = ScopedOverrides(
                pipeline=[text for key, text in keyed if _is_pipeline_override(key)],
                all_steps=[text for key, text in keyed if not _is_pipeline_override(key)],
                one_step=[(step, text) for (step, _), text in zip(for_steps, texts[len(keys) :], strict=True)],
            )
            points.append(_compose_pipeline(loader, args, scoped, number))
    pipelines = [pipeline for pipeline in points if pipeline]
    if pipelines and len(pipelines) < len(points):
        raise UserError("a sweep is over runs or over pipelines, not over both", key="experiment")
    if pipelines and any(key.startswith(("hydra/sweeper", "hydra/launcher")) for key in keys):
        hint = "leave out hydra/sweeper and hydra/launcher"
        raise UserError("a sweep over pipelines is a grid, run point by point", key="-m", hint=hint)
    return pipelines


def _parse_step_overrides(step_overrides: Mapping[str, list[str]], multirun: bool) -> list[tuple[str, Override]]:
    pairs: list[tuple[str, Override]] = []
    for step, texts in step_overrides.items():
        with errors_for_step(step):
            pairs += [(step, override) for override in parse_overrides(texts, multirun)]
    return pairs


def _is_pipeline_override(key: str) -> bool:
    return key in PIPELINE_OVERRIDES or key.startswith("hydra")


def _compose_pipeline(loader: HydraLoader, args: Namespace, scoped: ScopedOverrides, number: int) -> Pipeline | None:
    """One pipeline; None: its overrides choose none.

    Args:
        number: of the point in the grid.
    """
    cfg = compose_point(loader, args, scoped.pipeline, number).config
    if cfg["steps"] is None:
        if scoped.one_step:
            message = "no pipeline is chosen, so there are no steps"
            raise UserError(message, key=f"steps.{scoped.one_step[0][0]}", hint="experiment=NAME of a pipeline")
        return None
    _check_pipeline(cfg, scoped.all_steps)
    _check_unused_keys(cfg, compose_point(loader, args, [], number).config)
    steps = {}
    for step, texts in cfg["steps"].items():
        with errors_for_step(step):
            layers = [texts, scoped.all_steps, [text for other, text in scoped.one_step if other == step]]
            _check_step_keys(chain(cfg["shared"], *layers))
            steps[step] = PipelineStep(cfg["shared"], layers)
    for step, text in scoped.one_step:
        if step not in steps:
            key, hint = f"steps.{step}", suggest(step, steps, "steps.")
            raise UserError(f"there is no step `{step}`", key=key, value=text, expected=steps, hint=hint)
    pipeline_name = cfg["name"] or _experiment_name(scoped.pipeline)
    return Pipeline(pipeline_name, cfg, scoped.as_typed(), scoped.all_steps, sort_steps(steps))


def _experiment_name(overrides: list[str]) -> str:
    """The name of the chosen experiment, usable as a folder's."""
    chosen = [text.partition("=")[2] for text in overrides if text.lstrip("+").startswith("experiment=")]
    return "_".join(re.findall(r"[\w-]+", "".join(chosen))) or "pipeline"


def _prefix_step(step: str, text: str) -> str:
    """``+a=1`` of a step as it was typed: ``+steps.NAME.a=1``."""
    override = text.lstrip("+~")
    return f"{text[: len(text) - len(override)]}steps.{step}.{override}"


def _check_pipeline(cfg: Config, global_overrides: list[str]) -> None:
    from r1.config.check.config import TOP_LEVEL_TYPES
    from r1.config.check.models import check_node, check_value

    steps = cfg["steps"]
    if not isinstance(steps, dict) or not steps:
        message, expected = "a pipeline has steps", "NAME: [overrides of a run]"
        raise UserError(message, key="steps", value=as_yaml_null(steps), expected=expected)
    keys = [key for key in TOP_LEVEL_TYPES if key in PIPELINE_OVERRIDES and key != "steps"]
    errors = [error for key in keys for error in check_value(cfg[key], TOP_LEVEL_TYPES[key], key)]
    errors += [error for step, texts in steps.items() for error in check_value(texts, list[str], f"steps.{step}")]
    for step in steps:
        if not re.fullmatch(r"[A-Za-z]\w*", str(step)):
            message, expected = "a step's name is a word", "letters, digits and _"
            errors.append(UserError(message, key="steps", value=step, expected=expected))
    if cfg["result"] is not None and cfg["result"] not in steps:
        message, hint = "there is no such step", suggest(str(cfg["result"]), steps)
        errors.append(UserError(message, key="result", value=cfg["result"], expected=steps, hint=hint))
    if isinstance(cfg["page"], dict):
        errors += check_node({"_target_": None} | cfg["page"], "page", cfg["extensions"])
    if cfg["seeds"] is not None and any(text.lstrip("+").startswith("seed=") for text in global_overrides):
        errors.append(UserError("this pipeline runs once for each of its `seeds`", key="seed", hint="seeds=[N]"))
    if errors:
        raise UserErrors(errors)


def _check_unused_keys(cfg: Config, default: Config) -> None:
    """Refuse keys that a pipeline's file sets outside its steps: no run would read them."""
    for key, _, value in differences(default, cfg):
        if key.partition(".")[0] not in (*PIPELINE_OVERRIDES, "extensions"):  # extensions: of the page
            hint = f"put it into the step that needs it, or for every step: shared: [{key}={value}]"
            raise UserError(f"a pipeline sets `{key}`, which none of its steps would read", key=key, hint=hint)


def _check_step_keys(overrides: Iterable[str]) -> None:
    for text in overrides:
        key = text.lstrip("+~").partition("=")[0]
        if key in (*PIPELINE_MANAGED_KEYS, *PIPELINE_KEYS) or key.startswith("hydra"):
            hint = f"{key} is set for the whole pipeline" if key in PIPELINE_MANAGED_KEYS else "leave it out"
            raise UserError("a step does not decide this", key=key, value=text, hint=hint)
