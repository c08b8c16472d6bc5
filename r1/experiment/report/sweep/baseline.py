"""The point that a sweep's command would have been without the sweep: conf's own values of its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r1.core.errors import UserError
from r1.core.provenance import flatten
from r1.core.runs import RunRecord
from r1.experiment.report.sweep.trials import Values, plain

STEP = "steps."


def default(run: RunRecord, names: Sequence[str]) -> Values | None:
    """The values of ``names`` in the config that a run's command composes without them.

    None where there is no telling: a parameter that has no value of its own, a command that does not compose here.
    """
    kept = [text for text in run.manifest.get("overrides") or [] if _is_kept(text, names)]
    of_steps = all(name.startswith(STEP) for name in names)
    try:
        held = _of_steps(kept, {name.split(".")[1] for name in names}) if of_steps else _composed(kept)
    except (UserError, KeyError, ValueError):  # of a step: there is none, or no pipeline
        return None
    return {name: plain(held[name]) for name in names} if all(name in held for name in names) else None


def _is_kept(text: str, names: Sequence[str]) -> bool:
    """Not the sweep's own; and nothing that would read the environment or other folders for a record."""
    key = text.lstrip("+~").partition("=")[0]
    return key not in (*names, "output_dir") and not key.startswith(("hydra", "-")) and "${" not in text


def _composed(overrides: list[str]) -> dict[str, Any]:
    """The chosen options and the leaves of a run's config."""
    from r1.config.compose import points
    from r1.config.hydra_adapter import HydraConfig
    from r1.config.overrides import read

    (point,) = points(*read(overrides))
    return {**HydraConfig.get().runtime.choices, **flatten(point.config)}


def _of_steps(overrides: list[str], steps: set[str]) -> dict[str, Any]:
    """The same of some steps of a pipeline, as ``steps.NAME.KEY``."""
    from r1.config.overrides import read
    from r1.experiment.pipeline.parse import parse_pipelines, split_step_overrides

    rest, of_step = split_step_overrides(overrides)
    (pipeline,) = parse_pipelines(*read(rest), of_step)
    held: dict[str, Any] = {}
    for step in steps:
        own = [text for text in pipeline.steps[step].overrides() if "${" not in text]
        held |= {f"{STEP}{step}.{key}": value for key, value in _composed(own).items()}
    return held
