"""The code is the schema: what keys and values a config node may have is read off the signature of its ``_target_``.

Runtime objects are positional parameters; knobs are keyword-only, annotated with their range, and have no default.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Unpack, get_args, get_origin, get_type_hints

from r1.errors import UserError, nearest

ALLOWED_PACKAGES = ("r1", "lightning.pytorch.loggers", "torch.optim")
META = {"_target_", "_partial_"}
Node = dict[str, Any]


@dataclass(frozen=True)
class Signature:
    """What a target asks for: runtime objects by name, knobs by name and type, and whether it takes any other key."""

    runtime: list[str]
    knobs: dict[str, Any]
    required: set[str]
    strict: bool


def resolve(path: str, where: str, extensions: Iterable[str] = ()) -> Callable[..., Any]:
    """The object a ``_target_`` names, if it lies in a package that may be built from a config.

    Raises:
        UserError: the package is not allowed, or the object does not exist.
    """
    from hydra.utils import get_object

    allowed = (*ALLOWED_PACKAGES, *extensions)
    if not any(path == package or path.startswith(package + ".") for package in allowed):
        raise UserError(
            "a config may not build this object",
            where=f"{where}._target_",
            given=path,
            allowed=f"objects of {', '.join(allowed)}",
            do=f"if you trust it: extensions=[{path.split('.')[0]}]",
        )
    try:
        target = get_object(path)
    except Exception as error:
        reason = str(error).splitlines()[-1]
        raise UserError("no such object", where=f"{where}._target_", given=path, do=reason) from None
    if not (callable(target) and _home(target).split(".")[0] in {package.split(".")[0] for package in allowed}):
        raise UserError(
            "a config may not build this object",
            where=f"{where}._target_",
            given=path,
            allowed="functions and classes defined in an allowed package",
        )
    return target  # type: ignore[no-any-return]


def _home(target: Any) -> str:
    return getattr(target, "__module__", "") or ""


def signature(target: Callable[..., Any]) -> Signature:
    """Read ``target``'s parameters; ``**kwargs: Unpack[SomeTypedDict]`` counts as that dict's keys."""
    function = target.__init__ if inspect.isclass(target) else target
    hints = get_type_hints(function, include_extras=True)
    runtime: list[str] = []
    knobs: dict[str, Any] = {}
    required: set[str] = set()
    strict = True
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self" or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            shared = _shared(hints.get(name))
            knobs |= shared
            required |= set(shared)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            knobs[name] = hints.get(name, Any)
            required |= {name} if parameter.default is parameter.empty else set()
        else:
            runtime.append(name)
    return Signature(runtime, knobs, required, strict)


def _shared(hint: Any) -> dict[str, Any]:
    if get_origin(hint) is Unpack:
        return get_type_hints(get_args(hint)[0], include_extras=True)
    return {}


def problems(node: Node, where: str, extensions: Iterable[str] = (), extra: Node | None = None) -> list[UserError]:
    """Everything wrong with one config node and the nodes inside it.

    Args:
        node: a resolved config node with a ``_target_``.
        where: its config key, for the messages.
        extra: further keys that whoever holds the node reads, name -> type.
    """
    try:
        target = resolve(str(node["_target_"]), where, extensions)
    except UserError as error:
        return [error]
    sig = signature(target)
    knobs = sig.knobs | (extra or {})
    if _is_foreign_function(target, extensions):  # a user's reward: any parameter of it may be set
        knobs |= dict.fromkeys(sig.runtime, Any)
    found = [_unknown(name, where, node[name], knobs) for name in node if name not in knobs and name not in META]
    missing = [name for name in sorted(sig.required | set(extra or {})) if name not in node]
    found += [
        UserError("a key is missing", where=f"{where}.{name}", do=f"set it, e.g. +{where}.{name}=...")
        for name in missing
    ]
    for name in node.keys() & knobs.keys():
        found += _value_problems(node[name], knobs[name], f"{where}.{name}", extensions)
    return found


def _is_foreign_function(target: Any, extensions: Iterable[str]) -> bool:
    return _home(target).split(".")[0] in set(extensions)


def _unknown(name: Any, where: str, given: Any, knobs: Iterable[str]) -> UserError:
    knobs = sorted(knobs)
    return UserError(
        f"unknown key `{where}.{name}`: nothing reads it",
        where=f"{where}.{name}",
        given=given,
        allowed=", ".join(knobs),
        do=nearest(str(name), knobs),
    )


def _value_problems(value: Any, hint: Any, where: str, extensions: Iterable[str]) -> list[UserError]:
    if isinstance(value, dict) and "_target_" in value:
        return problems(value, where, extensions)
    if value == "???":
        return [UserError("a value is missing", where=where, allowed=describe(hint), do=f"set it: {where}=...")]
    return check_value(value, hint, where)


def check_value(value: Any, hint: Any, where: str) -> list[UserError]:
    """Compare one value with a type annotation, strictly: ``"1.5"`` is no number and ``1.5`` no whole number."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticSchemaGenerationError

    if hint is Any:
        return []
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
    except PydanticSchemaGenerationError:  # a runtime protocol: only a node with a `_target_` can fill it
        return [UserError("this key takes a group option, not a value", where=where, given=value)]
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        inner = "".join(f".{part}" for part in first["loc"] if isinstance(part, str) and part in str(value))
        return [UserError(f"wrong value for `{where}{inner}`", where=where, given=value, allowed=describe(hint))]
    return []


def describe(hint: Any) -> str:
    """A type annotation in a user's words: ``whole number >= 2``, ``one of: en, zh``."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return " ".join([describe(args[0]), *(_bound(bound) for bound in args[1:])])
    if origin is typing.Literal:
        return "one of: " + ", ".join(map(str, args))
    if origin in (typing.Union, getattr(typing, "UnionType", None)) or type(hint).__name__ == "UnionType":
        return " or ".join(describe(arg) for arg in args)
    if origin in (list, tuple):
        return "a list of " + describe(args[0]) if args else "a list"
    if origin is dict:
        return "a mapping"
    words = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def _bound(bound: Any) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    return " and ".join(
        f"{sign} {getattr(bound, name):g}" for name, sign in signs.items() if getattr(bound, name, None) is not None
    )
