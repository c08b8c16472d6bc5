"""The value of an expression at one point, exact where it is rational, else to any number of digits.

Two expressions that agree to many digits at points that are chosen by hash are the same (identity testing; Schwartz
1980). Unlike simplification it cannot go astray, is symmetric, and depends on the two texts alone.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath
from mpmath import mp

from r1.data.verifier.tree import CONSTANTS, Node

Scalar = Any  # a Fraction, or mpmath's mpf or mpc
Value = Scalar | list[list[Scalar]]
"""A number or a matrix, a list of rows."""

MAX_BITS = 400_000  # of an exact power
MAX_MATRIX_POWER = 64
INVERSE = {f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")}
FUNCTIONS: dict[str, Callable[..., Scalar]] = {
    **{name: getattr(mp, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth")},
    **{name: getattr(mp, function) for name, function in INVERSE.items()},
    **{"sech": mp.sech, "csch": mp.csch, "ln": mp.log, "lg": mp.log10, "exp": mp.exp, "Gamma": mp.gamma},
    **{"Re": mp.re, "Im": mp.im, "arg": mp.arg, "log": lambda x, base=10: mp.log(x) / mp.log(base)},
}


class UndefinedError(ArithmeticError):
    """The expression has no value here."""


class Point:
    """A value for every symbol, from the hash of its name.

    Args:
        seed: another seed is another point; an odd one has negative values.
        scale: of the values, which lie between a fifth and two of it.
    """

    def __init__(self, seed: int, scale: int = 1) -> None:
        self.seed, self.scale = seed, scale
        self.values: dict[int, tuple[Node, Value]] = {}  # by id, which is free again once the node is gone

    def symbol(self, name: str) -> Scalar:
        constants = {"e": mp.e, "i": mpmath.mpc(0, 1), "pi": mp.pi, "infty": mp.inf}
        if name in constants:
            return +constants[name]
        digest = int.from_bytes(hashlib.sha256(f"{self.seed} {name}".encode()).digest()[:6], "big")
        return self.scale * (1 - 2 * (self.seed % 2)) * (mpmath.mpf(digest) / 2**47 + mpmath.mpf(1) / 5)

    def value(self, node: Node) -> Value:
        """The value of a tree.

        Raises:
            UndefinedError: it has none.
        """
        if id(node) not in self.values:
            try:
                value = self._compute(node)
            except (ZeroDivisionError, ValueError, TypeError, OverflowError, IndexError) as error:
                raise UndefinedError from error
            if not isinstance(value, (list, Fraction)) and mpmath.isnan(value):
                raise UndefinedError
            self.values[id(node)] = node, value
        return self.values[id(node)][1]

    def _compute(self, node: Node) -> Value:
        if node.kind == "number":
            return node.value
        if node.kind == "symbol":
            return self.symbol(node.name)
        if node.kind == "^" and node.args[1] == Node("symbol", name="T"):
            return [list(column) for column in zip(*self._matrix(node.args[0]), strict=True)]
        values = [self.value(arg) for arg in node.args]
        if node.kind == "matrix":
            columns = int(node.name)
            return [values[i : i + columns] for i in range(0, len(values), columns)]
        if node.kind == "applied":
            return self.symbol(f"{node.name}({', '.join(mpmath.nstr(lift(value), 15) for value in values)})")
        if node.kind == "function":
            return function(node.name, values)
        return OPERATIONS[node.kind](*values)

    def _matrix(self, node: Node) -> list[list[Scalar]]:
        value = self.value(node)
        if not isinstance(value, list):
            raise UndefinedError
        return value


def is_symbolic(node: Node) -> bool:
    """Whether a value depends on a symbol."""
    if node.kind == "symbol":
        return node.name not in CONSTANTS
    return node.kind == "applied" or any(map(is_symbolic, node.args))


def lift(value: Scalar) -> Scalar:
    """mpmath's number for a fraction."""
    return mpmath.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def both(exact: Callable[[Any, Any], Any]) -> Callable[[Scalar, Scalar], Scalar]:
    """An operation on two numbers, exact on two fractions."""

    def operate(a: Scalar, b: Scalar) -> Scalar:
        return exact(a, b) if isinstance(a, Fraction) and isinstance(b, Fraction) else exact(lift(a), lift(b))

    return operate


def add(a: Value, b: Value) -> Value:
    if isinstance(a, list) != isinstance(b, list):
        raise UndefinedError
    if isinstance(a, list):
        return [[add(x, y) for x, y in zip(p, q, strict=True)] for p, q in zip(a, b, strict=True)]
    return both(lambda x, y: x + y)(a, b)


