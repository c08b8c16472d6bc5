"""Pydantic models of a config, created from the signatures of the code that its ``_target_``s name.

A node becomes a strict model: a field per knob, typed by its annotation, and no other key. What pydantic reports is
translated into ``UserError``s with key, value, expected values and the nearest name.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from r1.config.check.schema import ALLOWED_PACKAGES, defining_module, is_inside, resolve, signature
from r1.config.check.types import describe_expected_object, expects_object, is_compatible, is_union
from r1.core.errors import NO_KEY, UserError, as_yaml_null, suggest
from r1.core.paths import CONF
from r1.core.types import Config

META_TYPES = {"_target_": str, "_partial_": bool}
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE)
WORDS = {int: "whole number", float: "finite number", str: "text", bool: "true or false", type(None): "null"}
BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


class AnyNode(BaseModel):
    """The type of a key that takes an object, where the config has no node for it."""

    target: str = Field(alias="_target_")


@dataclass(frozen=True)
class NodeType:
    """What a key takes that is filled with an object.

    Attributes:
        hint: the type of the object.
        extra: further keys of the node, read by the object that holds it: name -> type.
        nested: types of the target's runtime arguments that are built from a key of the same name.
        runtime_args: runtime objects that the target is called with, so that no config may set them.
    """

    hint: Any
    extra: Mapping[str, Any] = field(default_factory=dict)
    nested: Mapping[str, Any] = field(default_factory=dict)
    runtime_args: Collection[str] = ()


@dataclass(frozen=True)
class NamedNodes:
    """A mapping from names that the user chooses to nodes of one type, e.g. the reward terms.

    Attributes:
        noun: an item in a message.
        group: the config group of its options.
        partial: ``_partial_`` of an item that does not set it.
    """

    noun: str
    group: str
    item: NodeType
    partial: bool = False

    def how_to_add(self, key: str) -> str:
        """The override that adds an item; an option of ``callbacks`` has the item's name in it."""
        return f"{self.group}=[OPTION]" if key.startswith(f"{self.group}.") else f"+{self.group}@{key}=OPTION"


