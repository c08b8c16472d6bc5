"""From a command line to composed configs; what Hydra could not compose, in a user's words: which override is at fault,
what is allowed, and the nearest valid name.
"""

from __future__ import annotations

import itertools
import re
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]

from r1.config.hydra_adapter import (
    HydraException,
    HydraLoader,
    Override,
    open_loader,
    parse_override,
    set_hydra_config,
)
from r1.config.overrides import override_key
from r1.core import budget
from r1.core.errors import NO_KEY, UserError, UserErrors, as_yaml_null, suggest, suggest_moved_key
from r1.core.paths import CONF
from r1.core.renamed import suggest_renamed
from r1.core.types import Config

FOR_STEPS = ("steps", "shared")  # of a pipeline: overrides, composed step by step
LAUNCHERS = ("joblib", "submitit", "ray")  # the extras of r1 that hold one
budget.register_resolvers()


@dataclass(frozen=True)
class ComposedRun:
    """One run that a command line asks for: its overrides and its composed, resolved config."""

    overrides: list[str]
    config: Config


def compose_points(args: Namespace, overrides: Sequence[Override]) -> list[ComposedRun]:
    """The runs that a command line asks for: one, or every point of a grid (-m).

    A sweeper plugin chooses its points later, so what does not vary is composed once.

    Raises:
        UserError: an override does not compose.
    """
    with config_loader(args) as loader:
        if args.multirun and any(override_key(override).startswith("hydra/sweeper") for override in overrides):
            asked = [[str(override.input_line) for override in overrides if not override.is_sweep_override()]]
        else:
            asked = expand_grid(loader, args, overrides)
        return [compose_point(loader, args, texts, number) for number, texts in enumerate(asked)]


def expand_grid(loader: HydraLoader, args: Namespace, overrides: Sequence[Override]) -> list[list[str]]:
    """For each run that is asked for the text of every override, in order; without -m there is one.

    Raises:
        UserError: a sweep that is no grid.
    """
    return [
        list(texts) for texts in itertools.product(*(_sweep_choices(loader, args, override) for override in overrides))
    ]


def _sweep_choices(loader: HydraLoader, args: Namespace, override: Override) -> list[str]:
    if not (args.multirun and override.is_sweep_override()):
        return [str(override.input_line)]
    try:
        return loader.sweep_choices(override)
    except HydraException as error:
        hint = "KEY=A,B or KEY=range(A,B); an interval needs a sweeper plugin"
        raise UserError(str(error), key="-m", hint=hint) from None


@contextmanager
def config_loader(args: Namespace) -> Iterator[HydraLoader]:
    """Hydra's loader, with r1's config folder and the user's --config-dir.

    Raises:
        UserError: there is no such folder.
    """
    folder = None if args.config_dir is None else Path(args.config_dir).absolute()
    if folder and not folder.is_dir():
        hint = f"looked in {folder}"
        raise UserError("there is no such folder", key="--config-dir", value=args.config_dir, hint=hint)
    with open_loader(folder) as loader:
        yield loader


def compose_point(loader: HydraLoader, args: Namespace, texts: list[str], number: int = 0) -> ComposedRun:
    """One run, composed.

    Raises:
        UserError: which of its overrides does not compose, and why.
    """
    job = [f"hydra.job.num={number}", f"++hydra.job.id={number}"] if args.multirun else []
    _check_choices(loader, texts)
    try:
        return ComposedRun([t for t in texts if not t.lstrip("+~").startswith("hydra")], _compose(loader, texts + job))
    except UserError:
        raise
    except Exception as error:  # Hydra, OmegaConf and YAML raise many kinds
        raise UserErrors(list(_find_bad_override(loader, texts, error)) or [_config_error(error)]) from None


def _check_choices(loader: HydraLoader, texts: list[str]) -> None:
    """What Hydra would compose and nobody means: several options of one group, and the files that options share."""
    for text in texts:
        override = parse_override(text)
        key, value = override.key_or_group, override.value()
        odd = key != "experiment" if isinstance(value, list) else str(value).startswith("_")
        if odd and (options := options_of(loader, key)):  # they are found in the files, which takes its time
            raise _wrong_option(override, options, "")


