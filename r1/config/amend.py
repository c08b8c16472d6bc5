"""A record's config with some of its values changed by overrides."""

from __future__ import annotations

import copy
import re
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from r1.config.compose import compose_point, config_loader
from r1.config.hydra_adapter import HydraLoader, Override
from r1.config.override_errors import unknown_key
from r1.config.overrides import override_key, parse_overrides
from r1.core.errors import UserError
from r1.core.types import Config


def amended(config: Config, overrides: Sequence[str], allowed: re.Pattern[str], expected: str) -> Config:
    """A copy of ``config`` with these overrides: ``group=option`` replaces a node, ``key=value`` sets a value.

    Args:
        allowed: matches the dotted keys that may be set.
        expected: those keys in words.

    Raises:
        UserError: an override cannot be read, sets another key, or names no option or key.
    """
    config = copy.deepcopy(config)
    args = Namespace(config_dir=None, multirun=False)
    with config_loader(args) as loader:
        # Options first, as in Hydra: they would replace the keys that are set.
        for override in sorted(parse_overrides(overrides), key=lambda o: not _is_group(o)):
            path = override.package or override.key_or_group.replace("/", ".")
            if not allowed.match(path) or override.is_delete():
                message = "this override does not apply here"
                raise UserError(message, key=override_key(override), value=override.value(), expected=expected)
            *parents, last = path.split(".")
            node: Any = config
            for name in parents:
                node = node.get(name) if isinstance(node, dict) else None
            if not isinstance(node, dict) or not (override.is_add() or last in node):
                raise unknown_key(path, override.value(), config)
            node[last] = _option(loader, args, override) if _is_group(override) else override.value()
    return config


def _is_group(override: Override) -> bool:
    return "/" in override.key_or_group


def _option(loader: HydraLoader, args: Namespace, override: Override) -> Any:
    """The node of an option, composed where the default config has its group."""
    group = override.key_or_group
    node: Any = compose_point(loader, args, [f"{group}={override.value()}"]).config
    for name in group.split("/"):
        node = node[name]
    return node
