"""The steps of a pipeline: each a list of overrides, exactly as on a command line, and which needs which."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain

from r1.config.overrides import name, parsed
from r1.core.errors import UserError, UserErrors, suggest
from r1.core.provenance import PIPELINE_KEYS
from r1.core.types import Config

REFERENCE = re.compile(r"\$\{step:([^{}]*)\}")


@dataclass(frozen=True)
class PipelineStep:
    """One step: its overrides in layers, of which the later wins, and the steps that it refers to."""

    shared: list[str]
    layers: list[list[str]]
    needs: list[str] = field(default_factory=list)

    def overrides(self, seed: int | None = None) -> list[str]:
        """What its command line holds; a step that sets its own seed keeps it."""
        return merge_overrides(self.shared, [] if seed is None else [f"seed={seed}"], *self.layers)

    @property
    def has_seed(self) -> bool:
        """Whether it sets its own."""
        return any(text.startswith("seed=") for text in self.overrides())

    def own_overrides(self) -> list[str]:
        """What sets it apart from the other steps."""
        return merge_overrides(*self.layers)


@dataclass(frozen=True)
class Pipeline:
    """One pipeline that a command line asks for; ``steps`` in an order in which they can run.

    Attributes:
        overrides: what the user typed.
        everywhere: those of them that every step gets.
    """

    name: str
    config: Config
    overrides: list[str]
    global_overrides: list[str]
    steps: dict[str, PipelineStep]

    def as_yaml(self) -> Config:
        """The pipeline as the YAML file that it could have been."""
        steps = {name: step.own_overrides() for name, step in self.steps.items()}
        return {"name": self.name} | {key: self.config[key] for key in PIPELINE_KEYS} | {"steps": steps}


def merge_overrides(*layers: Sequence[str]) -> list[str]:
    """One list of overrides in which every key stands once: of several, the later wins."""
    kept: dict[str, str] = {}
    for override in chain.from_iterable(map(parsed, layers)):
        key, text = name(override), str(override.input_line)
        added = kept.get(key, "").startswith("+") and not kept[key].startswith("++")
        if added and text.startswith("~"):
            del kept[key]
        else:
            kept[key] = f"+{text}" if added and text[0] not in "+~" else text
    return list(kept.values())


def sort_steps(steps: dict[str, PipelineStep]) -> dict[str, PipelineStep]:
    """The steps with what each needs, every one behind those that it needs, else as they are.

    Raises:
        UserError: a reference to no step, or in a circle.
    """
    needs = {step: _references(step, steps) for step in steps}
    found: dict[str, PipelineStep] = {}

    def add(step: str, path: list[str]) -> None:
        if step in path:
            circle = " -> ".join([*path[path.index(step) :], step])
            raise UserError("steps cannot wait for each other", key=f"steps.{step}", value=circle)
        if step not in found:
            for needed in needs[step]:
                add(needed, [*path, step])
            found[step] = replace(steps[step], needs=needs[step])

    for step in steps:
        add(step, [])
    return found


def _references(step: str, steps: Mapping[str, PipelineStep]) -> list[str]:
    with errors_for_step(step):
        texts = steps[step].overrides()
    needed = list(dict.fromkeys(REFERENCE.findall("\n".join(texts))))
    for other in needed:
        if other not in steps or other == step:
            message = "a step cannot start from itself" if other == step else f"there is no step `{other}`"
            others = [known for known in steps if known != step]
            value, hint = f"${{step:{other}}}", suggest(other, others)
            raise UserError(message, key=f"steps.{step}", value=value, expected=others, hint=hint)
    return needed


@contextmanager
def errors_for_step(step: str) -> Iterator[None]:
    """Errors in this block are about this step."""
    try:
        yield
    except UserError as error:
        for one in error.errors if isinstance(error, UserErrors) else [error]:
            is_key = re.fullmatch(r"[\w./@]+", one.key)
            one.key = f"steps.{step}.{one.key}" if is_key else f"steps.{step}"
        raise
