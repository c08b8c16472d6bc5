"""The composed config against the code that reads it: every key, type and range, before anything is built.

All errors are reported at once, and no unknown key passes. ``rules.py`` then compares the keys with each other and with
this machine, ``components.py`` the built parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml  # type: ignore[import-untyped]
from annotated_types import Ge, MinLen
from pydantic import BaseModel

from r1.config.build import stage_dependencies
from r1.config.check.models import ConfigModel, NamedNodes, NodeType, check_value
from r1.config.check.sources import check_architecture, check_model_paths
from r1.core.budget import Budget
from r1.core.errors import UserError, UserErrors, as_yaml_null, suggest_alias, suggest_moved_key
from r1.core.paths import CONF
from r1.core.renamed import suggest_renamed
from r1.core.types import Config
from r1.core.yaml import ConfigLoader
from r1.model.recipe import RECIPE_KEYS, is_in_range, model_size, size_text

TOP_LEVEL_TYPES: dict[str, Any] = {
    "seed": Annotated[int, Ge(0)],
    "budget": Budget,
    "name": Annotated[str, MinLen(1)] | None,
    "output_dir": Annotated[str, MinLen(1)] | None,
    "dry_run": bool,
    "resume": Literal["auto"] | None,
    "resume_from": Annotated[str, MinLen(1)] | None,
    "checkpoint_every": Annotated[int, Ge(1)],
    "keep_checkpoints": Annotated[int, Ge(0)],
    "checkpoint_async": bool,
    "keep_best": bool,
    "threads": Annotated[int, Ge(1)] | None,
    "extensions": list[str],
    "steps": dict[str, list[str]] | None,
    "shared": list[str],
    "seeds": Annotated[list[Annotated[int, Ge(0)]], MinLen(1)] | None,
    "workers": Annotated[int, Ge(1)],
    "result": str | None,
    "steps_dir": Annotated[str, MinLen(1)] | None,
    "page": dict[str, Any] | None,
}
RUNTIME_ARGS = {  # runtime objects that the components are called with, so that no config may set them
    "stage": ("parts", "teacher", "filters"),
    "trainer": ("loggers", "callbacks", "num_micro_batches", "validate_every", "root", "info"),
    "logger": ("folder", "config"),
}


def check_config(cfg: Config, overrides: Iterable[str] = ()) -> None:
    """Check everything that needs neither the data nor a tokenizer.

    Raises:
        UserErrors: every error with its key, the value, the accepted values and the nearest name.
    """
    from r1.config.check.rules import check_rules

    check_schema(cfg, overrides)
    check_rules(cfg)


def check_schema(cfg: Config, overrides: Iterable[str] = ()) -> None:
    """Compare every key and value with the signatures of the code that reads it.

    Raises:
        UserErrors: as above.
    """
    overrides, extensions = list(overrides), cfg.get("extensions", [])
    errors = check_value(extensions, list[str], "extensions") or _extension_errors(extensions)
    if not errors:
        models, model = config_model(cfg)
        errors = models.validate(model, cfg) or _unused_overrides(cfg, overrides) or _micro_batch_errors(cfg["stage"])
    if errors and all(_lacks_recipe(error, cfg) for error in errors) and model_size(cfg["model"]) is None:
        check_model_paths(cfg)  # a model that cannot be read has no size: that is the error then
        check_architecture(cfg)
    if errors:
        raise UserErrors([_with_hint(error, cfg, overrides) for error in errors])


def config_model(cfg: Config) -> tuple[ConfigModel, type[BaseModel]]:
    """The pydantic model of a composed config, with the types of its keys."""
    models = ConfigModel(cfg.get("extensions", []))
    return models, models.mapping(cfg, "", TOP_LEVEL_TYPES | group_types())


def group_types() -> Config:
    """What fills each config group; imports the libraries that a run imports anyway."""
    from lightning import Callback, Trainer
    from lightning.pytorch.loggers import Logger

    from r1.data.base import Data
    from r1.data.columns import RESERVED
    from r1.model.loading import Model
    from r1.reward.base import RewardFunction
    from r1.rollout.base import Engine
    from r1.stage.base import Stage
    from r1.stage.validation.metrics import Validation
    from r1.teacher.base import Teacher

    term = NodeType(RewardFunction, {"weight": float | None}, runtime_args=RESERVED)
    bounded = NodeType(RewardFunction, {"min": float | None, "max": float | None}, runtime_args=RESERVED)
    filters = NamedNodes("filter", "stage/filters", bounded, partial=True)
    return {
        "model": NodeType(Model),
        "data": NodeType(Data),
        "teacher": NodeType(Teacher),
        "stage": NodeType(Stage, nested={"filters": filters}, runtime_args=RUNTIME_ARGS["stage"]),
        "reward": {"terms": NamedNodes("reward term", "reward/terms", term, partial=True)},
        "rollout": NodeType(Engine),
        "val": NodeType(Validation),
        "callbacks": NamedNodes("callback", "callbacks", NodeType(Callback)),
        "trainer": NodeType(Trainer, runtime_args=RUNTIME_ARGS["trainer"]),
        "logger": NodeType(Logger, runtime_args=RUNTIME_ARGS["logger"]),
    }


def _extension_errors(extensions: list[str]) -> list[UserError]:
    hint = f"install it, or run from the folder that holds it; looked from {Path.cwd()}"
    return [
        UserError(f"there is no Python package `{name}` here", key="extensions", value=name, hint=hint)
        for name in extensions
        if not _is_importable(name)
    ]


def _is_importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _unused_overrides(cfg: Config, overrides: list[str]) -> list[UserError]:
    """Overrides of a group that the chosen stage does not read."""
    if "teacher" in stage_dependencies(cfg):
        return []
    stage = cfg["stage"]["_target_"].split(".")[-2]
    return [
        UserError(f"stage={stage} has no teacher, so nothing reads this", key=key, value=value, hint="stage=distill")
        for key, _, value in (override.lstrip("+~").partition("=") for override in overrides)
        if key.split(".")[0] == "teacher"
    ]


def _micro_batch_errors(stage: Config) -> list[UserError]:
    """Micro-batches are bounded by sequences or by tokens."""
    size, tokens = (stage.get(f"micro_batch_{unit}", ...) for unit in ("size", "tokens"))
    if tokens is ... or (size is None) != (tokens is None):
        return []
    message, hint = "there is no bound on micro-batches", "set it, or stage.micro_batch_tokens"
    if size is not None:
        message = f"micro-batches are bounded by {size} sequences and by {tokens} tokens"
        hint = "set one of them to null"
    key = "stage.micro_batch_size"
    return [UserError(message, key=key, value=as_yaml_null(size), expected="one of the two", hint=hint)]


def _with_hint(error: UserError, cfg: Config, overrides: list[str]) -> UserError:
    """For an unknown key, suggest a known one, or name the experiment that sets it."""
    from r1.config.override_errors import options_with_key

    if _lacks_recipe(error, cfg):
        error.message = f"`{error.key}` has no default for a model of {size_text(cfg['model'])}"
        error.hint = f"set it, or take the values of a recipe: {_recipe_options(cfg['model'])}"
    if error.message.startswith("unknown key"):
        hint = suggest_renamed(error.key) or suggest_alias(error.key, cfg) or options_with_key(error.key)
        error.hint = hint or error.hint or suggest_moved_key(error.key, cfg)
        experiments = [o for o in overrides if o.lstrip("+").startswith("experiment=")]
        if experiments and not any(error.key in o for o in overrides):
            error.hint = f"{experiments[0]} sets it, and fits another option of this group"
    return error


def _lacks_recipe(error: UserError, cfg: Config) -> bool:
    """Whether the error is about a key that the model's recipe has no value for."""
    group, _, name = error.key.partition(".")
    return error.key in RECIPE_KEYS and cfg[group].get(name, ...) is None


def _recipe_options(model: Config) -> str:
    """``model/recipe=135m`` and the like: those for a model of this size, or all if there is none."""
    recipes = {
        file.stem: yaml.load(file.read_text(), Loader=ConfigLoader)
        for file in sorted((CONF / "model" / "recipe").glob("*.yaml"))
    }
    names = [name for name, recipe in recipes.items() if is_in_range(recipe, model)] or list(recipes)
    return f"{'' if model.get('recipe') else '+'}model/recipe={' or '.join(names)}"
