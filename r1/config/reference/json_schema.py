"""JSON schemas of config files for editors: keys, types, ranges and choices, from the annotations of the code.

They are as strict as the check of a composed config, apart from required keys: a file sets some keys, and the others
come from the files that it starts from. Any value may be an interpolation.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import TypeAdapter

from r1.config.check.config import TOP_LEVEL_TYPES
from r1.config.check.models import NamedNodes
from r1.config.check.schema import ALLOWED_PACKAGES
from r1.config.check.types import expects_object, is_union
from r1.config.compose import LIST_GROUPS
from r1.config.reference.files import Option, group_names, option_names, read_option
from r1.config.reference.types import mounted_keys, node_types
from r1.core.errors import UserError, suggest

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
INTERPOLATION: Schema = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}
OWN_TARGET: Schema = {  # an object of the user's, whose parameters are not known here
    "type": "object",
    "required": ["_target_"],
    "properties": {"_target_": {"type": "string", "pattern": rf"^(?!({'|'.join(ALLOWED_PACKAGES)})\.)\w+(\.\w+)+$"}},
}
BY_NAME = ("reward/terms", "stage/filters", "callbacks")  # groups whose nodes have names that the user chooses


def json_schema(group: str = "experiment") -> Schema:
    """The schema of the files of a group; that of experiments also fits a composed config.

    Raises:
        UserError: there is no such group.
    """
    groups = group_names()
    if group not in groups:
        hint = suggest(group, groups)
        raise UserError("there is no such config group", key="GROUP", value=group, expected=groups, hint=hint)
    root = _experiment() if group == "experiment" else {"anyOf": [_file(group, one) for one in _files(group)]}
    return {"$schema": DIALECT, **root, "$defs": _definitions()}


@cache
def _definitions() -> Schema:
    """The schemas of all groups (``stage.loss``) and of their options (``stage.loss=dapo``)."""
    groups = {_name(group): _group(group) for group in group_names() if group != "experiment"}
    return groups | {f"{_name(option.group)}={option.name}": _option(option) for option in _built_options()}


def _built_options() -> list[Option]:
    return [option for group in group_names() for option in _files(group) if "_target_" in _values(option)]


def _name(group: str) -> str:
    return group.replace("/", ".")


def _ref(group: str, option: str = "") -> Schema:
    return {"$ref": f"#/$defs/{_name(group)}{'=' * bool(option)}{option}"}


def _values(option: Option) -> dict[str, Any]:
    return option.with_bases().values


def _object(properties: Mapping[str, Schema], **further: Any) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False, **further}


def _group(group: str) -> Schema:
    """A node that one of the group's options describes; of a file without a target, its keys."""
    if group == "reward":
        return _object({"terms": _named("reward/terms")})
    if group == "callbacks":
        nodes = [node for option in _files(group) for node in _values(option).values()]
        callbacks = [_node(node, {}, "callbacks") for node in nodes]
        return {"type": "object", "additionalProperties": {"anyOf": [*callbacks, OWN_TARGET]}}
    return {"anyOf": [*(_ref(group, name) for name in option_names(group)), OWN_TARGET]}


def _named(group: str) -> Schema:
    return {"type": "object", "additionalProperties": _ref(group)}


def _option(option: Option) -> Schema:
    full = option.with_bases()
    schema = _node(full.values, mounted_keys(option.group), option.package)
    for name, key in full.keys.items():
        if name in schema["properties"] and key.comment:
            schema["properties"][name] = schema["properties"][name] | {"description": key.comment}
    return schema | {"description": option.title}


def _node(values: Mapping[str, Any], extra: Mapping[str, Any], key: str) -> Schema:
    """A mapping with the keys of its target."""
    types = {**node_types(values["_target_"], key), **extra}
    properties = {name: _schema(hint, f"{key}.{name}", values.get(name)) for name, hint in types.items()}
    fixed = {"_target_": {"const": values["_target_"]}, "_partial_": {"const": values.get("_partial_", False)}}
    return _object(properties | fixed)


