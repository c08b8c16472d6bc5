"""python -m r1.sweep FILE --check: a sweep file against W&B's format, Hydra's grammar, the config, and itself.

Every point must compose and pass the checks of a run, before anything runs; then what the sweep comes to is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from r1.config.check.config import TOP_LEVEL_TYPES
from r1.config.check.schema import check_value
from r1.core import budget, provenance
from r1.core.errors import UserError, UserErrors
from r1.core.types import Config
from r1.experiment.sweep import file, schema
from r1.experiment.sweep import objective as metric
from r1.experiment.sweep.compose import Composer, Part, Point, compose_all
from r1.experiment.sweep.file import Sweep
from r1.experiment.sweep.parameters import distribution
from r1.experiment.sweep.points import SEED, points_to_check


def check(path: str, workers: int = 1) -> None:
    """Check a sweep file and print what it comes to.

    Args:
        workers: points that run at the same time.

    Raises:
        UserErrors: everything that is wrong with it.
    """
    from r1.experiment.sweep.preview import show

    show(*checked_sweep(path), workers)


def checked_sweep(path: str) -> tuple[Sweep, list[Point]]:
    """The sweep of a file, and the points that were looked at.

    Raises:
        UserErrors: everything that is wrong with it.
    """
    held = file.load(path)
    found = schema.problems(held)
    sound = _valid_part(held, found)
    if sound is None:
        raise UserErrors(found)
    sweep = file.sweep(path, sound)
    points, wrong = compose_all([(values, sweep.overrides(values)) for values in points_to_check(sweep)])
    found += wrong
    found += _seeds(sweep)
    if points:
        found += list(_check_points_jointly(sweep, points))
    if found:
        raise UserErrors(found)
    return sweep, points


def _valid_part(held: Any, found: Sequence[UserError]) -> Config | None:
    """What of a file points can be composed of: it without what is wrong; None: nothing."""
    places = {error.key for error in found}
    if {place.partition(".")[0] for place in places} & {"file", "method", "command"} or "parameters" in places:
        return None
    specs = held["parameters"]
    kept = {name: spec for name, spec in specs.items() if not any(_lies_in(place, name) for place in places)}
    measure = {"name": "", "goal": ""} if places & {"metric", "metric.name"} else {"goal": "", **held["metric"]}
    if "metric.goal" in places:
        measure["goal"] = ""
    rest = {key: value for key, value in held.items() if not any(place.startswith(str(key)) for place in places)}
    return rest | {"parameters": kept, "metric": measure}


def _lies_in(place: str, name: str) -> bool:
    return place == f"parameters.{name}" or place.startswith(f"parameters.{name}.")


def _seeds(sweep: Sweep) -> list[UserError]:
    """Points are composed with the first seed; whether the others are seeds needs no config."""
    spec = sweep.parameters.get(SEED, {})
    rest = [*spec.get("values", [])[1:], *([spec["max"]] if "max" in spec else [])]
    return [error for value in rest for error in check_value(value, TOP_LEVEL_TYPES[SEED], SEED)]


def _check_points_jointly(sweep: Sweep, points: list[Point]) -> Iterator[UserError]:
    """What is wrong with points that compose one by one."""
    results = [cfg for point in points for cfg in point.results]
    if sweep.metric:
        yield from metric.problems(sweep.metric, sweep.goal, sweep.parameters, results)
        if sweep.early_terminate:
            yield from metric.hyperband(sweep.early_terminate, sweep.metric, results[0])
    yield from _check_logger(results)
    yield from _folders(points)
    yield from _whole(sweep, points)
    for step in dict.fromkeys(part.step for point in points for part in point.parts):
        try:
            budget.check_equal_compute([part.config for part in _parts(points) if part.step == step])
        except UserError as error:
            yield error


def _parts(points: Sequence[Point]) -> list[Part]:
    return [part for point in points for part in point.parts]


def _check_logger(results: Sequence[Config]) -> Iterator[UserError]:
    """Whether W&B sees the runs that have the figures, and whether they run at all."""
    logger = results[0]["logger"]
    if any(cfg["dry_run"] for cfg in results):
        yield UserError("a dry run measures nothing", key="command", value="dry_run=true", hint="leave it out")
    if logger["_target_"] != "r1.logger.wandb.Wandb":
        hint = "add logger=wandb; of a pipeline, for the step with its result: steps.NAME.logger=wandb"
        yield UserError("W&B would see no metric of these runs", key="command", value=logger["_target_"], hint=hint)
    elif logger["mode"] in ("offline", "disabled"):
        hint = "leave out logger.mode"
        yield UserError("W&B would see no metric of these runs", key="command", value=logger["mode"], hint=hint)


def _folders(points: Sequence[Point]) -> Iterator[UserError]:
    folders = [point.output_dir for point in points if point.output_dir is not None]
    if len(set(folders)) < len(folders):
        message = "every point needs a record of its own"
        yield UserError(
            message, key="output_dir", value=folders[0], hint="leave it out; name=NAME: outputs/NAME/<time>/"
        )


def _whole(sweep: Sweep, points: Sequence[Point]) -> Iterator[UserError]:
    """Whole bounds of a knob that is no whole number: W&B would draw nothing between them."""
    specs = {name: spec for name, spec in sweep.parameters.items() if "distribution" not in spec}
    whole = {name: spec for name, spec in specs.items() if distribution(spec) == "int_uniform"}
    if not whole or sweep.method == "grid":
        return
    others = {name: value for name, value in points[0].values.items() if name not in whole}
    with Composer() as composer:
        leaves = provenance.flatten(composer.compose(others, sweep.overrides(others)).results[0])
    for name, spec in whole.items():
        if isinstance(leaves.get(name), float):
            hint = f"min: {float(spec['min'])} and max: {float(spec['max'])}"
            message = f"between whole bounds W&B draws whole numbers only, and `{name}` takes others"
            yield UserError(message, key=f"parameters.{name}.min", value=spec["min"], hint=hint)
