"""One parameter of a sweep file: its distribution, and whether it says what that asks for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from r1.core.errors import UserError, as_yaml_null, suggest
from r1.experiment.sweep.values import NUMBER, problem, yaml_float

Spec = dict[str, Any]
BOUNDS, NORMAL = ("min", "max"), ("mu", "sigma")
DISTRIBUTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # keys that must, and that may be there
    "constant": (("value",), ()),
    "categorical": (("values",), ()),
    "categorical_w_probabilities": (("values", "probabilities"), ()),
    "int_uniform": (BOUNDS, ()),
    "uniform": (BOUNDS, ()),
    "q_uniform": (BOUNDS, ("q",)),
    "log_uniform": (BOUNDS, ()),
    "q_log_uniform": (BOUNDS, ("q",)),
    "inv_log_uniform": (BOUNDS, ()),
    "log_uniform_values": (BOUNDS, ()),
    "q_log_uniform_values": (BOUNDS, ("q",)),
    "inv_log_uniform_values": (BOUNDS, ()),
    "normal": ((), NORMAL),
    "q_normal": ((), (*NORMAL, "q")),
    "log_normal": ((), NORMAL),
    "q_log_normal": ((), (*NORMAL, "q")),
    "beta": ((), ("a", "b")),
    "q_beta": ((), ("a", "b", "q")),
}
IN_GRID = ("constant", "categorical", "int_uniform", "q_uniform")  # those with a list of values
EXPONENTS = ("log_uniform", "q_log_uniform", "inv_log_uniform")  # min and max are exponents of e
NUMBERS = ("min", "max", "q", "mu", "sigma", "a", "b")
LARGE = 1e100  # no knob has such a value, and arithmetic with it overflows
POSITIVE = ("q", "sigma", "a", "b")
KEYS = ("value", "values", "distribution", "probabilities", *NUMBERS)


def distribution(spec: Spec) -> str | None:
    """The distribution that W&B takes a parameter to have; None: it could not tell."""
    if "distribution" in spec:
        return str(spec["distribution"])
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    if not {"min", "max"} <= spec.keys():
        return None
    return "int_uniform" if isinstance(spec["min"], int) and isinstance(spec["max"], int) else "uniform"


def parameter(name: Any, spec: Any, in_grid: bool) -> list[UserError]:
    """Everything wrong with one parameter, whatever its name means."""
    where = f"parameters.{name}"
    if not isinstance(name, str):
        return [
            UserError(
                "a parameter's name is text", key="parameters", value=as_yaml_null(name), hint="a key of the config"
            )
        ]
    if not isinstance(spec, dict):
        hint = f"values: {spec}" if isinstance(spec, list) else f"value: {spec}"
        return [UserError("a parameter is a mapping", key=where, value=as_yaml_null(spec), hint=hint)]
    if "parameters" in spec:
        sub = next(iter(spec["parameters"] or {}), "KEY") if isinstance(spec["parameters"], dict | None) else "KEY"
        hint = f"write dotted names: {name}.{sub}"
        return [UserError("the agent hands a nested block over as one mapping", key=where, hint=hint)]
    if unknown := [key for key in spec if key not in KEYS]:
        key = str(unknown[0])
        hint = suggest(key, KEYS)
        message = f"unknown key `{key}` of a parameter"
        return [
            UserError(message, key=f"{where}.{key}", value=as_yaml_null(spec[unknown[0]]), expected=KEYS, hint=hint)
        ]
    return _shape(where, spec, in_grid) or [*_numbers(where, spec), *_values(where, spec)] or _bounds(where, spec)


def _shape(where: str, spec: Spec, in_grid: bool) -> list[UserError]:
    """Whether the keys are those of the distribution, and a grid can enumerate it."""
    kind = distribution(spec)
    if kind not in DISTRIBUTIONS:
        message = "unknown distribution" if kind else "neither a value, values, nor min and max"
        hint = suggest(kind, DISTRIBUTIONS) if kind else "value: X, values: [X, Y], or min: X and max: Y"
        place = f"{where}.distribution" if kind else where
        return [UserError(message, key=place, value=kind or ", ".join(spec), expected=DISTRIBUTIONS, hint=hint)]
    must, may = DISTRIBUTIONS[kind]
    found = [
        UserError(f"distribution {kind} asks for `{key}`", key=f"{where}.{key}", hint=f"{key}: ...")
        for key in must
        if key not in spec
    ]
    found += [
        UserError(f"distribution {kind} does not read `{key}`", key=f"{where}.{key}", value=as_yaml_null(spec[key]),
                  expected=(*must, *may), hint=_instead(key, kind))
        for key in spec
        if key not in (*must, *may, "distribution")
    ]  # fmt: skip
    if in_grid and kind not in IN_GRID:
        hint = "values: [...], or method: random"
        found.append(UserError("a grid needs a list of values", key=where, value=kind, expected=IN_GRID, hint=hint))
    return found


def _instead(key: str, kind: str) -> str:
    with_q = f"q_{kind}"
    return f"distribution: {with_q}" if key == "q" and with_q in DISTRIBUTIONS else f"leave out {key}"


def _numbers(where: str, spec: Spec) -> Iterator[UserError]:
    for key in [key for key in NUMBERS if key in spec]:
        value, place = spec[key], f"{where}.{key}"
        if isinstance(value, str) and NUMBER.fullmatch(value):
            yield UserError("YAML reads this as text", key=place, value=value, hint=f"write {yaml_float(value)}")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGE:
            yield UserError(f"wrong value for `{key}`", key=place, value=as_yaml_null(value), expected="number")
        elif key in POSITIVE and value <= 0:
            yield UserError(f"wrong value for `{key}`", key=place, value=value, expected="number > 0")


def _values(where: str, spec: Spec) -> Iterator[UserError]:
    if "value" in spec and (wrong := problem(spec["value"], f"{where}.value")):
        yield wrong
    if "values" not in spec:
        return
    values = spec["values"]
    if not isinstance(values, list) or not values:
        yield UserError(
            "`values` is a list", key=f"{where}.values", value=as_yaml_null(values), hint=f"values: [{values}]"
        )
        return
    for i, value in enumerate(values):
        if wrong := problem(value, f"{where}.values[{i}]"):
            yield wrong
        elif any(str(value) == str(earlier) for earlier in values[:i]):
            yield UserError("this value stands twice", key=f"{where}.values[{i}]", value=value, hint="leave one out")
    if "probabilities" in spec:
        yield from _probabilities(spec["probabilities"], len(values), f"{where}.probabilities")


def _probabilities(given: Any, count: int, where: str) -> Iterator[UserError]:
    numbers = isinstance(given, list) and all(isinstance(p, int | float) and not isinstance(p, bool) for p in given)
    if not numbers or len(given) != count or min(given) < 0 or not math.isclose(sum(given), 1.0, abs_tol=1e-6):
        expected = f"{count} numbers >= 0 with the sum 1, one for each value"
        yield UserError("wrong value for `probabilities`", key=where, value=as_yaml_null(given), expected=expected)


def _bounds(where: str, spec: Spec) -> list[UserError]:
    if not {"min", "max"} <= spec.keys():
        return []
    kind, low, high = distribution(spec), spec["min"], spec["max"]
    if low >= high:
        message, hint = "no range lies within these bounds", f"value: {low}" if low == high else "swap them"
        return [UserError(message, key=f"{where}.min", value=low, expected=f"number < {high}", hint=hint)]
    if kind == "int_uniform" and not (isinstance(low, int) and isinstance(high, int)):
        hint = "distribution: uniform"
        return [UserError("int_uniform has whole bounds", key=f"{where}.min", value=f"{low}, {high}", hint=hint)]
    if str(kind).endswith("log_uniform_values") and low <= 0:
        message = "a logarithm needs positive bounds"
        return [UserError(message, key=f"{where}.min", value=low, expected="number > 0")]
    if kind in EXPONENTS and low > 0 and high <= 1:
        message = f"min and max of {kind} are exponents of e: every value would lie between 1 and {math.e:.3g}"
        return [UserError(message, key=f"{where}.min", value=low, hint=f"distribution: {kind}_values")]
    return []
