"""The points of a sweep, composed and checked exactly as their command lines would be, without starting one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from r1.config.check.config import check_config
from r1.config.compose import compose_point, config_loader
from r1.config.hydra_adapter import HydraLoader
from r1.config.overrides import parse_command_line
from r1.core.errors import UserError, UserErrors
from r1.core.secrets import redact
from r1.core.types import Config
from r1.experiment.pipeline.parse import parse_pipelines, split_step_overrides
from r1.experiment.pipeline.plan import plan_pipeline
from r1.experiment.sweep.points import Values

MAX_FAILED = 6  # points that fail before the rest is skipped: most mistakes are in all points


@dataclass(frozen=True)
class PointRun:
    """One run of a point: its step of a pipeline (else empty), a name that is unique to it, and its config."""

    step: str
    fingerprint: str
    config: Config


@dataclass(frozen=True)
class ComposedPoint:
    """One point.

    Attributes:
        runs: one, or the steps of a pipeline.
        results: the configs of the runs whose metrics count as the point's.
        output_dir: the folder that the command line sets for it.
    """

    values: Values
    runs: list[PointRun]
    results: list[Config]
    output_dir: str | None


class PointComposer(ExitStack):
    """Composes one point after the other; config files and datasets that points share are read once."""

    def __init__(self) -> None:
        super().__init__()
        self.loader: HydraLoader | None = None
        self.digests = dict[str, str]()

    def compose(self, values: Values, argv: Sequence[str]) -> ComposedPoint:
        """One point from the arguments of ``r1.run``.

        Raises:
            UserErrors: everything that keeps it from running.
        """
        argv, step_overrides = split_step_overrides(argv)
        args, overrides = parse_command_line(argv)
        if pipelines := parse_pipelines(args, overrides, step_overrides):
            plan = plan_pipeline(args, pipelines[0], self.digests)
            runs = [PointRun(node.step, node.fingerprint, node.config | {"model": node.model}) for node in plan.nodes]
            results = [node.config for node in plan.results]
            return ComposedPoint(values, runs, results, pipelines[0].config["output_dir"])
        if self.loader is None:
            self.loader = self.enter_context(config_loader(args))
        run = compose_point(self.loader, args, [str(override.input_line) for override in overrides])
        check_config(run.config, run.overrides)
        runs = [PointRun("", format_values(values), run.config)]
        return ComposedPoint(values, runs, [run.config], run.config["output_dir"])


def compose_all(points: Sequence[tuple[Values, list[str]]]) -> tuple[list[ComposedPoint], list[UserError]]:
    """The points that compose, and the errors of the others: each error once, naming the points that have it."""
    composed, failed = list[ComposedPoint](), list[Values]()
    errors = dict[str, tuple[UserError, list[Values]]]()
    with PointComposer() as composer:
        for values, argv in points:
            try:
                composed.append(composer.compose(values, argv))
            except UserError as error:
                failed.append(values)
                for one in error.errors if isinstance(error, UserErrors) else [error]:
                    # an unknown key is one error, whatever values the points give it
                    key = one.key if one.message.startswith("unknown key") else str(one)
                    errors.setdefault(key, (one, []))[1].append(values)
            if len(failed) == MAX_FAILED:
                break
    checked = [*failed, *(point.values for point in composed)]
    return composed, [_with_point(error, points_with_it, checked) for error, points_with_it in errors.values()]


def _with_point(error: UserError, points_with_it: list[Values], checked: list[Values]) -> UserError:
    """The error; if not all checked points have it, its message names the values that those with it share."""
    text = format_values(distinct_values(points_with_it, checked) or points_with_it[0])
    if text and (len(points_with_it) < len(checked) or len(checked) == 1):
        error.message = f"{error.message} (point {text})"
    return error


def distinct_values(some: Sequence[Values], points: Sequence[Values]) -> Values:
    """The values that some points have in common and others do not."""
    shared = {name: value for name, value in some[0].items() if all(point[name] == value for point in some)}
    return {name: value for name, value in shared.items() if any(point[name] != value for point in points)}


def format_values(values: Values) -> str:
    """The values of a point as on a command line, without secrets."""
    return str(redact(" ".join(f"{name}={value}" for name, value in values.items())))
