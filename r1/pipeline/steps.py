"""From a command line and a pipeline's YAML to its steps: the overrides of each, and which needs which.

Nothing is composed here but the pipeline itself: a step is a list of overrides, exactly as on a command line.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Annotated, Any

from annotated_types import Ge, MinLen
from hydra._internal.hydra import Hydra
from hydra.core.override_parser.types import Override

from r1.compose import Config, grid, hydra, point
from r1.errors import UserError, UserErrors, nearest
from r1.overrides import name, parsed
from r1.provenance import PIPELINE, differences

PLACES = ("output_dir", "resume", "dry_run")  # a step gets these from its pipeline
OWN = ("experiment", "name", *PLACES, *PIPELINE)  # overrides of the pipeline itself, all others are its steps'
OF_STEP = re.compile(r"([+~]{0,2})steps\.(\w+)\.(.+)", re.DOTALL)
REFERENCE = re.compile(r"\$\{step:([^{}]*)\}")
TYPES: dict[str, Any] = {
    "shared": list[str],
    "seeds": Annotated[list[Annotated[int, Ge(0)]], MinLen(1)] | None,
    "workers": Annotated[int, Ge(1)],
    "result": str | None,
    "name": Annotated[str, MinLen(1)] | None,
    "output_dir": Annotated[str, MinLen(1)] | None,
    "dry_run": bool,
}


@dataclass(frozen=True)
class Step:
    """One step: its overrides in layers, of which the later wins, and the steps that it refers to."""

    shared: list[str]
    layers: list[list[str]]
    needs: list[str] = field(default_factory=list)

    def overrides(self, seed: int | None = None) -> list[str]:
        """What its command line holds; a step that sets its own seed keeps it."""
        return merged(self.shared, [] if seed is None else [f"seed={seed}"], *self.layers)

    def essentials(self) -> list[str]:
        """What sets it apart from the other steps."""
        return merged(*self.layers)


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
    everywhere: list[str]
    steps: dict[str, Step]

    def written(self) -> Config:
        """The pipeline as the YAML file that it could have been."""
        steps = {name: step.essentials() for name, step in self.steps.items()}
        return {"name": self.name} | {key: self.config[key] for key in PIPELINE} | {"steps": steps}


def peel(argv: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Take ``steps.NAME.KEY=VALUE`` off a command line: the rest, and ``KEY=VALUE`` by step."""
    rest, of_step = list[str](), dict[str, list[str]]()
    for text in argv:
        if found := OF_STEP.fullmatch(text):
            prefix, step, override = found.groups()
            of_step.setdefault(step, []).append(prefix + override)
        else:
            rest.append(text)
    return rest, of_step


def pipelines(args: Namespace, overrides: Sequence[Override], of_step: Mapping[str, list[str]]) -> list[Pipeline]:
    """The pipelines that a command line asks for, one for each point of a grid (-m); none: it asks for runs.

    Raises:
        UserError: what is wrong with the pipeline, apart from what each step makes of its overrides.
    """
    keys = [name(override).partition(".")[0] for override in overrides]
    if not of_step and not {"experiment", "steps"} & set(keys):
        return []
    theirs: list[tuple[str, Override]] = []
    for step, texts in of_step.items():
        with within(step):
            theirs += [(step, override) for override in parsed(texts, bool(args.multirun))]
    found: list[Pipeline | None] = []
    with hydra(args) as loader:
        for number, texts in enumerate(grid(loader, args, [*overrides, *(override for _, override in theirs)])):
            own = [text for key, text in zip(keys, texts, strict=False) if _is_own(key)]
            everywhere = [text for key, text in zip(keys, texts, strict=False) if not _is_own(key)]
            single: dict[str, list[str]] = {}
            for (step, _), text in zip(theirs, texts[len(keys) :], strict=True):
                single.setdefault(step, []).append(text)
            found.append(_pipeline(loader, args, own, everywhere, single, number))
    asked = [pipeline for pipeline in found if pipeline]
    if asked and len(asked) < len(found):
        raise UserError("a sweep is over runs or over pipelines, not over both", where="experiment")
    if asked and any("hydra/sweeper" in key or "hydra/launcher" in key for key in keys):
        raise UserError("a sweep over a pipeline is a grid, run point by point", where="-m", do="leave out hydra/...")
    return asked


def _is_own(key: str) -> bool:
    return key in OWN or key.startswith("hydra")