def _schema(hint: Any, key: str, value: Any = None) -> Schema:
    """The schema of one key. A key that takes an object is described by the options of its group."""
    if isinstance(hint, NamedNodes):
        return _named(hint.group)
    if not expects_object(hint):
        if get_origin(hint) is dict and expects_object(get_args(hint)[1]):
            return _named(key.partition(".")[0])
        return _or_interpolation(TypeAdapter(hint).json_schema())
    plain = [arg for arg in get_args(hint) if not expects_object(arg)] if is_union(hint) else []
    if isinstance(value, dict) and "_target_" in value:
        node = _node(value, {}, key)
    else:
        name = key.rpartition(".")[2]
        groups = sorted(group_names(), key=lambda group: _name(group) != key)
        group = next((group for group in groups if group.rpartition("/")[2] == name), None)
        node = _ref(group) if group else {"type": "object"}
    return {"anyOf": [node, *(TypeAdapter(arg).json_schema() for arg in plain), INTERPOLATION]}


def _or_interpolation(schema: Schema) -> Schema:
    """The schema of a value that may be, or hold, interpolations."""
    inner: Schema = {}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            inner[key] = _or_interpolation(schema[key])
    if "anyOf" in schema:
        inner["anyOf"] = [_or_interpolation(part) for part in schema["anyOf"]]
    return {"anyOf": [schema | inner, INTERPOLATION]}


def _files(group: str) -> list[Option]:
    return [read_option(group, name) for name in option_names(group)]


def _file(group: str, option: Option) -> Schema:
    """A file: an option's node and a defaults list."""
    node = _option(option) if "_target_" in _values(option) else _group(group)
    return node | {"properties": node.get("properties", {}) | {"defaults": _defaults(group)}}


def _defaults(group: str) -> Schema:
    """A defaults list: groups, those inside ``group`` also by their last names, with their options."""
    patterns: Schema = {r"^(override |optional )*/?hydra/": {}}
    for name in group_names():
        options: Schema = {"enum": option_names(name)}
        if name in LIST_GROUPS:
            options = {"anyOf": [options, {"type": "array", "items": options}, {"type": "null"}]}
        relative = name.removeprefix(f"{group}/")
        patterns[rf"^(override |optional )*(/?{name}|{relative})(@.+)?$"] = options
    entry = {"type": "object", "patternProperties": patterns, "additionalProperties": False}
    return {"type": "array", "items": {"anyOf": [{"type": "string"}, entry]}}


def _experiment() -> Schema:
    """The schema of the whole config. An option in the defaults list decides the keys of its group."""
    config = read_option("", "config")
    properties = {name: _schema(hint, name) for name, hint in TOP_LEVEL_TYPES.items()}
    properties |= {name: _node(config.values[name], {}, name) for name in ("trainer", "val")}
    properties = {name: schema | {"description": config.keys[name].comment} for name, schema in properties.items()}
    for choice in config.choices:
        if choice.group in group_names() and choice.group not in ("strategy", "experiment"):
            properties[choice.group] = _ref(choice.group) | {"description": choice.comment}
    chosen = [_if_chosen(option) for option in _built_options() if option.group not in BY_NAME]
    return _object(properties | {"defaults": _defaults(""), "hydra": {"type": "object"}}, allOf=chosen)


def _if_chosen(option: Option) -> Schema:
    names = [f"{prefix}{slash}{option.group}" for prefix in ("", "override ") for slash in ("", "/")]
    entry = {"anyOf": [{"required": [name], "properties": {name: {"const": option.name}}} for name in names]}
    then = _ref(option.group, option.name)
    for part in reversed(option.package.split(".")):
        then = {"properties": {part: then}}
    is_chosen = {"required": ["defaults"], "properties": {"defaults": {"contains": entry | {"type": "object"}}}}
    return {"if": is_chosen, "then": then}
