"""From a command line to composed configs.

Where Hydra cannot compose one, the error names the override at fault, the accepted values and the nearest valid name.
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
from yaml import MarkedYAMLError  # type: ignore[import-untyped]

from r1.config.hydra_adapter import (
    HydraException,
    HydraLoader,
    Override,
    open_loader,
    parse_override,
    set_hydra_config,
)
from r1.config.interpolation import check_interpolations
from r1.config.overrides import override_key
from r1.core import budget
from r1.core.errors import NO_KEY, UserError, UserErrors, as_yaml_null, suggest, suggest_moved_key
from r1.core.paths import CONF
from r1.core.renamed import suggest_renamed
from r1.core.secrets import remember_secrets
from r1.core.types import Config
from r1.model.recipe import recipe_value

UNRESOLVED = ("steps", "shared")  # overrides of a pipeline's steps, which are composed step by step
LIST_GROUPS = ("experiment", "callbacks")  # groups of which several options may be chosen
LAUNCHERS = ("joblib", "submitit", "ray")  # extras of r1 that install one


def _resolve_recipe(key: str, *, _root_: Any) -> float | int | None:
    """The value for a model of this size, from ``model.recipe``."""
    return recipe_value(_root_.get("model") or {}, key, _root_.get("stage") or {})


RESOLVERS = {**budget.RESOLVERS, "recipe": _resolve_recipe}
for _name, _function in RESOLVERS.items():
    OmegaConf.register_new_resolver(_name, _function, replace=True)


@dataclass(frozen=True)
class ComposedRun:
    """One run of a command line: its overrides and its composed, resolved config."""

    overrides: list[str]
    config: Config


def compose_points(args: Namespace, overrides: Sequence[Override]) -> list[ComposedRun]:
    """The runs of a command line: one, or every point of a grid (-m).

    A sweeper plugin chooses its points later, so here only the overrides that do not vary are composed, once.

    Raises:
        UserError: an override does not compose.
    """
    with config_loader(args) as loader:
        if args.multirun and any(override_key(override).startswith("hydra/sweeper") for override in overrides):
            grid = [[str(override.input_line) for override in overrides if not override.is_sweep_override()]]
        else:
            grid = expand_grid(loader, args, overrides)
        return [compose_point(loader, args, texts, number) for number, texts in enumerate(grid)]


def expand_grid(loader: HydraLoader, args: Namespace, overrides: Sequence[Override]) -> list[list[str]]:
    """The texts of the overrides of each run, in the order of ``overrides``; without -m there is one run.

    Raises:
        UserError: a sweep is not a grid.
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
    """Reject choices that Hydra accepts by mistake: several options of one group, or a file that options share."""
    for text in texts:
        override = parse_override(text)
        key, value = override.key_or_group, override.value()
        is_suspect = key not in LIST_GROUPS if isinstance(value, list) else str(value).startswith("_")
        if is_suspect and (options := group_options(loader, key)):  # only then: reading the files is slow
            raise _wrong_option(override, options, "")


def _compose(loader: HydraLoader, texts: list[str]) -> Config:
    cfg = loader.compose(texts)
    unresolved: Any = OmegaConf.to_container(cfg, resolve=False)
    remember_secrets(unresolved)  # an error below may print it
    check_interpolations(unresolved)
    _check_hydra_targets(unresolved["hydra"])
    set_hydra_config(cfg)
    parts = {str(key): cfg[key] for key in cfg if key != "hydra"}
    config = {
        key: OmegaConf.to_container(part, resolve=key not in UNRESOLVED) if OmegaConf.is_config(part) else part
        for key, part in parts.items()
    }
    remember_secrets(config)
    return config