def _pipeline(
    loader: Hydra, args: Namespace, own: list[str], everywhere: list[str], single: dict[str, list[str]], number: int
) -> Pipeline | None:
    cfg = point(loader, args, own, number).config
    if cfg["steps"] is None:
        if single:
            what = "there are no steps: this experiment is no pipeline"
            raise UserError(what, where=f"steps.{next(iter(single))}", do="experiment=NAME, of a pipeline")
        return None
    _check(cfg, everywhere)
    _check_strays(cfg, point(loader, args, [], number).config)
    if unknown := [step for step in single if step not in cfg["steps"]]:
        where, do = f"steps.{unknown[0]}", nearest(unknown[0], cfg["steps"], "steps.")
        raise UserError(f"there is no step `{unknown[0]}`", where=where, allowed=cfg["steps"], do=do)
    steps = {}
    for step, texts in cfg["steps"].items():
        with within(step):
            layers = [texts, everywhere, single.get(step, [])]
            _check_places(chain(cfg["shared"], *layers))
            steps[step] = Step(cfg["shared"], layers)
    chosen = [text.partition("=")[2] for text in own if text.lstrip("+").startswith("experiment=")]
    typed = [*own, *everywhere, *(_typed(step, text) for step, texts in single.items() for text in texts)]
    return Pipeline(cfg["name"] or "_".join(re.findall(r"\w+", "".join(chosen))) or "pipeline", cfg, typed, everywhere, ordered(steps))


def _typed(step: str, text: str) -> str:
    prefix, override = re.fullmatch(r"([+~]*)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{prefix}steps.{step}.{override}"


def _check(cfg: Config, everywhere: list[str]) -> None:
    from r1.check.schema import check_value

    steps = cfg["steps"]
    if not isinstance(steps, dict) or not steps:
        raise UserError("a pipeline has steps", where="steps", given=steps, allowed="NAME: [overrides of a run]")
    found = [error for key, hint in TYPES.items() for error in check_value(cfg[key], hint, key)]
    found += [error for step, texts in steps.items() for error in check_value(texts, list[str], f"steps.{step}")]
    for step in steps:
        if not re.fullmatch(r"[A-Za-z]\w*", str(step)):
            what, allowed = "a step's name is a word", "letters, digits and _"
            found.append(UserError(what, where="steps", given=step, allowed=allowed))
    if cfg["result"] is not None and cfg["result"] not in steps:
        do = nearest(str(cfg["result"]), steps)
        found.append(UserError("there is no such step", where="result", given=cfg["result"], allowed=steps, do=do))
    if cfg["seeds"] is not None and any(text.lstrip("+").startswith("seed=") for text in everywhere):
        found.append(UserError("this pipeline runs once for each of its `seeds`", where="seed", do="seeds=[N]"))
    if found:
        raise UserErrors(found)


def _check_strays(cfg: Config, default: Config) -> None:
    """What a pipeline's file sets outside its steps, no run would ever read."""
    for key, _, value in differences(default, cfg):
        if key.partition(".")[0] not in OWN:
            do = f"put it into the step that needs it, or for every step: shared: [{key}={value}]"
            raise UserError(f"a pipeline sets `{key}`, which none of its steps would read", where=key, do=do)


def _check_places(texts: Iterator[str]) -> None:
    for text in texts:
        key = text.lstrip("+~").partition("=")[0]
        if key in (*PLACES, *PIPELINE) or key.startswith("hydra"):
            do = f"{key} is set for the whole pipeline" if key in PLACES else "leave it out"
            raise UserError("a step does not decide this", where=key, given=text, do=do)


def merged(*layers: Sequence[str]) -> list[str]:
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


def ordered(steps: dict[str, Step]) -> dict[str, Step]:
    """The steps with what each needs, every one behind those that it needs, else as they are.

    Raises:
        UserError: a reference to no step, or in a circle.
    """
    needs = {step: _references(step, texts.overrides(), steps) for step, texts in steps.items()}
    found: dict[str, Step] = {}

    def add(step: str, path: list[str]) -> None:
        if step in path:
            circle = " -> ".join([*path[path.index(step) :], step])
            raise UserError("steps cannot wait for each other", where=f"steps.{step}", given=circle)
        if step not in found:
            for needed in needs[step]:
                add(needed, [*path, step])
            found[step] = Step(steps[step].shared, steps[step].layers, needs[step])

    for step in steps:
        add(step, [])
    return found


def _references(step: str, texts: Sequence[str], steps: Mapping[str, Step]) -> list[str]:
    needed = list(dict.fromkeys(REFERENCE.findall("\n".join(texts))))
    for other in needed:
        if other not in steps or other == step:
            what = "a step cannot start from itself" if other == step else f"there is no step `{other}`"
            others = [known for known in steps if known != step]
            given, do = f"${{step:{other}}}", nearest(other, others)
            raise UserError(what, where=f"steps.{step}", given=given, allowed=others, do=do)
    return needed


@contextmanager
def within(step: str) -> Iterator[None]:
    """Errors in this block are about this step."""
    try:
        yield
    except UserError as error:
        for one in error.errors if isinstance(error, UserErrors) else [error]:
            link = "." if re.fullmatch(r"[\w./@]+", one.where) else ": "
            one.where = f"steps.{step}{link}{one.where}" if one.where else f"steps.{step}"
        raise