def multiply(a: Value, b: Value) -> Value:
    if isinstance(a, list) and isinstance(b, list):
        columns = list(zip(*b, strict=True))
        return [[functools.reduce(add, map(multiply, row, column)) for column in columns] for row in a]
    if isinstance(a, list):
        return [[multiply(x, b) for x in row] for row in a]
    return multiply(b, a) if isinstance(b, list) else both(lambda x, y: x * y)(a, b)


def divide(a: Value, b: Value) -> Value:
    return multiply(a, both(lambda x, y: x / y)(Fraction(1), b))


def power(a: Value, b: Scalar) -> Value:
    """Exact while that is small; real where a negative number has an odd root."""
    integer = int(b) if isinstance(b, Fraction) and b.denominator == 1 else None
    if isinstance(a, list):
        if integer is None or not 0 < integer <= MAX_MATRIX_POWER:
            raise UndefinedError
        return functools.reduce(multiply, [a] * integer)
    if integer is not None:
        return a**integer if isinstance(a, Fraction) and bits(a) * abs(integer) <= MAX_BITS else lift(a) ** integer
    if isinstance(b, Fraction) and b.denominator % 2 and mpmath.im(lift(a)) == 0 and a < 0:
        return root(Fraction(b.denominator), a) ** b.numerator
    return mpmath.power(lift(a), lift(b))


def bits(number: Fraction) -> int:
    return max(number.numerator.bit_length(), number.denominator.bit_length())


def root(index: Scalar, a: Scalar) -> Scalar:
    """The principal root; of a negative number with an odd index the real one."""
    if isinstance(index, Fraction) and index.denominator == 1 and index % 2 == 1 and mpmath.im(lift(a)) == 0 and a < 0:
        return -mpmath.root(-lift(a), int(index))
    if index == 2:
        return mpmath.sqrt(lift(a))
    return mpmath.power(lift(a), 1 / lift(index))


def factorial_value(a: Scalar) -> Scalar:
    if isinstance(a, Fraction) and a.denominator == 1:
        return Fraction(math.factorial(int(a)))
    return mpmath.gamma(lift(a) + 1)


def binomial(n: Scalar, k: Scalar) -> Scalar:
    if isinstance(n, Fraction) and isinstance(k, Fraction) and n.denominator == k.denominator == 1 and min(n, k) >= 0:
        return Fraction(math.comb(int(n), int(k)))
    return mpmath.binomial(lift(n), lift(k))


def function(name: str, values: list[Value]) -> Value:
    """The value of a named function; ``log`` is to the base 10 unless it has another."""
    if name == "det":
        return determinant(values[0])
    if name in ("max", "min"):
        return (max if name == "max" else min)(values, key=lift)
    if name in ("gcd", "lcm"):
        integers = [int(value) for value in values if isinstance(value, Fraction) and value.denominator == 1]
        if len(integers) < len(values):
            raise UndefinedError
        return Fraction((math.gcd if name == "gcd" else math.lcm)(*integers))
    return FUNCTIONS[name](*map(lift, values))


def determinant(matrix: Value) -> Scalar:
    """By the first row."""
    if not isinstance(matrix, list) or len(matrix) != len(matrix[0]) or len(matrix) > 5:
        raise UndefinedError
    if len(matrix) == 1:
        return matrix[0][0]
    total: Value = Fraction(0)
    for column, factor in enumerate(matrix[0]):
        minor = [row[:column] + row[column + 1 :] for row in matrix[1:]]
        total = add(total, multiply(multiply(factor, determinant(minor)), Fraction((-1) ** column)))
    return total


def nearest(exact: Callable[[Any], Any], other: Callable[[Any], Any]) -> Callable[[Scalar], Scalar]:
    return lambda a: Fraction(exact(a)) if isinstance(a, Fraction) else other(a)


OPERATIONS: dict[str, Callable[..., Value]] = {
    **{"+": add, "*": multiply, "/": divide, "^": power, "root": root, "!": factorial_value, "binom": binomial},
    **{"-": lambda a: multiply(Fraction(-1), a), "|": lambda a: determinant(a) if isinstance(a, list) else abs(a)},
    **{"floor": nearest(math.floor, mpmath.floor), "ceil": nearest(math.ceil, mpmath.ceil)},
}


def agree(a: Value, b: Value, digits: int) -> bool:
    """Whether two values are the same to ``digits`` digits, of the larger one and at least after the point."""
    if isinstance(a, list) and isinstance(b, list):
        shapes = [list(map(len, value)) for value in (a, b)]
        return shapes[0] == shapes[1] and all(
            agree(x, y, digits) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
        )
    if isinstance(a, list) or isinstance(b, list):
        return False
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    left, right = lift(a), lift(b)
    if mpmath.isinf(left) or mpmath.isinf(right):
        return bool(left == right)
    return bool(abs(left - right) <= mpmath.mpf(10) ** -digits * max(1, abs(left), abs(right)))
