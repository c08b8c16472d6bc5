"""The composed config against the code that reads it: every key, type and range, before anything is built.

Everything wrong is said at once; nothing unknown is let through. ``rules.py`` then compares the keys with each other
and with this machine, ``parts.py`` the built parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen

from r1.config.build import stage_config_without_filters, stage_dependencies, takes_filters
from r1.config.check.schema import problems, value_problems
from r1.core.budget import Budget
from r1.core.errors import UserError, UserErrors, as_yaml_null, suggest, suggest_moved_key
from r1.core.provenance import PIPELINE_KEYS
from r1.core.renamed import suggest_renamed
from r1.core.types import Config

TOP_LEVEL_TYPES: dict[str, Any] = {
    "seed": Annotated[int, Ge(0)],
    "budget": Budget,
    "name": Annotated[str, MinLen(1)] | None,
    "output_dir": Annotated[str, MinLen(1)] | None,
    "dry_run": bool,
    "resume": Literal["auto"] | None,
    "checkpoint_every": Annotated[int, Ge(1)],
    "checkpoint_async": bool,
    "keep_best": bool,
    "threads": Annotated[int, Ge(1)] | None,
    "extensions": list[str],
    **dict.fromkeys(PIPELINE_KEYS, Any),
}
GROUPS = ("model", "data", "teacher", "stage", "rollout", "val", "trainer", "logger")
RUNTIME_ARGS = {  # runtime objects that are given to a part and never set in a config
    "stage": ("parts", "teacher", "filters"),
    "trainer": ("loggers", "callbacks", "num_micro_batches", "validate_every", "root", "info"),
    "logger": ("folder", "config"),
}


def check_config(cfg: Config, overrides: Iterable[str] = ()) -> None:
    """Everything that can be known without reading data or a tokenizer.

    Raises:
        UserErrors: all that is wrong, each with its key, the value, what is allowed and the nearest name.
    """
    from r1.config.check.rules import check_rules

    check_schema(cfg, overrides)
    check_rules(cfg)


def check_schema(cfg: Config, overrides: Iterable[str] = ()) -> None:
    """Compare every key and value with the signatures of the code that reads it.

    Raises:
        UserErrors: as above.
    """
    overrides = list(overrides)
    found = _plain_problems(cfg)
    if not any(error.key in ("extensions", *GROUPS, "reward") for error in found):
        found += _extension_problems(cfg["extensions"]) or _group_problems(cfg)
    found = found or _unused(cfg, overrides)
    if found:
        raise UserErrors([_with_hint(error, cfg, overrides) for error in found])


def _group_problems(cfg: Config) -> list[UserError]:
    extensions, hints = cfg["extensions"], component_types()
    nodes = {group: cfg[group] for group in GROUPS}
    found = _reward_problems(cfg["reward"], extensions)
    if _takes_filters(cfg):
        nodes["stage"] = stage_config_without_filters(cfg)
        found = _filter_problems(cfg["stage"].get("filters"), extensions) + found
    return [e for group in GROUPS for e in _node_problems(nodes[group], group, extensions, hints[group])] + found


def _takes_filters(cfg: Config) -> bool:
    try:
        return takes_filters(cfg)
    except (UserError, LookupError, TypeError, ValueError):  # what is wrong with the stage's node is said elsewhere
        return False


def component_types() -> dict[str, Any]:
    """What each group must make; imports what a run imports anyway."""
    from lightning import Trainer
    from lightning.pytorch.loggers import Logger

    from r1.data.base import Data
    from r1.model.loading import Model
    from r1.rollout.base import Engine
    from r1.stage.base import Stage
    from r1.stage.validation.metrics import Validation
    from r1.teacher.base import Teacher

    return {
        "model": Model,
        "data": Data,
        "teacher": Teacher,
        "stage": Stage,
        "rollout": Engine,
        "val": Validation,
        "trainer": Trainer,
        "logger": Logger,
    }


def _plain_problems(cfg: Config) -> list[UserError]:
    known = sorted([*TOP_LEVEL_TYPES, *GROUPS, "reward"])
    choices = [*known, "strategy", "experiment"]  # these two groups fill other keys
    found = [
        UserError(
            f"unknown key `{key}`: nothing reads it",
            key=key,
            value=as_yaml_null(cfg[key]),
            expected=known,
            hint=suggest(key, choices),
        )
        for key in map(str, cfg)
        if key not in known
    ]
    found += [UserError(f"`{key}` is missing", key=key, hint=f"leave out `~{key}`") for key in known if key not in cfg]
    for key in [key for key in TOP_LEVEL_TYPES if key in cfg]:
        found += value_problems(cfg[key], TOP_LEVEL_TYPES[key], key)
    return found


def _extension_problems(extensions: list[str]) -> list[UserError]:
    return [
        UserError(
            f"there is no Python package `{name}` here",
            key="extensions",
            value=name,
            hint=f"install it, or run from the folder that holds it; looked from {Path.cwd()}",
        )
        for name in extensions
        if not _importable(name)
    ]


def _importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _node_problems(node: Any, where: str, extensions: list[str], hint: Any) -> list[UserError]:
    if not isinstance(node, dict) or "_target_" not in node:
        message = f"`{where}` must stay a mapping of keys with a `_target_`"
        do = f"set its keys: {where}.KEY=VALUE"
        do += "" if where in ("val", "trainer") else f", or choose an option: {where}=NAME"
        return [UserError(message, key=where, value=as_yaml_null(node), hint=do)]
    return problems(node, where, extensions, hint=hint, handed=RUNTIME_ARGS.get(where, ()))


def _reward_problems(reward: Any, extensions: list[str]) -> list[UserError]:
    terms = reward.get("terms") if isinstance(reward, dict) else None
    if not isinstance(terms, dict) or not terms:
        return [
            UserError(
                "there is no reward term",
                key="reward.terms",
                value=as_yaml_null(terms),
                hint="reward=math, for example",
            )
        ]
    if "_target_" in terms:
        hint = "+reward/terms@reward.terms.NAME=OPTION adds a term"
        return [UserError("a reward term needs a name", key="reward.terms", value=terms["_target_"], hint=hint)]
    found = [
        UserError(
            f"unknown key `reward.{key}`: nothing reads it",
            key=f"reward.{key}",
            value=as_yaml_null(reward[key]),
            expected="terms",
            hint=suggest(key, ["terms"]) or f"a term is set as reward.terms.{key}",
        )
        for key in map(str, reward)
        if key != "terms"
    ]
    for name, node in terms.items():
        found += _term_problems(f"reward.terms.{name}", node, terms, extensions)
    if not found and all(node["weight"] is None for node in terms.values()):
        found.append(
            UserError(
                "no reward term has a weight, so there is nothing to learn from",
                key="reward.terms",
                value=dict.fromkeys(terms),
                hint=f"reward.terms.{next(iter(terms))}.weight=1.0",
            )
        )
    return found


def _term_problems(where: str, node: Any, terms: Config, extensions: list[str]) -> list[UserError]:
    found = _function_problems("reward term", where, node, terms, extensions, {"weight": float | None})
    if isinstance(node, dict) and node.get("weight") == 0 and not isinstance(node["weight"], bool):
        hint = f"{where}.weight=null to log it only, or leave it out with ~{where}"
        message = "a reward term with weight 0 is paid for and never learned from"
        found.append(UserError(message, key=f"{where}.weight", value=node["weight"], hint=hint))
    return found


def _filter_problems(filters: Any, extensions: list[str]) -> list[UserError]:
    """A filter is a reward term with bounds instead of a weight."""
    if not isinstance(filters, dict) or "_target_" in filters:
        message, hint = (
            "`stage.filters` holds filters by their names",
            "+stage/filters@stage.filters.NAME=OPTION adds one",
        )
        return [UserError(message, key="stage.filters", value=as_yaml_null(filters), hint=hint)]
    return [error for name in filters for error in _one_filter_problems(name, filters, extensions)]


def _one_filter_problems(name: str, filters: Config, extensions: list[str]) -> list[UserError]:
    where, node, bounds = f"stage.filters.{name}", filters[name], {"min": float | None, "max": float | None}
    found = _function_problems("filter", where, node, filters, extensions, bounds)
    if found:
        return found
    low, high = node["min"], node["max"]
    if low is None and high is None:
        return [UserError("a filter without a bound rejects nothing", key=f"{where}.min", hint=f"or ~{where}")]
    if low is not None and high is not None and low > high:
        return [UserError("no value lies within these bounds", key=f"{where}.min", value=low, expected=f"<= {high}")]
    return []


def _function_problems(
    kind: str, where: str, node: Any, named: Config, extensions: list[str], others: Config
) -> list[UserError]:
    """A reward function's node, one of several that are ``named``; ``others``: its keys that are no knob of it."""
    from r1.reward.base import RESERVED, RewardFunction

    if isinstance(node, dict) and "_target_" in node:
        whole = {"_partial_": True} | node
        return problems(whole, where, extensions, others, hint=RewardFunction, handed=RESERVED)
    group, _, name = where.rpartition(".")
    known = [other for other, term in named.items() if isinstance(term, dict) and "_target_" in term]
    hint = f"{where}.{next(iter(others))}=... to set it, ~{where} to leave it out"
    hint = suggest(name, known, f"{group}.") if isinstance(node, dict) else hint
    return [UserError(f"`{where}` is no {kind}", key=where, value=as_yaml_null(node), expected=known, hint=hint)]


def _unused(cfg: Config, overrides: list[str]) -> list[UserError]:
    """Overrides of a group that the chosen stage does not read."""
    if "teacher" in stage_dependencies(cfg):
        return []
    stage = cfg["stage"]["_target_"].split(".")[-2]
    return [
        UserError(f"stage={stage} has no teacher, so nothing reads this", key=key, value=value, hint="stage=distill")
        for key, _, value in (override.lstrip("+~").partition("=") for override in overrides)
        if key.split(".")[0] == "teacher"
    ]


def _with_hint(error: UserError, cfg: Config, overrides: list[str]) -> UserError:
    """For an unknown key: where a key of that name is, and which experiment sets it if the user did not."""
    from r1.config.compose import options_with_key

    if error.message.startswith("unknown key"):
        hint = suggest_renamed(error.key) or options_with_key(error.key)
        error.hint = hint or error.hint or suggest_moved_key(error.key, cfg)
        experiments = [o for o in overrides if o.lstrip("+").startswith("experiment=")]
        if experiments and not any(error.key in o for o in overrides):
            error.hint = f"{experiments[0]} sets it, and fits another option of this group"
    return error
