"""The types of an option's keys: the annotations that ``r1.config.check`` compares values with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, get_args, get_origin

from r1.config.check.config import TOP_LEVEL_TYPES, group_types
from r1.config.check.models import NamedNodes, NodeType
from r1.config.check.schema import GROUP_PACKAGES, is_inside, resolve, signature
from r1.config.reference.files import Option
from r1.core.types import Config


def key_types(option: Option) -> Config:
    """The type of each key of an option ``with_bases``, by dotted name; none for a file of other nodes' values."""
    known = TOP_LEVEL_TYPES if not option.group else {}
    if "_target_" in option.values:
        known = node_types(option.values["_target_"], option.package) | mounted_keys(option.group)
    return dict(_types(option.values, "", known, option.package))


def node_types(target: str, key: str) -> Config:
    """The type of each key of a node; of Lightning's classes, any parameter may be set."""
    parameters = signature(resolve(target, key, [target.partition(".")[0]]))  # a shipped file names it
    if is_inside(target, GROUP_PACKAGES.values()):
        return parameters.runtime | parameters.knobs
    kind = group_types().get(key)
    nested = kind.nested if isinstance(kind, NodeType) else {}
    return parameters.knobs | {name: nodes for name, nodes in nested.items() if name in parameters.runtime}


def mounted_keys(group: str) -> Config:
    """Further keys of a group's nodes, which the object that holds them reads: a term's weight, a filter's bounds."""
    kind = named_nodes().get(group)
    return dict(kind.item.extra) if kind else {}


@cache
def named_nodes() -> dict[str, NamedNodes]:
    """The groups whose nodes have names that the user chooses."""

    def walk(kind: Any) -> Iterator[NamedNodes]:
        if isinstance(kind, NamedNodes):
            yield kind
        inner = kind.nested if isinstance(kind, NodeType) else kind if isinstance(kind, dict) else {}
        for part in inner.values():
            yield from walk(part)

    return {kind.group: kind for kind in walk(group_types())}


def _types(values: Config, prefix: str, known: Mapping[str, Any], package: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name in known:
            yield key, known[name]
        if not isinstance(value, dict):
            continue
        inner: Mapping[str, Any] = {}
        if "_target_" in value:
            inner = node_types(value["_target_"], f"{package}.{key}".lstrip("."))
        elif get_origin(known.get(name)) is dict:
            inner = dict.fromkeys(value, get_args(known[name])[1])
        yield from _types(value, f"{key}.", inner, package)