class ConfigModel:
    """The models of one config.

    Attributes:
        types: the type of every key that may be set, by dotted key.
        errors: what is wrong with the targets themselves, for which there are no models.
    """

    def __init__(self, extensions: Collection[str] = ()) -> None:
        self.extensions = extensions
        self.types: dict[str, Any] = {}
        self.errors: list[UserError] = []

    def mapping(
        self, values: Config, key: str, types: Mapping[str, Any], required: Collection[str] | None = None
    ) -> type[BaseModel]:
        """A model with one field per entry of ``types``, all of them required by default.

        Args:
            values: the config's values, whose nodes get models of their own.
            key: the config key of ``values``, empty for the whole config.
        """
        fields = {}
        for name, kind in types.items():
            inner = f"{key}.{name}" if key else name
            self.types[inner] = kind.hint if isinstance(kind, NodeType) else dict if isinstance(kind, dict) else kind
            fields[name] = self._annotation(values.get(name), inner, kind)
        return _create(key or "config", fields, fields if required is None else required)

    def node(self, node: Config, key: str, kind: NodeType) -> Any:
        """The model of a node with a ``_target_``; Any where the target is wrong."""
        try:
            target = resolve(node["_target_"], key, self.extensions)
            parameters = signature(target)
        except UserError as error:
            return self._fail(error)
        except ValueError as error:  # a builtin without a signature
            message = "this object cannot be built from a config"
            return self._fail(UserError(message, key=f"{key}._target_", hint=str(error)))
        is_own = is_inside(defining_module(target), ALLOWED_PACKAGES)
        if not is_compatible(target, kind.hint, node.get("_partial_", False), is_own):
            return self._fail(_misfit(node, key, kind.hint))
        if passed := [name for name in parameters.knobs if name in kind.runtime_args]:
            message = f"`{passed[0]}` is an argument that r1 passes, no option"
            hint, value = "put it before the `*` of its signature", node["_target_"]
            return self._fail(UserError(message, key=f"{key}._target_", value=value, hint=hint))
        nested = {name: inner for name, inner in kind.nested.items() if name in parameters.runtime}
        types = META_TYPES | parameters.knobs | {**kind.extra, **nested}
        if not is_own:  # any parameter of a user's own code may be set
            types |= {name: hint for name, hint in parameters.runtime.items() if name not in kind.runtime_args}
        return self.mapping(node, key, types, {*parameters.required, *kind.extra, *nested})

    def _annotation(self, value: Any, key: str, kind: Any) -> Any:
        """The type of a field: a model where ``value`` is a node."""
        if get_origin(kind) is dict and expects_object(get_args(kind)[1]):
            kind = NamedNodes("option", key.partition(".")[0], NodeType(get_args(kind)[1]))
        if isinstance(kind, NamedNodes):
            return self._named_nodes(value, key, kind)
        if isinstance(kind, dict):
            return self.mapping(value if isinstance(value, dict) else {}, key, kind)
        node_type = kind if isinstance(kind, NodeType) else NodeType(kind)
        if _is_node(value):
            return self.node(value, key, node_type)
        if value == "???":
            hint = f"set it: {key}=..."
            error = UserError(f"`{key}` has no value yet", key=key, expected=describe(node_type.hint), hint=hint)
            return self._fail(error)
        if errors := _hidden_nodes(value, key):
            return self._fail(*errors)
        return _plain(node_type.hint)

    def _named_nodes(self, nodes: Any, key: str, kind: NamedNodes) -> Any:
        if not isinstance(nodes, dict) or _is_node(nodes):
            message = f"a {kind.noun} needs a name" if _is_node(nodes) else f"there is no {kind.noun}"
            message, hint = (
                f"{message}: `{key}` holds them by their names",
                f"{kind.how_to_add(f'{key}.NAME')} adds one",
            )
            return self._fail(UserError(message, key=key, value=as_yaml_null(nodes), hint=hint))
        names, fields = [name for name, node in nodes.items() if _is_node(node)], {}
        for name, node in nodes.items():
            inner = f"{key}.{name}"
            self.types[inner] = kind.item.hint
            if name in names:
                fields[name] = self.node({"_partial_": kind.partial} | node, inner, kind.item)
                continue
            message, value = f"`{inner}` is no {kind.noun}", as_yaml_null(node)
            hint = suggest(name, names, f"{key}.") or f"{kind.how_to_add(inner)} adds one, ~{inner} leaves it out"
            fields[name] = self._fail(UserError(message, key=inner, value=value, expected=names, hint=hint))
        return _create(key, fields, fields)

    def _fail(self, *errors: UserError) -> Any:
        self.errors += errors
        return Any

    def validate(self, model: type[BaseModel], values: Config) -> list[UserError]:
        """Everything that is wrong with ``values``, one error per key."""
        errors = {error.key: error for error in self.errors}
        try:
            model.model_validate(values)
        except ValidationError as invalid:
            for details in invalid.errors(include_url=False):
                error = self._translate(details["type"], details["loc"], values)
                errors.setdefault(error.key, error)
        return list(errors.values())

    def _translate(self, kind: str, path: Sequence[int | str], values: Config) -> UserError:
        """A pydantic error as a UserError; ``path`` may lead on into a union or into a list."""
        key = ".".join(map(str, path))
        if kind in ("extra_forbidden", "invalid_key"):
            return self._unknown_key(key, _at(values, path))
        if kind == "missing" and key in self.types:
            hint = f"leave out `~{key}`, or set it: +{key}=..."
            return UserError(f"`{key}` is missing", key=key, hint=hint)
        depth = next(n for n in range(len(path), 0, -1) if ".".join(map(str, path[:n])) in self.types)
        key = ".".join(map(str, path[:depth]))
        return _wrong_value(_at(values, path[:depth]), self.types[key], key)

    def _unknown_key(self, key: str, value: Any) -> UserError:
        group, _, name = key.rpartition(".")
        prefix = f"{group}." if group else ""
        siblings = [other.removeprefix(prefix) for other in self.types if other.startswith(prefix)]
        known = sorted(other for other in siblings if "." not in other and not other.startswith("_"))
        names = known if group else [*known, "strategy", "experiment"]  # these two groups fill other keys
        message, hint = f"unknown key `{key}`", suggest(name, names, prefix)
        for other in known:
            if not hint and isinstance(kind := self.types[prefix + other], NamedNodes):
                hint = f"a {kind.noun} is set as {prefix}{other}.{name}"
        return UserError(message, key=key, value=as_yaml_null(value), expected=known or NO_KEY, hint=hint)


def check_value(value: Any, hint: Any, key: str) -> list[UserError]:
    """Compare one value with a type annotation, strictly: ``"1.5"`` is no number and ``1.5`` no whole number."""
    model = ConfigModel()
    model.types[key] = hint
    return model.validate(_create(key, {key: _plain(hint)}, (key,)), {key: value})


def check_node(
    node: Config, key: str, extensions: Collection[str] = (), kind: NodeType | None = None
) -> list[UserError]:
    """Everything that is wrong with one node and the nodes inside it."""
    model = ConfigModel(extensions)
    fields = {key: model.node(node, key, kind or NodeType(Any))}
    return model.validate(_create(key, fields, (key,)), {key: node})


