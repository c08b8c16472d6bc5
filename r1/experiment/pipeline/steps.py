"""The steps of a pipeline: each a list of overrides as on a command line, and the steps that it needs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain

from r1.config.overrides import combine, override_key, parse_overrides
from r1.core.errors import UserError, UserErrors, suggest
from r1.core.provenance import PIPELINE_KEYS
from r1.core.types import Config

REFERENCE = re.compile(r"\$\{step:([^{}]*)\}")


@dataclass(frozen=True)
class PipelineStep:
    """One step of a pipeline.

    Attributes:
        shared: overrides that the pipeline's file sets for all steps.
        layers: its own overrides in layers, of which the later wins.
        needs: the steps that it refers to.
    """

    shared: list[str]
    layers: list[list[str]]
    needs: list[str] = field(default_factory=list)

    def overrides(self, seed: int | None = None) -> list[str]:
        """All overrides of its command line; a step that sets its own seed keeps it."""
        return merge_overrides(self.shared, [] if seed is None else [f"seed={seed}"], *self.layers)

    @property
    def has_seed(self) -> bool:
        """Whether it sets its own seed."""
        return any(text.startswith("seed=") for text in self.overrides())

    def own_overrides(self) -> list[str]:
        """The overrides that distinguish it from the other steps."""
        return merge_overrides(*self.layers)


@dataclass(frozen=True)
class Pipeline:
    """One pipeline of a command line.

    Attributes:
        overrides: all overrides that the user typed.
        global_overrides: those of them that every step gets.
        steps: each after those that it needs.
    """

    name: str
    config: Config
    overrides: list[str]
    global_overrides: list[str]
    steps: dict[str, PipelineStep]

    def as_yaml(self) -> Config:
        """The content of a YAML file that describes this pipeline, command line included."""
        steps = {name: step.own_overrides() for name, step in self.steps.items()}
        return {"name": self.name} | {key: self.config[key] for key in PIPELINE_KEYS} | {"steps": steps}


def merge_overrides(*layers: Sequence[str]) -> list[str]:
    """One list of overrides in which every key occurs once: the later layer wins."""
    merged: dict[str, str] = {}
    for override in chain.from_iterable(map(parse_overrides, layers)):
        key = override_key(override)
        if combined := combine(merged.get(key, ""), str(override.input_line)):
            merged[key] = combined
        else:
            del merged[key]
    return list(merged.values())


def sort_steps(steps: dict[str, PipelineStep]) -> dict[str, PipelineStep]:
    """The steps with their ``needs``, each after those that it needs, otherwise in the order of the file.

    Raises:
        UserError: a reference to an unknown step, or a cycle.
    """
    needs = {step: _references(step, steps) for step in steps}
    in_order: dict[str, PipelineStep] = {}

    def add(step: str, path: list[str]) -> None:
        if step in path:
            cycle = " -> ".join([*path[path.index(step) :], step])
            raise UserError("steps cannot wait for each other", key=f"steps.{step}", value=cycle)
        if step not in in_order:
            for needed in needs[step]:
                add(needed, [*path, step])
            in_order[step] = replace(steps[step], needs=needs[step])

    for step in steps:
        add(step, [])
    return in_order


def _references(step: str, steps: Mapping[str, PipelineStep]) -> list[str]:
    """The steps that one refers to with ``${step:NAME}``."""
    with errors_for_step(step):
        overrides = steps[step].overrides()
    needed = list(dict.fromkeys(REFERENCE.findall("\n".join(overrides))))
    for other in needed:
        if other not in steps or other == step:
            message = "a step cannot start from itself" if other == step else f"there is no step `{other}`"
            others = [known for known in steps if known != step]
            value, hint = f"${{step:{other}}}", suggest(other, others)
            raise UserError(message, key=f"steps.{step}", value=value, expected=others, hint=hint)
    return needed


@contextmanager
def errors_for_step(step: str) -> Iterator[None]:
    """Prefix the keys of errors in this block with ``steps.NAME``."""
    try:
        yield
    except UserError as error:
        for one in error.errors if isinstance(error, UserErrors) else [error]:
            is_key = re.fullmatch(r"[\w./@]+", one.key)
            one.key = f"steps.{step}.{one.key}" if is_key else f"steps.{step}"
        raise
