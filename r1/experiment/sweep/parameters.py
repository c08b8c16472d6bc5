"""The errors in one parameter of a sweep file: unknown keys, values of the wrong type, impossible ranges."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from r1.core.errors import UserError, as_yaml_null, suggest
from r1.experiment.sweep.distributions import (
    EXPONENT_DISTRIBUTIONS,
    GRID_DISTRIBUTIONS,
    KEYS_BY_DISTRIBUTION,
    MAX_EXPONENT,
    Spec,
    distribution_of,
)
from r1.experiment.sweep.values import NUMBER, value_error, wrong_value, yaml_float

NUMBER_KEYS = ("min", "max", "q", "mu", "sigma", "a", "b")
POSITIVE_KEYS = ("q", "sigma", "a", "b")
PARAMETER_KEYS = ("value", "values", "distribution", "probabilities", *NUMBER_KEYS)
TAIL_SIGMAS = 6.0  # standard deviations from the mean within which a draw lies
MAX_MULTIPLE = 2**53  # multiples of q, and whole numbers, that a float can tell apart
MAX_VALUE = 1e100  # no config key has such a value, and arithmetic with it overflows


def parameter_errors(name: Any, spec: Any, in_grid: bool) -> list[UserError]:
    """Everything wrong with one parameter, whether or not the config has a key of that name."""
    where = f"parameters.{name}"
    if not isinstance(name, str):
        message, hint = "a parameter's name is text", "a key of the config"
        return [UserError(message, key="parameters", value=as_yaml_null(name), hint=hint)]
    if not isinstance(spec, dict):
        hint = f"values: {spec}" if isinstance(spec, list) else f"value: {spec}"
        return [UserError("a parameter is a mapping", key=where, value=as_yaml_null(spec), hint=hint)]
    if "parameters" in spec:
        inner = next(iter(spec["parameters"] or {}), "KEY") if isinstance(spec["parameters"], dict | None) else "KEY"
        hint = f"write dotted names: {name}.{inner}"
        return [UserError("the agent hands a nested block over as one mapping", key=where, hint=hint)]
    if unknown := [key for key in spec if key not in PARAMETER_KEYS]:
        key, value = str(unknown[0]), as_yaml_null(spec[unknown[0]])
        message, hint = f"unknown key `{key}` of a parameter", suggest(key, PARAMETER_KEYS)
        return [UserError(message, key=f"{where}.{key}", value=value, expected=PARAMETER_KEYS, hint=hint)]
    # each check needs a spec that passed the one before
    if errors := _key_errors(where, spec, in_grid):
        return errors
    errors = [*_number_errors(where, spec), *_value_errors(where, spec)] or _range_errors(where, spec)
    return errors or list(_overflow_errors(where, spec))


def _key_errors(where: str, spec: Spec, in_grid: bool) -> list[UserError]:
    """Keys that the distribution misses or does not have, and distributions that a grid cannot enumerate."""
    name = distribution_of(spec)
    if name is None:
        message, hint = "neither a value, values, nor min and max", "value: X, values: [X, Y], or min: X and max: Y"
        return [UserError(message, key=where, value=", ".join(spec), expected=KEYS_BY_DISTRIBUTION, hint=hint)]
    if name not in KEYS_BY_DISTRIBUTION:
        key, hint = f"{where}.distribution", suggest(name, KEYS_BY_DISTRIBUTION)
        return [UserError("unknown distribution", key=key, value=name, expected=KEYS_BY_DISTRIBUTION, hint=hint)]
    required, optional = KEYS_BY_DISTRIBUTION[name]
    errors = [
        UserError(f"distribution {name} needs `{key}`", key=f"{where}.{key}", hint=f"{key}: ...")
        for key in required
        if key not in spec
    ]
    for key in [key for key in spec if key not in (*required, *optional, "distribution")]:
        message = f"distribution {name} has no key `{key}`"
        hint = f"distribution: q_{name}" if key == "q" and f"q_{name}" in KEYS_BY_DISTRIBUTION else f"leave out {key}"
        value, expected = as_yaml_null(spec[key]), (*required, *optional)
        errors.append(UserError(message, key=f"{where}.{key}", value=value, expected=expected, hint=hint))
    if in_grid and name not in GRID_DISTRIBUTIONS:
        message, hint = "a grid needs a list of values", "values: [...], or method: random"
        errors.append(UserError(message, key=where, value=name, expected=GRID_DISTRIBUTIONS, hint=hint))
    return errors


def _number_errors(where: str, spec: Spec) -> Iterator[UserError]:
    for name in [name for name in NUMBER_KEYS if name in spec]:
        value, key = spec[name], f"{where}.{name}"
        if isinstance(value, str) and NUMBER.fullmatch(value):
            yield UserError("YAML reads this as text", key=key, value=value, hint=f"write {yaml_float(value)}")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_VALUE:
            yield wrong_value(key, value, "number")
        elif name in POSITIVE_KEYS and value <= 0:
            yield wrong_value(key, value, "number > 0")


def _value_errors(where: str, spec: Spec) -> Iterator[UserError]:
    if "value" in spec and (error := value_error(spec["value"], f"{where}.value")):
        yield error
    if "values" not in spec:
        return
    values, key = spec["values"], f"{where}.values"
    if not isinstance(values, list) or not values:
        yield UserError("`values` is a list", key=key, value=as_yaml_null(values), hint=f"values: [{values}]")
        return
    for i, value in enumerate(values):
        if error := value_error(value, f"{key}[{i}]"):
            yield error
        elif any(str(value) == str(earlier) for earlier in values[:i]):
            yield UserError("this value occurs twice", key=f"{key}[{i}]", value=value, hint="leave one out")
    if "probabilities" in spec:
        yield from _probability_errors(spec["probabilities"], len(values), f"{where}.probabilities")


def _probability_errors(probabilities: Any, count: int, key: str) -> Iterator[UserError]:
    is_list = isinstance(probabilities, list)
    numbers = is_list and all(isinstance(p, int | float) and not isinstance(p, bool) for p in probabilities)
    valid = numbers and len(probabilities) == count and min(probabilities) >= 0
    if not valid or not math.isclose(sum(probabilities), 1.0, abs_tol=1e-6):
        yield wrong_value(key, probabilities, f"{count} numbers >= 0 with the sum 1, one for each value")


def _range_errors(where: str, spec: Spec) -> list[UserError]:
    """An error in ``min`` and ``max``, which are numbers."""
    if not {"min", "max"} <= spec.keys():
        return []
    name, low, high, key = str(distribution_of(spec)), spec["min"], spec["max"], f"{where}.min"
    if low >= high:
        message, hint = "the range between these bounds is empty", f"value: {low}" if low == high else "swap them"
        return [UserError(message, key=key, value=low, expected=f"number < {high}", hint=hint)]
    if name == "int_uniform" and not (isinstance(low, int) and isinstance(high, int)):
        message, hint = "int_uniform has whole bounds", "distribution: uniform"
        return [UserError(message, key=key, value=f"{low}, {high}", hint=hint)]
    if name.endswith("log_uniform_values") and low <= 0:
        return [UserError("a logarithm needs positive bounds", key=key, value=low, expected="number > 0")]
    if name in EXPONENT_DISTRIBUTIONS and low > 0 and high <= 1:  # 1e-5 to 1e-3 is meant as values
        message = f"min and max of {name} are exponents of e: every value would lie between 1 and {math.e:.3g}"
        return [UserError(message, key=key, value=low, hint=f"distribution: {name}_values")]
    return []


def _overflow_errors(where: str, spec: Spec) -> Iterator[UserError]:
    """Numbers that are valid alone, and whose draws overflow, underflow, or are too coarse for a float."""
    name = str(distribution_of(spec))
    bounds = {key: spec[key] for key in ("min", "max") if key in spec}
    if name in EXPONENT_DISTRIBUTIONS:
        yield from (_exponent_error(f"{where}.{key}", bound) for key, bound in bounds.items() if _overflows(bound))
    elif name.endswith("log_normal"):
        mu, sigma = spec.get("mu", 0.0), spec.get("sigma", 1.0)
        if _overflows(mu):
            yield _exponent_error(f"{where}.mu", mu)
        elif _overflows(abs(mu) + TAIL_SIGMAS * sigma):
            most = (MAX_EXPONENT - abs(mu)) / TAIL_SIGMAS
            message = f"draws of {name} are e to the power of mu +- {TAIL_SIGMAS:g} sigma, which overflows"
            yield UserError(message, key=f"{where}.sigma", value=sigma, expected=f"number <= {most:.4g}")
    elif name.endswith("log_uniform_values") and bounds["min"] < 1 / MAX_VALUE:
        expected = f"number >= {1 / MAX_VALUE:g}"
        yield UserError("this bound underflows", key=f"{where}.min", value=bounds["min"], expected=expected)
    largest = max([abs(spec[key]) for key in (*bounds, "mu", "sigma") if key in spec], default=1.0)
    least_q = 1 / MAX_VALUE if "log" in name else largest / MAX_MULTIPLE
    if name.startswith("q_") and spec.get("q", 1.0) < least_q:
        message = "a float cannot count so many multiples of q"
        yield UserError(message, key=f"{where}.q", value=spec.get("q", 1.0), expected=f"number >= {least_q:.3g}")
    if name == "int_uniform" and largest > MAX_MULTIPLE:
        yield wrong_value(f"{where}.max", spec["max"], f"whole number of at most {MAX_MULTIPLE}")


def _overflows(exponent: float) -> bool:
    return abs(exponent) > MAX_EXPONENT


def _exponent_error(key: str, value: float) -> UserError:
    expected = f"number from {-MAX_EXPONENT:g} to {MAX_EXPONENT:g}"
    return UserError("this is an exponent of e, and its power overflows", key=key, value=value, expected=expected)
