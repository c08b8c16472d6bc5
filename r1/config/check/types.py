"""Whether a ``_target_`` builds an object of the type that a parameter is annotated with.

The type is a class (``Model``), a protocol (``Teacher``: any object with its methods), or a callable (``Advantage``): a
function, which a config names with ``_partial_: true``, or an object with ``__call__``.
"""

from __future__ import annotations

import collections.abc
import inspect
import typing
from collections.abc import Callable
from typing import Any, get_args, get_origin, get_type_hints

VALUES = (int, float, str, bool, type(None), list, dict, tuple, object, Any)


def hints_of(function: Any) -> dict[str, Any]:
    """A function's annotations; none if a user's module hides them behind ``TYPE_CHECKING``."""
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        return {}


def expects_object(hint: Any) -> bool:
    """Whether a key of this type is filled with an object and not with a value."""
    if is_union(hint):
        return any(expects_object(arg) for arg in get_args(hint))
    return get_origin(hint) is collections.abc.Callable or (isinstance(hint, type) and hint not in VALUES)


def is_compatible(target: Callable[..., Any], hint: Any, partial: Any, is_own: bool) -> bool:
    """Whether a node builds an object of type ``hint``.

    Args:
        target: the function or class that the node names.
        partial: the node's ``_partial_``.
        is_own: the target is r1's own, so that its return annotation must match; a user's may have none.
    """
    if hint is Any:
        return True
    if is_union(hint):
        return any(is_compatible(target, arg, partial, is_own) for arg in get_args(hint))
    if is_own and target.__module__.endswith(".base"):
        return False  # base classes are shared by options, but are no options
    if expects_callable(hint):
        function = _call_method(target) if inspect.isclass(target) else target
        if function is None or partial is not (not inspect.isclass(target)):  # a class is instantiated, a function not
            return False
        return not is_own or _return_type(function) == _expected_return(hint)
    if partial is not False or not expects_object(hint):
        return False
    built = target if inspect.isclass(target) else _return_type(target)
    if not inspect.isclass(built):
        return not is_own
    if _is_protocol(hint):
        return all(hasattr(built, name) for name in protocol_methods(hint))
    return issubclass(built, hint)


def _call_method(kind: type) -> Any:
    """The ``__call__`` of a class's objects, or None."""
    return next((vars(base)["__call__"] for base in kind.__mro__ if "__call__" in vars(base)), None)


def describe_expected_object(hint: Any) -> str:
    """The objects of type ``hint``, in a user's words."""
    if not expects_object(hint):
        return "a plain value; no object is built here"
    types = [arg for arg in get_args(hint) if expects_object(arg)] if is_union(hint) else [hint]
    return " or ".join(map(_describe_object, types))


def _describe_object(hint: Any) -> str:
    if expects_callable(hint):
        return f"a function, with _partial_: true, that returns {_name(_expected_return(hint))}"
    if _is_protocol(hint):
        return f"an object with the methods of {hint.__name__}: {', '.join(protocol_methods(hint))}"
    return f"an object of class {hint.__name__}"


def expects_callable(hint: Any) -> bool:
    """Whether a type is a ``Callable``, or a protocol or abstract class whose objects are called."""
    if get_origin(hint) is collections.abc.Callable:
        return True
    return (_is_protocol(hint) or inspect.isabstract(hint)) and "__call__" in vars(hint)


def protocol_methods(protocol: type) -> list[str]:
    """The public methods of a protocol."""
    return [name for name, value in vars(protocol).items() if inspect.isfunction(value) and not name.startswith("_")]


def _expected_return(hint: Any) -> Any:
    return get_args(hint)[1] if get_origin(hint) is collections.abc.Callable else hints_of(hint.__call__).get("return")


def _return_type(function: Any) -> Any:
    return hints_of(function).get("return")


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)


def _is_protocol(hint: Any) -> bool:
    return isinstance(hint, type) and typing.Protocol in hint.__bases__


def is_union(hint: Any) -> bool:
    """Whether a type is ``A | B`` or ``Optional[A]``."""
    return get_origin(hint) is typing.Union or type(hint).__name__ == "UnionType"