def _create(name: str, fields: Mapping[str, Any], required: Collection[str]) -> type[BaseModel]:
    """A strict model. Keys are aliases of numbered fields, since a key may be the name of a method of BaseModel."""
    definitions: dict[str, Any] = {
        f"field_{i}": (kind, Field(... if key in required else None, alias=key))
        for i, (key, kind) in enumerate(fields.items())
    }
    return create_model(name, __config__=STRICT, **definitions)


def _plain(hint: Any) -> Any:
    """A type as a field's annotation; an object can only come from a node, so another value of it is an error."""
    if not expects_object(hint):
        return hint
    return reduce(or_, [arg for arg in get_args(hint) if not expects_object(arg)] if is_union(hint) else [], AnyNode)


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


def _at(values: Any, path: Sequence[int | str]) -> Any:
    return reduce(lambda value, name: value[name], path, values)


def _misfit(node: Config, key: str, hint: Any) -> UserError:
    value = node["_target_"] + (" with _partial_: true" if node.get("_partial_") else "")
    return UserError(
        f"this object does not fit `{key}`",
        key=f"{key}._target_",
        value=value,
        expected=describe_expected_object(hint),
        hint=f"leave {key} as its options set it",
    )


def _hidden_nodes(value: Any, key: str) -> list[UserError]:
    """Nodes inside a plain value, which nothing builds, and texts that Hydra would resolve again."""
    if isinstance(value, str) and "${" in value:
        return [UserError("text cannot hold an interpolation of its own", key=key, value=value, hint="leave out ${")]
    if isinstance(value, list):
        return [error for i, item in enumerate(value) for error in _hidden_nodes(item, f"{key}[{i}]")]
    errors = []
    for name, item in value.items() if isinstance(value, dict) else ():
        inner = f"{key}.{name}"
        if re.fullmatch(r"_\w+_", str(name)):
            message, hint = "no object is built here", f"leave out `{name}`"
            errors.append(UserError(message, key=inner, value=as_yaml_null(item), hint=hint))
        errors += _hidden_nodes(item, inner)
    return errors


def _wrong_value(value: Any, hint: Any, key: str) -> UserError:
    message, advice = f"wrong value for `{key}`", _advice(value, hint, key)
    if expects_object(hint) and "." not in key:
        message = f"`{key}` must stay a mapping of keys with a `_target_`"
        advice = f"set its keys: {key}.KEY=VALUE" + (f", or choose an option: {key}=NAME" * (CONF / key).is_dir())
    return UserError(message, key=key, value=as_yaml_null(value), expected=describe(hint), hint=advice)


def _advice(value: Any, hint: Any, key: str) -> str:
    """What the user probably meant by a value of the wrong type."""
    expected = describe(hint)
    if expects_object(hint):
        group = key.removeprefix("trainer.").replace(".", "/")  # strategy/ fills trainer.strategy
        return f"choose an option: {group}={value if isinstance(value, str) else 'NAME'}"
    if "one of" in expected:
        return suggest(str(value), [str(name) for kind in (hint, *get_args(hint)) for name in get_args(kind)])
    if value == "None" and "null" in expected:
        return f"{key}=null"
    if "number" in expected and isinstance(value, str) and NUMBER.fullmatch(value):
        return f"this is text, the number is {key}={float(value):g}"
    if isinstance(value, float):
        return f"{key}={int(value)}" if "whole number" in expected and value.is_integer() else ""
    if expected.startswith("text") and isinstance(value, int | float):
        return f"""quote it twice: {key}="'{value}'" """
    if expected.startswith("a list") and isinstance(value, str | int | float):
        return f"{key}=[{str(value).strip('[]')}]"
    return ""


def describe(hint: Any) -> str:
    """A type annotation in a user's words: ``whole number >= 2``, ``one of: en, zh``."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return " ".join([describe(args[0]), *map(_describe_bound, args[1:])])
    if origin is typing.Literal:
        return "one of: " + ", ".join(map(str, args))
    if is_union(hint):
        return " or ".join(map(describe, args))
    if origin in (list, tuple):
        return f"a list, each item {describe(args[0])}"
    if origin is dict or hint is dict:
        return "a mapping"
    if expects_object(hint):
        return "an option of this group"
    return WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _describe_bound(bound: Any) -> str:
    limits = [f"{sign} {getattr(bound, k):g}" for k, sign in BOUNDS.items() if getattr(bound, k, None) is not None]
    return " and ".join([*limits, *(["(not empty)"] if getattr(bound, "min_length", None) == 1 else [])])
