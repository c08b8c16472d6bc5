"""The points of a sweep, composed and checked exactly as their command lines would be, without starting one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from r1.config.check.config import check_config
from r1.config.compose import config_loader, point
from r1.config.hydra_adapter import HydraLoader
from r1.config.overrides import read
from r1.core.errors import UserError, UserErrors
from r1.core.secrets import redact
from r1.core.types import Config
from r1.experiment.pipeline.parse import pipelines, split_step_overrides
from r1.experiment.pipeline.plan import plan
from r1.experiment.sweep.points import Values

MAX_FAILED = 6  # points that fail before the rest is left alone: most mistakes are in all of them


@dataclass(frozen=True)
class Part:
    """One run of a point: its step of a pipeline (else empty), what names it, and its config."""

    step: str
    fingerprint: str
    config: Config


@dataclass(frozen=True)
class Point:
    """One point: its runs, the configs of those whose figures are its own, and the folder that it asks for."""

    values: Values
    parts: list[Part]
    results: list[Config]
    output_dir: str | None


class Composer(ExitStack):
    """Composes one point after the other; the files and datasets that they share are read once."""

    def __init__(self) -> None:
        super().__init__()
        self.loader: HydraLoader | None = None
        self.digests = dict[str, str]()

    def compose(self, values: Values, texts: Sequence[str]) -> Point:
        """One point from what stands behind ``-m r1.run``.

        Raises:
            UserErrors: everything that keeps it from running.
        """
        rest, of_step = split_step_overrides(texts)
        args, overrides = read(rest)
        if asked := pipelines(args, overrides, of_step):
            made = plan(args, asked[0], self.digests)
            parts = [Part(n.step, n.fingerprint, n.config | {"model": n.model}) for n in made.nodes]
            return Point(values, parts, [node.config for node in made.results], asked[0].config["output_dir"])
        if self.loader is None:
            self.loader = self.enter_context(config_loader(args))
        one = point(self.loader, args, [str(override.input_line) for override in overrides])
        check_config(one.config, one.overrides)
        return Point(values, [Part("", label(values), one.config)], [one.config], one.config["output_dir"])


def compose_all(asked: Sequence[tuple[Values, list[str]]]) -> tuple[list[Point], list[UserError]]:
    """The points that compose, and what is wrong with the others: each error once, with what it depends on."""
    made, failed = list[Point](), list[Values]()
    errors = dict[str, tuple[UserError, list[Values]]]()
    with Composer() as composer:
        for values, texts in asked:
            try:
                made.append(composer.compose(values, texts))
            except UserError as error:
                failed.append(values)
                for one in error.errors if isinstance(error, UserErrors) else [error]:
                    key = one.key if one.message.startswith("unknown key") else str(one)  # whatever value it was given
                    errors.setdefault(key, (one, []))[1].append(values)
            if len(failed) == MAX_FAILED:
                break
    seen = [*failed, *(point.values for point in made)]
    return made, [_labelled(error, where, seen) for error, where in errors.values()]


def _labelled(error: UserError, where: list[Values], seen: list[Values]) -> UserError:
    """The error, saying in which of the points seen it occurs, if it is not in all of them."""
    if len(where) < len(seen) or len(seen) == 1:
        same = {name: value for name, value in where[0].items() if all(values[name] == value for values in where)}
        telling = {name: value for name, value in same.items() if any(values[name] != value for values in seen)}
        if text := label(telling or where[0]):
            error.message = f"{error.message} (point {text})"
    return error


def label(values: Values) -> str:
    """A point, or what sets it apart, as it stands on a command line."""
    return str(redact(" ".join(f"{name}={value}" for name, value in values.items())))
