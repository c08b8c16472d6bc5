"""The code is the schema: the signature of a node's ``_target_`` says which keys and values the node may have.

Runtime objects are positional parameters; knobs are keyword-only, annotated with their range, and have no default.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Unpack, get_args, get_origin, get_type_hints

from r1.config.check.types import hints_of
from r1.core.errors import UserError, as_yaml_null
from r1.core.renamed import suggest_renamed

ALLOWED_PACKAGES = ("r1",)
GROUP_PACKAGES = {"callbacks": "lightning.pytorch.callbacks"}  # config group -> another package that its nodes may name
META = ("_target_", "_partial_")


@dataclass(frozen=True)
class Signature:
    """A target's parameters, name -> type: runtime objects in order, knobs, and the names of required knobs."""

    runtime: dict[str, Any]
    knobs: dict[str, Any]
    required: set[str]


def resolve(path: Any, key: str, extensions: Iterable[str] = ()) -> Callable[..., Any]:
    """The object a ``_target_`` names, if it lies in a package that may be built from a config.

    Raises:
        UserError: the package is not allowed, or the object does not exist.
    """
    of_group = GROUP_PACKAGES.get(key.partition(".")[0])
    allowed = (*ALLOWED_PACKAGES, *extensions, *([of_group] if of_group else []))
    key, refused = f"{key}._target_", "a config may not build this object"
    if not isinstance(path, str) or not path:
        expected = "for example my_rewards.brevity"
        raise UserError("a target is a dotted path", key=key, value=as_yaml_null(path), expected=expected)
    if renamed := suggest_renamed(key, path):
        raise UserError("no such object", key=key, value=path, hint=renamed)
    if not is_inside(path, allowed):
        hint = f"if you trust it: extensions=[{path.split('.')[0]}]"
        raise UserError(refused, key=key, value=path, expected=f"objects of {', '.join(allowed)}", hint=hint)
    try:
        target = _locate(path)
    except Exception as error:  # an import runs code that may raise anything
        raise UserError("no such object", key=key, value=path, hint=f"{type(error).__name__}: {error}") from None
    owners = {package if package == of_group else package.split(".")[0] for package in allowed}
    is_object = callable(target) and not isinstance(target, ModuleType)  # the module r1.run can be called
    if not is_object or not is_inside(defining_module(target), owners):
        owner = defining_module(target) or "none"
        defined = f"functions and classes defined in {', '.join(allowed)}; this one belongs to {owner}"
        raise UserError(refused, key=key, value=path, expected=defined)
    return target  # type: ignore[no-any-return]


def _locate(path: str) -> Any:
    """Import what a dotted path names; unlike ``pkgutil.resolve_name`` it shows why a module cannot be imported."""
    names = path.split(".")
    target: Any = importlib.import_module(names[0])
    for depth, name in enumerate(names[1:], 2):
        if not hasattr(target, name):
            importlib.import_module(".".join(names[:depth]))
        target = getattr(target, name)
    return target


def is_inside(path: str, packages: Iterable[str]) -> bool:
    """Whether a dotted path lies in one of ``packages``."""
    return any(path == package or path.startswith(f"{package}.") for package in packages)


def defining_module(target: Any) -> str:
    """The module in which a function or class was defined, whatever name it was reached by."""
    return getattr(target, "__module__", "") or ""


def signature(target: Callable[..., Any]) -> Signature:
    """Read ``target``'s parameters; ``**kwargs: Unpack[SomeTypedDict]`` counts as that dict's keys."""
    function = target.__init__ if inspect.isclass(target) else target
    hints = hints_of(function)
    result = Signature({}, {}, set())
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self" or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            shared = _shared(hints.get(name))
            result.knobs.update(shared)
            result.required.update(shared)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            result.knobs[name] = hints.get(name, Any)
            result.required.update({name} if parameter.default is parameter.empty else ())
        else:
            result.runtime[name] = hints.get(name, Any)
    return result


def _shared(hint: Any) -> dict[str, Any]:
    if get_origin(hint) is Unpack:
        return get_type_hints(get_args(hint)[0], include_extras=True)
    return {}
