"""From a checked config to objects. The only place in r1 that instantiates anything from a config.

A target's positional parameters are runtime objects, passed by name; its keyword-only parameters come from YAML.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from r1.config.check.schema import META, defining_module, resolve, signature
from r1.core.errors import UserError, errors_mounted_at
from r1.core.provenance import code_hash
from r1.core.types import Config

if TYPE_CHECKING:
    from lightning import Callback

    from r1.data.base import Data
    from r1.model.loading import Model
    from r1.reward.base import RewardFunction, Rewards
    from r1.rollout.base import Engine
    from r1.stage.base import Stage
    from r1.stage.distillation.filters import Filters
    from r1.stage.validation.metrics import Validation


@dataclass(frozen=True)
class Experiment:
    """The components of a run, built but not loaded: no weights, no network.

    Attributes:
        data: the rows that the run uses.
        source: the dataset's rows, before overlong ones were left out.
        callbacks: the user's, by the names that the config gives them.
        config: from which they are built.
    """

    stage: Stage
    model: Model
    data: Data
    source: Data
    rewards: Rewards
    engine: Engine
    validation: Validation
    callbacks: dict[str, Callback]
    config: Config

    def identity(self, key: str) -> str:
        """sha256 over all that decides what becomes of a row: the config's node at ``key``, the tokenizer, the code."""
        from r1.model.tokens import tokenizer_hash

        node: Any = self.config
        for name in key.split("."):
            node = node[name]
        tokenizer = self.stage.tokenizer
        parts = [node, code_hash(*self.config["extensions"]), tokenizer_hash(tokenizer), tokenizer.chat_template]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def build(cfg: Config) -> Experiment:
    """Build the components that the stage takes; ``cfg`` has passed ``check_schema``."""
    from r1.config.lengths import drop_overlong
    from r1.stage.base import StageParts
    from r1.strategy.base import resolve_precision

    model: Model = instantiate_node(cfg["model"], "model", cfg)
    data = build_data(cfg)
    tokenizer = model.load_tokenizer()
    data.replace_chat_template(tokenizer)
    parts = StageParts(
        model=model,
        tokenizer=tokenizer,
        data=data,
        rewards=rewards(cfg),
        engine=instantiate_node(cfg["rollout"], "rollout", cfg),
        validation=instantiate_node(cfg["val"], "val", cfg),
        seed=cfg["seed"],
        num_devices=cfg["trainer"]["devices"] * cfg["trainer"]["num_nodes"],
        precision=resolve_precision(cfg["trainer"]["precision"], cfg["trainer"]["accelerator"]),
    )
    teacher = instantiate_node(cfg["teacher"], "teacher", cfg) if "teacher" in stage_dependencies(cfg) else None
    filters = build_filters(cfg) if takes_filters(cfg) else None
    runtime = {"parts": parts, "teacher": teacher, "filters": filters}  # the stage takes those that it names
    stage = instantiate_node(stage_config_without_filters(cfg), "stage", cfg, **runtime)
    source = replace(data)
    callbacks = {name: instantiate_node(node, f"callbacks.{name}", cfg) for name, node in cfg["callbacks"].items()}
    experiment = Experiment(stage, model, data, source, parts.rewards, parts.engine, parts.validation, callbacks, cfg)
    drop_overlong(experiment)
    return experiment


def build_data(cfg: Config) -> Data:
    """The dataset, with training rows only where the stage uses any."""
    from r1.stage.base import Stage

    stage = resolve(cfg["stage"]["_target_"], "stage", cfg["extensions"])
    evaluates = isinstance(stage, type) and issubclass(stage, Stage) and not stage.trains and not stage.predicts
    data: Data = instantiate_node(cfg["data"], "data", cfg, learns=not evaluates)
    return data


def stage_dependencies(cfg: Config) -> list[str]:
    """The runtime objects that the chosen stage takes, by name."""
    return list(signature(resolve(cfg["stage"]["_target_"], "stage", cfg["extensions"])).runtime)


def takes_filters(cfg: Config) -> bool:
    return "filters" in stage_dependencies(cfg)


def stage_config_without_filters(cfg: Config) -> Config:
    """The stage's node without its filters, which are built separately, like the reward terms."""
    return {key: value for key, value in cfg["stage"].items() if key != "filters" or not takes_filters(cfg)}


def iter_nodes(config: Config) -> Iterator[tuple[str, Config]]:
    """(key, node) of every object that is built from a config; the teacher is skipped where the stage takes none."""
    skipped = "" if "stage" not in config or "teacher" in stage_dependencies(config) else "teacher"
    for group, node in config.items():
        if group != skipped:
            yield from _iter_nodes(node, group)


def _iter_nodes(node: Any, key: str) -> Iterator[tuple[str, Config]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node
        for name, inner in node.items():
            yield from _iter_nodes(inner, f"{key}.{name}")


def instantiate_node(node: Config, key: str, cfg: Config, **runtime: Any) -> Any:
    """Instantiate one node with the runtime objects that its target names as positional parameters.

    Nodes inside it are built first, with the same objects. A component's errors have keys relative to its node, which
    are completed here.

    Raises:
        UserError: the target rejects its values (a ValueError becomes one), or a user's own code raised anything.
    """
    target = resolve(node["_target_"], key, cfg["extensions"])
    args = [runtime[name] for name in signature(target).runtime if name in runtime]
    knobs = {name: _instantiate_value(node[name], f"{key}.{name}", cfg, runtime) for name in node if name not in META}
    try:
        return partial(target, *args, **knobs) if node.get("_partial_") else target(*args, **knobs)
    except UserError as error:
        raise error.mounted_at(key) from None
    except ValueError as error:
        raise UserError(str(error), key=key) from None
    except Exception as error:
        if defining_module(target).startswith("r1."):
            raise
        message = f"{node['_target_']} raised {type(error).__name__}: {error}"
        raise UserError(message, key=key, hint="fix it, or set the keys that it needs") from None


def _instantiate_value(value: Any, key: str, cfg: Config, runtime: dict[str, Any]) -> Any:
    """A copy of one value, with objects in place of the nodes inside it."""
    if isinstance(value, dict):
        if "_target_" in value:
            return instantiate_node(value, key, cfg, **runtime)
        return {name: _instantiate_value(item, f"{key}.{name}", cfg, runtime) for name, item in value.items()}
    if isinstance(value, list):
        return [_instantiate_value(item, f"{key}[{i}]", cfg, runtime) for i, item in enumerate(value)]
    return value


def rewards(cfg: Config) -> Rewards:
    from r1.reward.base import Rewards, Term

    nodes = cfg["reward"]["terms"]
    terms = {}
    for name, node in nodes.items():
        key = f"reward.terms.{name}"
        with errors_mounted_at(key):
            terms[name] = Term(name, _build_function(node, key, cfg, "weight"), node["weight"])
    return Rewards(terms)


def build_filters(cfg: Config) -> Filters:
    from r1.stage.distillation.filters import Filter, Filters

    nodes = cfg["stage"]["filters"]
    functions = {
        name: _build_function(node, f"stage.filters.{name}", cfg, "min", "max") for name, node in nodes.items()
    }
    return Filters([Filter(name, functions[name], node["min"], node["max"]) for name, node in nodes.items()])


def _build_function(node: Config, key: str, cfg: Config, *mount_keys: str) -> RewardFunction:
    """A reward term's function with its knobs, without the keys of the node that the Term or Filter around it reads."""
    knobs = {name: value for name, value in node.items() if name not in mount_keys}
    function: RewardFunction = instantiate_node({"_partial_": True} | knobs, key, cfg)
    return function
