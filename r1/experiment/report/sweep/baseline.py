"""The default point of a sweep: the values that conf gives its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r1.core.errors import UserError
from r1.core.provenance import flatten
from r1.core.runs import RunRecord
from r1.experiment.report.sweep.trials import Values, normalise

STEP = "steps."


def baseline_values(run: RunRecord, names: Sequence[str]) -> Values | None:
    """The values of ``names`` in the config that a run's command composes without them.

    None where a parameter has no value there, or the command does not compose here.
    """
    inherited = [text for text in run.manifest.get("overrides") or [] if _is_inherited(text, names)]
    is_pipeline = all(name.startswith(STEP) for name in names)
    try:
        values = _of_steps(inherited, {name.split(".")[1] for name in names}) if is_pipeline else _composed(inherited)
    except (UserError, KeyError, ValueError):  # of a step: no such step, or not a pipeline
        return None
    return {name: normalise(values[name]) for name in names} if all(name in values for name in names) else None


def _is_inherited(text: str, names: Sequence[str]) -> bool:
    """Whether an override is not the sweep's and reads neither the environment nor other folders."""
    key = text.lstrip("+~").partition("=")[0]
    return key not in (*names, "output_dir") and not key.startswith(("hydra", "-")) and "${" not in text


def _composed(overrides: list[str]) -> dict[str, Any]:
    """The chosen options and the leaves of a run's config."""
    from r1.config.compose import compose_points
    from r1.config.hydra_adapter import HydraConfig
    from r1.config.overrides import parse_command_line

    (point,) = compose_points(*parse_command_line(overrides))
    return {**HydraConfig.get().runtime.choices, **flatten(point.config)}


def _of_steps(overrides: list[str], steps: set[str]) -> dict[str, Any]:
    """The same for some steps of a pipeline, as ``steps.NAME.KEY``."""
    from r1.config.overrides import parse_command_line
    from r1.experiment.pipeline.parse import parse_pipelines, split_step_overrides

    rest, of_step = split_step_overrides(overrides)
    (pipeline,) = parse_pipelines(*parse_command_line(rest), of_step)
    values: dict[str, Any] = {}
    for step in steps:
        inherited = [text for text in pipeline.steps[step].overrides() if "${" not in text]
        values |= {f"{STEP}{step}.{key}": value for key, value in _composed(inherited).items()}
    return values
