"""The code is the schema: what keys and values a config node may have is read off the signature of its ``_target_``.

Runtime objects are positional parameters; knobs are keyword-only, annotated with their range, and have no default.
"""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Unpack, get_args, get_origin, get_type_hints

from r1.config.check.types import describe_expected_object, expects_object, hints_of, is_compatible
from r1.core.errors import NO_KEY, UserError, as_yaml_null, suggest
from r1.core.renamed import suggest_renamed

ALLOWED_PACKAGES = ("r1",)
META = ("_target_", "_partial_")
Node = dict[str, Any]


@dataclass(frozen=True)
class Signature:
    """What a target asks for, name -> type: runtime objects in order, knobs, and which knobs must be there."""

    runtime: dict[str, Any]
    knobs: dict[str, Any]
    required: set[str]


def resolve(path: Any, where: str, extensions: Iterable[str] = ()) -> Callable[..., Any]:
    """The object a ``_target_`` names, if it lies in a package that may be built from a config.

    Raises:
        UserError: the package is not allowed, or the object does not exist.
    """
    allowed = (*ALLOWED_PACKAGES, *extensions)
    place = f"{where}._target_"
    refused = "a config may not build this object"
    if not isinstance(path, str) or not path:
        raise UserError(
            "a target is a dotted path", key=place, value=as_yaml_null(path), expected="for example my_rewards.brevity"
        )
    if renamed := suggest_renamed(place, path):
        raise UserError("no such object", key=place, value=path, hint=renamed)
    if not _inside(path, allowed):
        hint = f"if you trust it: extensions=[{path.split('.')[0]}]"
        raise UserError(refused, key=place, value=path, expected=f"objects of {', '.join(allowed)}", hint=hint)
    try:
        target = _locate(path)
    except Exception as error:  # an import runs code that may raise anything
        raise UserError("no such object", key=place, value=path, hint=f"{type(error).__name__}: {error}") from None
    if not callable(target) or not _inside(defining_module(target), {package.split(".")[0] for package in allowed}):
        owner = defining_module(target) or "none"
        defined = f"functions and classes defined in {', '.join(allowed)}; this one belongs to {owner}"
        raise UserError(refused, key=place, value=path, expected=defined)
    return target  # type: ignore[no-any-return]


def _locate(path: str) -> Any:
    first, *rest = path.split(".")
    found: Any = importlib.import_module(first)
    for i, part in enumerate(rest, 2):
        if not hasattr(found, part):
            importlib.import_module(".".join(path.split(".")[:i]))
        found = getattr(found, part)
    return found


def _inside(path: str, packages: Iterable[str]) -> bool:
    return any(path == package or path.startswith(f"{package}.") for package in packages)


def defining_module(target: Any) -> str:
    """The module in which a function or class was defined, whatever name it was reached by."""
    return getattr(target, "__module__", "") or ""


def signature(target: Callable[..., Any]) -> Signature:
    """Read ``target``'s parameters; ``**kwargs: Unpack[SomeTypedDict]`` counts as that dict's keys."""
    function = target.__init__ if inspect.isclass(target) else target
    hints = hints_of(function)
    found = Signature({}, {}, set())
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self" or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            shared = _shared(hints.get(name))
            found.knobs.update(shared)
            found.required.update(shared)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            found.knobs[name] = hints.get(name, Any)
            found.required.update({name} if parameter.default is parameter.empty else ())
        else:
            found.runtime[name] = hints.get(name, Any)
    return found


def _shared(hint: Any) -> dict[str, Any]:
    if get_origin(hint) is Unpack:
        return get_type_hints(get_args(hint)[0], include_extras=True)
    return {}


def problems(
    node: Node,
    where: str,
    extensions: Collection[str] = (),
    extra: Node | None = None,
    hint: Any = Any,
    handed: Collection[str] = (),
) -> list[UserError]:
    """Everything wrong with one config node and the nodes inside it.

    Args:
        node: a resolved config node with a ``_target_``.
        where: its config key, for the messages.
        extra: further keys that whoever holds the node reads, name -> type.
        hint: the type that the node must make to stand here.
        handed: runtime objects that the node is given, which no config may set.
    """
    try:
        target = resolve(node["_target_"], where, extensions)
        sig = signature(target)
    except UserError as error:
        return [error]
    except ValueError as error:  # a builtin without a signature
        return [UserError("this object cannot be built from a config", key=f"{where}._target_", hint=str(error))]
    own = _inside(defining_module(target), ALLOWED_PACKAGES)
    partial = node.get("_partial_", False)
    if not is_compatible(target, hint, partial, own):
        return [_misplaced(node, where, hint)]
    knobs = sig.knobs | (extra or {})
    if not own:  # a user's code: any parameter of it may be set
        knobs |= {name: kind for name, kind in sig.runtime.items() if name not in handed}
    found = [_unknown(name, where, node[name], knobs) for name in node if name not in knobs and name not in META]
    found += [_missing(f"{where}.{name}") for name in sorted(sig.required | set(extra or {})) if name not in node]
    for name in [name for name in node if name in knobs]:
        found += value_problems(node[name], knobs[name], f"{where}.{name}", extensions)
    return found


def _misplaced(node: Node, where: str, hint: Any) -> UserError:
    value = node["_target_"] + (" with _partial_: true" if node.get("_partial_") else "")
    message = f"this object does not fit `{where}`"
    do = f"leave {where} as its options set it"
    return UserError(message, key=f"{where}._target_", value=value, expected=describe_expected_object(hint), hint=do)


