"""python -m r1.sweep FILE --check: a sweep file against W&B's format, Hydra's grammar, the config, and itself.

Every point must compose and pass the checks of a run before anything runs; then a preview of the sweep is printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from r1.config.check.config import TOP_LEVEL_TYPES
from r1.config.check.models import check_value
from r1.core import budget, provenance
from r1.core.errors import UserError, UserErrors
from r1.core.types import Config
from r1.experiment.sweep import objective as metric
from r1.experiment.sweep.compose import ComposedPoint, PointComposer, PointRun, compose_all
from r1.experiment.sweep.distributions import distribution_of
from r1.experiment.sweep.file import Sweep, load_yaml, parse_sweep
from r1.experiment.sweep.points import SEED, points_to_check
from r1.experiment.sweep.schema import sweep_file_errors


def check_sweep(path: str, workers: int = 1) -> None:
    """Check a sweep file and print its preview.

    Args:
        workers: points that run at the same time.

    Raises:
        UserErrors: everything that is wrong with it.
    """
    from r1.experiment.sweep.preview import print_preview

    print_preview(*load_and_compose(path), workers)


def load_and_compose(path: str) -> tuple[Sweep, list[ComposedPoint]]:
    """The sweep of a file, and the points that were checked.

    Raises:
        UserErrors: everything that is wrong with it.
    """
    content = load_yaml(path)
    errors = sweep_file_errors(content)
    valid = _valid_part(content, errors)
    if valid is None:
        raise UserErrors(errors)
    sweep = parse_sweep(path, valid)
    points, compose_errors = compose_all([(values, sweep.overrides(values)) for values in points_to_check(sweep)])
    errors += compose_errors
    errors += _seed_errors(sweep)
    if points:
        errors += list(_joint_errors(sweep, points))
    if errors:
        raise UserErrors(errors)
    return sweep, points


def _valid_part(content: Any, errors: Sequence[UserError]) -> Config | None:
    """The content of a file without the keys that have errors; None: not enough is left to compose a point."""
    keys = {error.key for error in errors}
    if {key.partition(".")[0] for key in keys} & {"file", "method", "command"} or "parameters" in keys:
        return None
    specs = content["parameters"]
    wrong = {name for name in specs for key in keys if f"{key}.".startswith(f"parameters.{name}.")}
    valid_specs = {name: spec for name, spec in specs.items() if name not in wrong}
    metric = {"name": "", "goal": ""} if keys & {"metric", "metric.name"} else {"goal": "", **content["metric"]}
    if "metric.goal" in keys:
        metric["goal"] = ""
    rest = {name: value for name, value in content.items() if not any(key.startswith(str(name)) for key in keys)}
    return rest | {"parameters": valid_specs, "metric": metric}


def _seed_errors(sweep: Sweep) -> list[UserError]:
    """Errors in the other seeds; points are composed with the first one only."""
    spec = sweep.parameters.get(SEED, {})
    seeds = [*spec.get("values", [])[1:], *([spec["max"]] if "max" in spec else [])]
    return [error for seed in seeds for error in check_value(seed, TOP_LEVEL_TYPES[SEED], SEED)]


def _joint_errors(sweep: Sweep, points: list[ComposedPoint]) -> Iterator[UserError]:
    """The errors of points that compose one by one."""
    results = [cfg for point in points for cfg in point.results]
    if sweep.metric:
        yield from metric.objective_errors(sweep.metric, sweep.goal, sweep.parameters, results)
        if sweep.early_terminate:
            yield from metric.hyperband_errors(sweep.early_terminate, sweep.metric, results[0])
    yield from _logger_errors(results)
    yield from _folder_errors(points)
    yield from _integer_bound_errors(sweep, points)
    runs_by_step: dict[str, list[PointRun]] = {}
    for run in (run for point in points for run in point.runs):
        runs_by_step.setdefault(run.step, []).append(run)
    for runs in runs_by_step.values():
        try:
            budget.check_equal_compute([run.config for run in runs])
        except UserError as error:
            yield error


def _logger_errors(results: Sequence[Config]) -> Iterator[UserError]:
    """Runs whose metrics W&B does not see, and dry runs."""
    logger = results[0]["logger"]
    if any(cfg["dry_run"] for cfg in results):
        yield UserError("a dry run measures nothing", key="command", value="dry_run=true", hint="leave it out")
    message = "W&B would see no metric of these runs"
    if logger["_target_"] != "r1.logger.wandb.Wandb":
        hint = "add logger=wandb; of a pipeline, for the step with its result: steps.NAME.logger=wandb"
        yield UserError(message, key="command", value=logger["_target_"], hint=hint)
    elif logger["mode"] in ("offline", "disabled"):
        yield UserError(message, key="command", value=logger["mode"], hint="leave out logger.mode")


def _folder_errors(points: Sequence[ComposedPoint]) -> Iterator[UserError]:
    folders = [point.output_dir for point in points if point.output_dir is not None]
    if len(set(folders)) < len(folders):
        message, hint = "every point needs a record of its own", "leave it out; name=NAME: outputs/NAME/<time>/"
        yield UserError(message, key="output_dir", value=folders[0], hint=hint)


def _integer_bound_errors(sweep: Sweep, points: Sequence[ComposedPoint]) -> Iterator[UserError]:
    """Whole bounds of a key that takes any number: W&B would draw whole numbers only."""
    specs = {name: spec for name, spec in sweep.parameters.items() if "distribution" not in spec}
    integer_specs = {name: spec for name, spec in specs.items() if distribution_of(spec) == "int_uniform"}
    if not integer_specs or sweep.method == "grid":
        return
    # the config without these parameters shows whether the keys hold floats
    others = {name: value for name, value in points[0].values.items() if name not in integer_specs}
    with PointComposer() as composer:
        leaves = provenance.flatten(composer.compose(others, sweep.overrides(others)).results[0])
    for name, spec in integer_specs.items():
        if isinstance(leaves.get(name), float):
            hint = f"min: {float(spec['min'])} and max: {float(spec['max'])}"
            message = f"between whole bounds W&B draws whole numbers only, and `{name}` takes others"
            yield UserError(message, key=f"parameters.{name}.min", value=spec["min"], hint=hint)