def _check_hydra_targets(node: Any, key: str = "hydra") -> None:
    """Allow only Hydra's own objects below ``hydra``: it builds launchers, sweepers and callbacks without asking r1."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        if name == "_target_" and not str(value).startswith(("hydra.", "hydra_plugins.")):
            expected = "objects of hydra and hydra_plugins"
            raise UserError("a config may not build this object", key=f"{key}.{name}", value=value, expected=expected)
        _check_hydra_targets(value, f"{key}.{name}")


def _find_bad_override(loader: HydraLoader, texts: list[str], error: Exception) -> Iterator[UserError]:
    """Compose with one override more each time; an override that fails is at fault.

    Overrides that the error does not mention are assumed to be good and come first.
    """
    parsed = {text: parse_override(text) for text in texts}
    groups = {text: group_options(loader, parsed[text].key_or_group) for text in texts}
    suspects = [text for text in texts if parsed[text].key_or_group in " ".join(_exception_texts(error))]
    good = [text for text in texts if text not in suspects]
    try:
        config = _compose(loader, good)
    except Exception:  # several are at fault, or none
        good, suspects = [], sorted(texts, key=lambda text: not groups[text])  # stable, group choices first
        config = _compose_defaults(loader)
    for text in suspects:
        try:
            config = _compose(loader, [*good, text])
            good.append(text)
        except UserError as user_error:
            yield user_error
        except Exception as hydra_error:
            yield _explain_override(parsed[text], groups[text], config, _reason(hydra_error))


def _compose_defaults(loader: HydraLoader) -> Config:
    """The config without any override."""
    try:
        return _compose(loader, [])
    except UserError:
        raise
    except Exception as error:
        raise _config_error(error) from None


def _explain_override(override: Override, options: list[str], config: Config, reason: str) -> UserError:
    """Why an override cannot be added to ``config``; ``options`` are those of its group, if it chooses one."""
    key, kind = override.key_or_group, override.type.name
    value = override.value() if kind == "DEL" else as_yaml_null(override.value())
    if options:
        return _wrong_option(override, options, reason)
    if kind == "ADD" and _value_at(config, key) is not None:
        return UserError(f"`{key}` is there already", key=key, value=value, hint=f"leave out the +: {key}={value}")
    *parents, last = key.split(".")
    parent_key = ".".join(parents)
    parent = _value_at(config, parent_key)
    if parent is None and parents[-1] in (_value_at(config, ".".join(parents[:-1])) or {}):
        group = "/".join(parents)
        hint = f"choose an option first: +{group}=NAME" if (CONF / group).is_dir() else "set it first"
        return UserError(f"`{parent_key}` is null and has no keys", key=key, value=value, hint=hint)
    if parent is not None and not isinstance(parent, dict | list):
        message = f"`{parent_key}` is a value and has no keys"
        return UserError(message, key=key, value=value, hint=f"it is now {parent!r}")
    if kind in ("CHANGE", "DEL") and not (isinstance(parent, dict) and last in parent):
        return unknown_key(key, value, config)
    if "${" in str(value):
        return UserError("this interpolation leads nowhere", key=key, value=value, hint=reason)
    return UserError("this override does not compose", key=key, value=value, hint=reason)


def _wrong_option(override: Override, options: list[str], reason: str) -> UserError:
    key, value = override_key(override), as_yaml_null(override.value())
    if value not in options:
        is_name = bool(value) and isinstance(value, str)
        message = f"`{key}` has no option `{value}`" if is_name else f"`{key}` takes the name of one option"
        hint = suggest_renamed(key, value) or suggest(str(value), options)
        if isinstance(value, dict):
            hint = f"set its keys one by one: {key}.KEY=VALUE"
        if str(value).startswith("_"):
            hint = "a file that starts with _ is not an option, but shared by options; glob(*,exclude=_*) leaves it out"
        if key.startswith("hydra/") and not hint:
            extra = str(value).partition("_")[0]
            hint = f"pip install -e '.[{extra}]'" if extra in LAUNCHERS else f"pip install hydra-{value}-{key[6:]}"
        return UserError(message, key=key, value=value, expected=options, hint=hint)
    if override.type.name == "ADD":
        return UserError(f"`{key}` is chosen already", key=key, value=value, hint=f"leave out the +: {key}={value}")
    if override.type.name == "DEL":
        return UserError(f"`{key}={value}` is not chosen", key=key, value=value, hint=f"~{key} leaves it out")
    if "No match in the defaults list" in reason:
        return UserError(f"`{key}` is not chosen by default", key=key, value=value, hint=f"add it: +{key}={value}")
    return UserError("this option does not compose", key=key, value=value, hint=reason)


def unknown_key(key: str, value: Any, config: Config) -> UserError:
    """An error with the keys that could have been meant: those under the deepest parent of ``key`` that exists."""
    parts = key.split(".")
    depth = next(d for d in range(len(parts) - 1, -1, -1) if isinstance(_value_at(config, ".".join(parts[:d])), dict))
    parent, prefix = _value_at(config, ".".join(parts[:depth])), "".join(f"{part}." for part in parts[:depth])
    known = sorted(str(other) for other in parent if not str(other).startswith("_"))
    if not prefix:
        known = sorted({*known, *(p.relative_to(CONF).as_posix() for p in CONF.rglob("*") if p.is_dir())})
    hint = suggest_renamed(key) or options_with_key(key)
    hint = hint or suggest(parts[depth], known, prefix) or suggest_moved_key(key, config)
    if prefix == "reward.terms." and (CONF / "reward" / "terms" / f"{parts[2]}.yaml").is_file():
        hint = f"add this term first: +reward/terms@reward.terms.{parts[2]}={parts[2]}"
    message = f"unknown key `{key}`"
    return UserError(message, key=key, value=value, expected=known or NO_KEY, hint=hint)


def options_with_key(key: str) -> str:
    """``stage=grpo reads it``: the other options of the same group that have this key."""
    group, _, last = key.rpartition(".")
    files = (CONF / group.replace(".", "/")).glob("*.yaml") if group else []
    has_key = re.compile(rf"^({re.escape(last)}:|  - {re.escape(last)}@)", re.MULTILINE)
    options = sorted(file.stem for file in files if has_key.search(file.read_text()))
    if any(name.startswith("_") for name in options):
        return f"other options of `{group}` read it"
    return f"{group.replace('.', '/')}={' or '.join(options)} reads it" if options else ""


def _value_at(config: Any, key: str) -> Any:
    """The value of a dotted key, the whole config for an empty one; None if there is no such key."""
    for part in key.split(".") if key else ():
        config = config.get(part) if isinstance(config, dict) else None
    return config


def group_options(loader: HydraLoader, group: str) -> list[str]:
    """The options of a group, wherever they come from; none if there is no such group."""
    options = [option for option in loader.group_options(group) if not option.startswith("_")]
    if group == "experiment":  # the only group whose folders sort options; elsewhere they are groups of their own
        folders = loader.subgroups(group)
        options += [f"{name}/{option}" for name in folders for option in group_options(loader, f"{group}/{name}")]
    return options


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
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    key = f"{mark.name}:{mark.line + 1}" if mark else "config files"
    return UserError("the config cannot be composed", key=key, hint=_reason(error))
