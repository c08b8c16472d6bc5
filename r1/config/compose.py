"""From a command line to composed configs.

Where Hydra cannot compose one, the error names the override at fault, the accepted values and the nearest valid name.
"""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from r1.config.hydra_adapter import (
    HydraException,
    HydraLoader,
    Override,
    open_loader,
    parse_override,
    set_hydra_config,
)
from r1.config.interpolation import check_interpolations
from r1.config.override_errors import config_error, exception_texts, explain_override, reason_of, wrong_option
from r1.config.overrides import override_key
from r1.core import budget
from r1.core.errors import (
    UserError,
    UserErrors,
)
from r1.core.secrets import remember_secrets
from r1.core.types import Config
from r1.model.recipe import recipe_value

UNRESOLVED = ("steps", "shared")  # overrides of a pipeline's steps, which are composed step by step
LIST_GROUPS = ("experiment", "callbacks")  # groups of which several options may be chosen


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
    except (HydraException, ValueError, ArithmeticError):  # range() checks its numbers itself
        hint = "KEY=A,B or KEY=range(A,B), which has a step; an interval needs a sweeper plugin"
        raise UserError("this is no grid", key=override_key(override), value=override.input_line, hint=hint) from None


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
        raise UserErrors(list(_find_bad_override(loader, texts, error)) or [config_error(error)]) from None


def _check_choices(loader: HydraLoader, texts: list[str]) -> None:
    """Reject choices that Hydra accepts by mistake: several options of one group, or a file that options share."""
    for text in texts:
        override = parse_override(text)
        key, value = override.key_or_group, override.value()
        is_suspect = key not in LIST_GROUPS if isinstance(value, list) else str(value).startswith("_")
        if is_suspect and (options := group_options(loader, key)):  # only then: reading the files is slow
            raise wrong_option(override, options, "")


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
    suspects = [text for text in texts if parsed[text].key_or_group in " ".join(exception_texts(error))]
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
            yield explain_override(parsed[text], groups[text], config, reason_of(hydra_error))


def _compose_defaults(loader: HydraLoader) -> Config:
    """The config without any override."""
    try:
        return _compose(loader, [])
    except UserError:
        raise
    except Exception as error:
        raise config_error(error) from None


def group_options(loader: HydraLoader, group: str) -> list[str]:
    """The options of a group, wherever they come from; none if there is no such group."""
    options = [option for option in loader.group_options(group) if not option.startswith("_")]
    if group == "experiment":  # the only group whose folders sort options; elsewhere they are groups of their own
        folders = loader.subgroups(group)
        options += [f"{name}/{option}" for name in folders for option in group_options(loader, f"{group}/{name}")]
    return options