def _missing(where: str) -> UserError:
    return UserError(f"`{where}` is missing", key=where, hint=f"leave out `~{where}`, or set it: +{where}=...")


def _unknown(name: Any, where: str, given: Any, knobs: Iterable[str]) -> UserError:
    key, known = f"{where}.{name}", sorted(knobs)
    hint = suggest(str(name), known, f"{where}.")
    return UserError(
        f"unknown key `{key}`: nothing reads it",
        key=key,
        value=as_yaml_null(given),
        expected=known or NO_KEY,
        hint=hint,
    )


def value_problems(value: Any, hint: Any, where: str, extensions: Collection[str] = ()) -> list[UserError]:
    """What is wrong with the value of one key: a node is checked as a node, anything else against its type."""
    if isinstance(value, dict) and "_target_" in value:
        return problems(value, where, extensions, hint=hint)
    kind = get_args(hint)[1] if get_origin(hint) is dict else Any
    if isinstance(value, dict) and kind is not Any and expects_object(kind):
        return [p for name in value for p in _named_problems(name, value, kind, where, extensions)]
    if value == "???":
        message = f"`{where}` has no value yet"
        return [UserError(message, key=where, expected=describe(hint), hint=f"set it: {where}=...")]
    return _hidden_nodes(value, where) or check_value(value, hint, where)


def _named_problems(name: str, named: Node, hint: Any, where: str, extensions: Collection[str]) -> list[UserError]:
    """What is wrong with one of several nodes that the user gives names to."""
    key, node = f"{where}.{name}", named[name]
    if isinstance(node, dict) and "_target_" in node:
        return problems(node, key, extensions, hint=hint)
    others = [other for other, item in named.items() if isinstance(item, dict) and "_target_" in item]
    do = suggest(name, others, f"{where}.") or f"+{where.partition('.')[0]}@{key}=OPTION"
    return [UserError(f"`{key}` is {describe(hint)}", key=key, value=as_yaml_null(node), expected=others, hint=do)]


def _hidden_nodes(value: Any, where: str) -> list[UserError]:
    """Nodes where none is built, and what Hydra would read as instructions to itself."""
    if isinstance(value, str) and "${" in value:
        return [UserError("text cannot hold an interpolation of its own", key=where, value=value, hint="leave out ${")]
    if isinstance(value, list):
        return [problem for i, item in enumerate(value) for problem in _hidden_nodes(item, f"{where}[{i}]")]
    if not isinstance(value, dict):
        return []
    found = [
        UserError("no object is built here", key=f"{where}.{key}", value=as_yaml_null(item), hint=f"leave out `{key}`")
        for key, item in value.items()
        if re.fullmatch(r"_\w+_", str(key))
    ]
    return found + [p for key, item in value.items() for p in _hidden_nodes(item, f"{where}.{key}")]


def check_value(value: Any, hint: Any, where: str) -> list[UserError]:
    """Compare one value with a type annotation, strictly: ``"1.5"`` is no number and ``1.5`` no whole number."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    if hint is Any:
        return []
    if expects_object(hint):  # only a node can fill it
        return [] if value is None and type(None) in get_args(hint) else [_wrong_value(value, hint, where)]
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    try:
        TypeAdapter(hint, config=strict).validate_python(value)
    except ValidationError:
        return [_wrong_value(value, hint, where)]
    return []


def _wrong_value(value: Any, hint: Any, where: str) -> UserError:
    return UserError(
        f"wrong value for `{where}`",
        key=where,
        value=as_yaml_null(value),
        expected=describe(hint),
        hint=advice(value, hint, where),
    )


def advice(value: Any, hint: Any, where: str) -> str:
    """What the user probably meant by a value of the wrong type."""
    words = describe(hint)
    if expects_object(hint):
        group = where.removeprefix("trainer.").replace(".", "/")
        return f"choose an option: {group}={value if isinstance(value, str) else 'NAME'}"
    if "one of" in words:
        return suggest(str(value), [str(name) for kind in (hint, *get_args(hint)) for name in get_args(kind)])
    if value == "None" and "null" in words:
        return f"{where}=null"
    if "number" in words and isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", value, re.I):
        return f"this is text, the number is {where}={float(value):g}"
    if isinstance(value, float):
        return f"{where}={int(value)}" if "whole number" in words and value.is_integer() else ""
    if words.startswith("text") and isinstance(value, int | float):
        return f"""quote it twice: {where}="'{value}'" """
    if words.startswith("a list") and isinstance(value, str | int | float):
        return f"{where}=[{str(value).strip('[]')}]"
    return ""


def describe(hint: Any) -> str:
    """A type annotation in a user's words: ``whole number >= 2``, ``one of: en, zh``."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return " ".join([describe(args[0]), *(_bound(bound) for bound in args[1:])])
    if origin is typing.Literal:
        return "one of: " + ", ".join(map(str, args))
    if origin is typing.Union or type(hint).__name__ == "UnionType":
        return " or ".join(describe(arg) for arg in args)
    if origin in (list, tuple):
        return f"a list, each item {describe(args[0])}" if args else "a list"
    if origin is dict:
        return "a mapping"
    if expects_object(hint):
        return "an option of this group"
    words = {int: "whole number", float: "finite number", str: "text", bool: "true or false", type(None): "null"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def _bound(bound: Any) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    limits = [f"{sign} {getattr(bound, k):g}" for k, sign in signs.items() if getattr(bound, k, None) is not None]
    return " and ".join([*limits, *(["(not empty)"] if getattr(bound, "min_length", None) == 1 else [])])