def _compose(loader: HydraLoader, texts: list[str]) -> Config:
    cfg = loader.compose(texts)
    _check_hydra(OmegaConf.to_container(cfg.hydra, resolve=False))
    set_hydra_config(cfg)
    parts = {str(key): cfg[key] for key in cfg if key != "hydra"}
    return {
        key: OmegaConf.to_container(part, resolve=key not in FOR_STEPS) if OmegaConf.is_config(part) else part
        for key, part in parts.items()
    }


def _check_hydra(node: Any, where: str = "hydra") -> None:
    """Hydra builds its launcher, sweeper and callbacks itself, whatever config file names them."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if key == "_target_" and not str(value).startswith(("hydra.", "hydra_plugins.")):
            expected = "objects of hydra and hydra_plugins"
            raise UserError("a config may not build this object", key=f"{where}.{key}", value=value, expected=expected)
        _check_hydra(value, f"{where}.{key}")


def _find_bad_override(loader: HydraLoader, texts: list[str], error: Exception) -> Iterator[UserError]:
    """Add one override after the other, first those that the error does not name; what cannot be added is at fault."""
    parsed = {text: parse_override(text) for text in texts}
    groups = {text: options_of(loader, parsed[text].key_or_group) for text in texts}
    named = [text for text in texts if parsed[text].key_or_group in " ".join(_exception_texts(error))]
    good = [text for text in texts if text not in named]
    try:
        before = _compose(loader, good)
    except Exception:  # several are at fault, or none
        good, named = [], sorted(texts, key=lambda text: not groups[text])  # stable, group choices first
        before = _compose_defaults(loader)
    for text in named:
        try:
            before = _compose(loader, [*good, text])
            good.append(text)
        except UserError as wrong:
            yield wrong
        except Exception as wrong:
            yield _explain_override(parsed[text], groups[text], before, _reason(wrong))


def _compose_defaults(loader: HydraLoader) -> Config:
    """The config without any override."""
    try:
        return _compose(loader, [])
    except UserError:
        raise
    except Exception as error:
        raise _config_error(error) from None


def _explain_override(override: Override, options: list[str], before: Config, reason: str) -> UserError:
    key, form = override.key_or_group, override.type.name
    value = override.value() if form == "DEL" else as_yaml_null(override.value())
    if options:
        return _wrong_option(override, options, reason)
    if form == "ADD" and _value_at(before, key) is not None:
        return UserError(f"`{key}` is there already", key=key, value=value, hint=f"leave out the +: {key}={value}")
    *above, last = key.split(".")
    parent = _value_at(before, ".".join(above)) if above else before
    if parent is None and above and above[-1] in (_value_at(before, ".".join(above[:-1])) or {}):
        group = "/".join(above)
        hint = f"choose an option first: +{group}=NAME" if (CONF / group).is_dir() else "set it first"
        return UserError(f"`{'.'.join(above)}` is null and has no keys", key=key, value=value, hint=hint)
    if parent is not None and not isinstance(parent, dict | list):
        message = f"`{'.'.join(above)}` is a value and has no keys"
        return UserError(message, key=key, value=value, hint=f"it is now {parent!r}")
    if form in ("CHANGE", "DEL") and not (isinstance(parent, dict) and last in parent):
        return unknown_key(key, value, before)
    if "${" in str(value):
        return UserError("this interpolation leads nowhere", key=key, value=value, hint=reason)
    return UserError("this override does not compose", key=key, value=value, hint=reason)


def _wrong_option(override: Override, options: list[str], reason: str) -> UserError:
    key, value = override_key(override), as_yaml_null(override.value())
    if value not in options:
        named = bool(value) and isinstance(value, str)
        message = f"`{key}` has no option `{value}`" if named else f"`{key}` takes the name of one option"
        hint = suggest_renamed(key, value) or suggest(str(value), options)
        if isinstance(value, dict):
            hint = f"set its keys one by one: {key}.KEY=VALUE"
        if str(value).startswith("_"):
            hint = "files that start with _ hold what options share; glob(*,exclude=_*) leaves them out"
        if key.startswith("hydra/") and not hint:
            extra = str(value).partition("_")[0]
            hint = f"pip install 'r1[{extra}]'" if extra in LAUNCHERS else f"pip install hydra-{value}-{key[6:]}"
        return UserError(message, key=key, value=value, expected=options, hint=hint)
    if override.type.name == "ADD":
        return UserError(f"`{key}` is chosen already", key=key, value=value, hint=f"leave out the +: {key}={value}")
    if override.type.name == "DEL":
        return UserError(f"`{key}={value}` is not what is chosen", key=key, value=value, hint=f"~{key} leaves it out")
    if "No match in the defaults list" in reason:
        return UserError(f"`{key}` is not chosen by default", key=key, value=value, hint=f"add it: +{key}={value}")
    return UserError("this option does not compose", key=key, value=value, hint=reason)


def unknown_key(key: str, value: Any, config: Config) -> UserError:
    """An error with the keys that stand beside ``key``: those under the deepest parent that exists."""
    parts = key.split(".")
    depth = next(d for d in range(len(parts) - 1, -1, -1) if isinstance(_value_at(config, ".".join(parts[:d])), dict))
    node, prefix = _value_at(config, ".".join(parts[:depth])), "".join(f"{part}." for part in parts[:depth])
    known = sorted(str(other) for other in node if not str(other).startswith("_"))
    if not prefix:
        known = sorted({*known, *(p.relative_to(CONF).as_posix() for p in CONF.rglob("*") if p.is_dir())})
    hint = suggest_renamed(key) or options_with_key(key)
    hint = hint or suggest(parts[depth], known, prefix) or suggest_moved_key(key, config)
    if prefix == "reward.terms." and (CONF / "reward" / "terms" / f"{parts[2]}.yaml").is_file():
        hint = f"add this term first: +reward/terms@reward.terms.{parts[2]}={parts[2]}"
    message = f"unknown key `{key}`: nothing reads it"
    return UserError(message, key=key, value=value, expected=known or NO_KEY, hint=hint)


def options_with_key(key: str) -> str:
    """``stage=grpo reads it``: the other options of the same group that have this key."""
    group, _, last = key.rpartition(".")
    files = (CONF / group.replace(".", "/")).glob("*.yaml") if group else []
    found = sorted(
        file.stem
        for file in files
        if re.search(rf"^({re.escape(last)}:|  - {re.escape(last)}@)", file.read_text(), re.M)
    )
    if any(name.startswith("_") for name in found):
        return f"other options of `{group}` read it"
    return f"{group.replace('.', '/')}={' or '.join(found)} reads it" if found else ""


def _value_at(config: Any, key: str) -> Any:
    for part in key.split(".") if key else ():
        config = config.get(part) if isinstance(config, dict) else None
    return config


def options_of(loader: HydraLoader, group: str) -> list[str]:
    """The options of a group, wherever they come from; none if there is no such group."""
    return [option for option in loader.group_options(group) if not option.startswith("_")]


def _reason(error: BaseException) -> str:
    """The innermost message, without Hydra's own advice."""
    lines = [line.strip() for line in _exception_texts(error)[-1].splitlines() if line.strip()]
    noise = r"full_key:|object_type=|Available options|Config search path|provider="
    return " ".join(itertools.takewhile(lambda line: not re.match(noise, line), lines))


def _exception_texts(error: BaseException | None) -> list[str]:
    """The messages of an error and of its causes, the innermost last."""
    return [] if error is None else [str(error), *_exception_texts(error.__cause__)]


def _config_error(error: BaseException) -> UserError:
    """The config files themselves are at fault."""
    mark = getattr(error, "problem_mark", None) if isinstance(error, YAMLError) else None
    where = f"{mark.name}:{mark.line + 1}" if mark else "config files"
    return UserError("the config cannot be composed", key=where, hint=_reason(error))
