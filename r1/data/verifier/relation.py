"""The relation "same answer" of two texts: exact where both are exact, relative where a decimal is involved.

What one side leaves out may be missing, what it states must not contradict: ``5`` is ``5\\text{ cm}``, and that is not
``5\\text{ m}``; ``x = 2`` is ``2`` and not ``y = 2``; ``1, 2`` is ``\\{1,2\\}`` and ``(1,2)``, which differ. The
relation is reflexive and symmetric.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import mpmath

from r1.data.verifier.evaluate import CONSTANTS, Point, UndefinedError, Value, agree, lift
from r1.data.verifier.guard import digits
from r1.data.verifier.reader import read
from r1.data.verifier.tokens import COMMAS
from r1.data.verifier.tree import INFINITY, REALS, Node, is_name
from r1.data.verifier.units import unit

Presence = Literal["optional", "required"]

NUM_POINTS = 3
GUARD_DIGITS = 20
MINUS_INFINITY = Node("-", (INFINITY,))
DECIMAL_COMMA = re.compile(r"-?[0-9]+,[0-9]+")
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "=", "~": "~"}
EMPTY = {  # texts that state the empty set
    *("emptyset", "nosolution", "nosolutions", "none", "empty", "emptyset", "theemptyset", "norealsolution"),
    *("norealsolutions", "thereisnosolution", "therearenosolutions", "nosuchnumber"),
}


@dataclass(frozen=True)
class Rules:
    """What the relation accepts.

    Attributes:
        rel_tol: largest difference of two numbers, relative to the larger, if one of them is a decimal.
        units: whether a unit may be missing on one side.
        brackets: whether the brackets of a set or a tuple may be missing on one side.
    """

    rel_tol: float
    units: Presence
    brackets: Presence


def same_answer(a: str, b: str, rules: Rules) -> bool:
    """Whether two canonical texts that the guard lets pass state the same answer."""
    if a == b:
        return a != ""
    if decimal_comma(a, b) or decimal_comma(b, a):
        return True
    size = sum(math.ceil(digits(text.replace(" ", ""))) + sum(map(str.isdigit, text)) for text in (a, b))
    with mpmath.workdps(2 * size + 2 * GUARD_DIGITS):
        return a != "" != b and AnswerComparison(rules, size + GUARD_DIGITS).same(read(a), read(b))


def decimal_comma(a: str, b: str) -> bool:
    """Whether ``a`` is ``b`` with a comma for its decimal point: ``1,22`` is ``1.22``; ``1,220`` is a thousand."""
    return DECIMAL_COMMA.fullmatch(a) is not None and not COMMAS.fullmatch(a.lstrip("-")) and a.replace(",", ".") == b


def close(a: Any, b: Any, ulp: Any, rel_tol: float) -> bool:
    """Equal up to ``rel_tol`` of the larger, and closer than one unit in the last place that the coarser one writes."""
    difference, larger = abs(a - b), max(abs(a), abs(b))
    return difference == 0 or bool(difference < ulp and difference / larger <= rel_tol * (1 + 1e-9))  # 0.333333 is 1/3


class AnswerComparison:
    """One comparison of two trees.

    Args:
        num_digits: to which two values must agree, enough to tell any two numbers apart that the texts spell out.
    """

    def __init__(self, rules: Rules, num_digits: int) -> None:
        self.rules, self.num_digits = rules, num_digits
        self.points = [Point(seed) for seed in range(NUM_POINTS)]

    def same(self, a: Node, b: Node) -> bool:
        """Whether two trees state the same; each kind has its comparison."""
        if a == b:
            return True
        for kinds, compare in (
            ({"choice"}, self.choices),
            ({"text", "unread"}, texts),
            ({"relation"}, self.relations),
            ({"unit"}, self.units),
            ({"union", "intersection", "difference"}, self.set_operations),
            ({"sequence"}, self.sequences),
            ({"ratio"}, self.ratios),
        ):
            if a.kind in kinds or b.kind in kinds:
                return compare(a, b)
        try:
            return self.expressions(a, b)
        except (UndefinedError, KeyError):
            return False

    def all_same(self, a: Sequence[Node], b: Sequence[Node]) -> bool:
        """Side by side."""
        return len(a) == len(b) and all(map(self.same, a, b))

    def same_set(self, a: Sequence[Node], b: Sequence[Node]) -> bool:
        """In any order, however often each occurs."""
        one_way = all(any(self.same(x, y) for y in b) for x in a)
        return one_way and all(any(self.same(x, y) for x in a) for y in b)

    def choices(self, a: Node, b: Node) -> bool:
        """``(D) 5`` and ``(D)`` or ``5``: the label or the value may be missing on one side."""
        if a.kind == b.kind:
            return a.name == b.name and self.all_same(a.args, b.args)
        choice, other = (a, b) if a.kind == "choice" else (b, a)
        return any(self.same(part, other) for part in (Node("symbol", name=choice.name), *choice.args))

    # ---- expressions ----

    def expressions(self, a: Node, b: Node) -> bool:
        """By value: at every point if there are unknowns, up to the tolerance if there is a decimal."""
        if a.kind == b.kind == "matrix":
            return a.name == b.name and self.all_same(a.args, b.args)
        if is_symbolic(a) or is_symbolic(b):
            return all(agree(point.value(a), point.value(b), self.num_digits) for point in self.points)
        left, right = (self.points[0].value(node) for node in (a, b))
        if agree(left, right, self.num_digits):
            return True
        if isinstance(left, list) or isinstance(right, list):
            return False
        ulp = max(lift(last_place(a)), lift(last_place(b)))
        return ulp > 0 and close(lift(left), lift(right), ulp, self.rules.rel_tol)

    # ---- relations ----

    def relations(self, a: Node, b: Node) -> bool:
        """Equations and inequalities with each other, and with the value, interval or set that they state."""
        if a.kind != "relation" or b.kind != "relation":
            relation, other = (a, b) if a.kind == "relation" else (b, a)
            if is_equation(relation):
                return self.states(relation, other)
            named = solutions(relation)
            return (
                named is not None
                and other.kind in ("sequence", "union", "intersection", "difference")
                and self.same(named[1], other)
            )
        if is_equation(a) and is_equation(b):
            return self.equations(a, b)
        if is_equation(a) or is_equation(b):
            equation, inequality = (a, b) if is_equation(a) else (b, a)
            named, (name, sides) = solutions(inequality), stated(equation)
            return named is not None and name == named[0] and self.same(named[1], sides[0])
        left, right = solutions(a), solutions(b)
        if left is not None and right is not None and left[0] == right[0] and self.same(left[1], right[1]):
            return True
        a, b = ascending(a), ascending(b)
        return (a.name == b.name and self.all_same(a.args, b.args)) or self.proportional(a, b)

    def equations(self, a: Node, b: Node) -> bool:
        names, values = zip(*map(stated, (a, b)), strict=True)
        if names[0] is not None and names[1] is not None and self.same(*names):
            return self.states(a, values[0][0], values[1][0]) and self.states(b, values[1][0], values[0][0])
        if self.all_same(a.args, b.args) or self.all_same(a.args, b.args[::-1]):
            return True
        return self.proportional(a, b)

    def states(self, equation: Node, *values: Node) -> bool:
        """Whether an equation names or works out each of these values, and all its sides agree."""
        name, sides = stated(equation)
        if name is None and any(map(is_symbolic, sides)):
            return False
        return all(any(self.same(side, value) for side in (sides[0], sides[-1])) for value in values) and all(
            self.same(sides[0], side) or self.rounded(sides[0], side) for side in sides[1:]
        )

    def rounded(self, exact: Node, approximate: Node) -> bool:
        """Whether a decimal in a chain is the rounded value before it: ``\\frac{2}{3} \\approx 0.67``."""
        try:
            left, right = (self.points[0].value(node) for node in (exact, approximate))
        except (UndefinedError, KeyError):
            return False
        ulp = last_place(approximate)
        return not is_symbolic(exact) and ulp > 0 and bool(abs(lift(left) - lift(right)) < lift(ulp))

    def proportional(self, a: Node, b: Node) -> bool:
        """Whether two equations or inequalities with unknowns differ by a constant factor alone."""
        if len(a.args) != 2 or len(b.args) != 2 or not (is_symbolic(a) and is_symbolic(b)):
            return False
        try:
            pairs = [tuple(difference(point, node) for node in (a, b)) for point in self.points]
            left, right = pairs[0]
            if any(agree(value, Fraction(0), self.num_digits) for value in (left, right)):
                return False
            factor = lift(left) / lift(right)
            if not all(agree(x, factor * lift(y), self.num_digits) for x, y in pairs[1:]):
                return False
        except (UndefinedError, KeyError, TypeError):
            return False
        real = mpmath.im(factor) == 0
        return b.name == (a.name if real and factor > 0 else FLIPPED[a.name]) and (real or a.name == "=")

    # ---- units, sequences, sets ----

    def units(self, a: Node, b: Node) -> bool:
        """Units that both sides state are equal; a missing one is what the rules say."""
        (left, left_unit), (right, right_unit) = with_unit(a, b.name), with_unit(b, a.name)
        if left_unit == right_unit:
            return self.same(left, right)
        if left_unit and right_unit:
            return False
        if "%" in (left_unit, right_unit):
            percent, other = (left, right) if left_unit else (right, left)
            if self.same(Node("/", (percent, Node("number", value=Fraction(100)))), other):
                return True
        return self.rules.units == "optional" and self.same(left, right)

    def ratios(self, a: Node, b: Node) -> bool:
        return a.kind == b.kind and self.all_same(a.args, b.args)

    def set_operations(self, a: Node, b: Node) -> bool:
        a, b = as_union(a), as_union(b)
        if a.kind != b.kind:
            return False
        if a.kind == "sequence":
            return self.sequences(a, b)
        return self.all_same(a.args, b.args) if a.kind == "difference" else self.same_set(a.args, b.args)

    def sequences(self, a: Node, b: Node) -> bool:
        """Sets and bare lists in any order, others in order and with the same brackets."""
        if a.kind != b.kind:
            sequence, other = (a, b) if a.kind == "sequence" else (b, a)
            if other == REALS:
                return sequence == Node("sequence", (MINUS_INFINITY, INFINITY), "()")
            return (
                self.rules.brackets == "optional"
                and sequence.name == "{}"
                and len(sequence.args) == 1
                and self.same(sequence.args[0], other)
            )
        kinds = {a.name, b.name}
        if kinds in ({""}, {"{}"}) or (kinds == {"", "{}"} and self.rules.brackets == "optional"):
            named = [any(item.kind == "relation" for item in node.args) for node in (a, b)]
            return self.same_set(a.args, b.args) if named[0] == named[1] else self.all_same(a.args, b.args)
        if kinds == {"", "()"} and self.rules.brackets == "required":
            return False
        return (len(kinds) == 1 or kinds == {"", "()"}) and self.all_same(a.args, b.args)


def texts(a: Node, b: Node) -> bool:
    names = [node.name.strip(".") if node.kind in ("text", "unread", "symbol") else "" for node in (a, b)]
    return names[0] != "" and (names[0] == names[1] or all(name.strip("()") in EMPTY for name in names))


def is_symbolic(node: Node) -> bool:
    """Whether a value depends on a symbol."""
    if node.kind == "symbol":
        return node.name not in CONSTANTS
    return node.kind == "applied" or any(map(is_symbolic, node.args))


def is_equation(relation: Node) -> bool:
    return not set(relation.name) & set("<>!")


def stated(equation: Node) -> tuple[Node | None, tuple[Node, ...]]:
    """What an equation names, and the sides that are its value; None: each side is."""
    sides = equation.args
    if is_name(sides[0]):
        return sides[0], sides[1:]
    return (sides[-1], sides[-2::-1]) if is_name(sides[-1]) else (None, sides)


def last_place(node: Node) -> Any:
    """One unit in the last place of a decimal, also of ``1.6 \\times 10^{-19}``; 0 for an exact expression."""
    if node.kind == "number":
        return node.ulp
    if node.kind in ("-", "unit"):
        return last_place(node.args[0])
    if node.kind == "*" and node.args[0].kind == "number" and is_power_of_ten(node.args[1]):
        value = Point(0).value(node.args[1])
        return node.args[0].ulp * value if isinstance(value, Fraction) else mpmath.inf
    return mpmath.inf if any(last_place(arg) for arg in node.args) else Fraction(0)


def is_power_of_ten(node: Node) -> bool:
    return node.kind == "^" and node.args[0].kind == "number" and node.args[0].value == 10


def difference(point: Point, relation: Node) -> Value:
    """Left minus right side."""
    left, right = relation.args
    return point.value(Node("+", (left, Node("-", (right,)))))


def ascending(relation: Node) -> Node:
    """``b > a`` as ``a < b``."""
    names = relation.name.split(" ")
    if not set("".join(names)) & {">"} or "<" in relation.name:
        return relation
    return Node("relation", relation.args[::-1], " ".join(FLIPPED[name] for name in reversed(names)))


def solutions(relation: Node) -> tuple[Node, Node] | None:
    """The name that an inequality bounds, and where it may lie: ``a < x \\le b`` is x in ``(a,b]``.

    ``x > a`` is ``(a,\\infty)``, ``|x| \\ge 2`` the union ``(-\\infty,-2] \\cup [2,\\infty)``.
    None: it does not bound one name alone.
    """
    relation = ascending(relation)
    names, sides = relation.name.split(" "), relation.args
    if names == ["!="] and is_name(sides[0]):
        return sides[0], all_but(sides[1])
    if not set(names) <= {"<", "<="}:
        return None
    if len(sides) == 2 and is_name(sides[0]):
        sides, names = (MINUS_INFINITY, *sides), ["<", *names]
    elif len(sides) == 2:
        sides, names = (*sides, INFINITY), [*names, "<"]
    if len(sides) != 3 or not is_name(sides[1]):
        return None
    brackets = ("(" if names[0] == "<" else "[") + (")" if names[1] == "<" else "]")
    if sides[1].kind == "|" and sides[1].args[0].kind == "symbol":
        return sides[1].args[0], mirrored(sides[0], sides[2], brackets)
    return sides[1], Node("sequence", (sides[0], sides[2]), brackets)


def all_but(point: Node) -> Node:
    """The real numbers without one."""
    return Node("union", tuple(Node("sequence", ends, "()") for ends in ((MINUS_INFINITY, point), (point, INFINITY))))


def mirrored(low: Node, high: Node, brackets: str) -> Node:
    """Where x lies if ``|x|`` lies between two bounds."""
    left = {")": "(", "]": "["}[brackets[1]]
    minus_high = Node("-", (high,))
    if low.kind == "-":  # no lower bound
        return Node("sequence", (minus_high, high), left + brackets[1])
    right = {"(": ")", "[": "]"}[brackets[0]]
    negative = Node("sequence", (minus_high, Node("-", (low,))), left + right)
    return Node("union", (negative, Node("sequence", (low, high), brackets)))


def as_interval(node: Node) -> Node:
    """``x > 2`` and ``x < 5`` as an interval; every other intersection as it is."""
    named = [item for item in map(solutions, node.args) if item is not None and item[1].kind == "sequence"]
    below = [(name, interval) for name, interval in named if interval.args[1] == INFINITY]
    above = [(name, interval) for name, interval in named if interval.args[0] == MINUS_INFINITY]
    if not (len(node.args) == 2 and len(below) == len(above) == 1 and below[0][0] == above[0][0]):
        return node
    (_, low), (_, high) = below[0], above[0]
    return Node("sequence", (low.args[0], high.args[1]), low.name[0] + high.name[1])


def as_union(node: Node) -> Node:
    """``x < 1`` or ``x > 2``, and the real numbers without one, as a union of intervals."""
    if node.kind == "difference" and node.args[0] == REALS and node.args[1].kind == "sequence":
        points = node.args[1].args
        return all_but(points[0]) if len(points) == 1 and node.args[1].name == "{}" else node
    if node.kind == "intersection":
        return as_interval(node)
    items = node.args if node.kind == "sequence" and not node.name else ()
    named = [solutions(item) if item.kind == "relation" else None for item in items]
    intervals = [item for item in named if item is not None]
    one_name = len(intervals) == len(items) and len({name for name, _ in intervals}) == 1
    return Node("union", tuple(interval for _, interval in intervals)) if one_name else node


def with_unit(node: Node, other: str) -> tuple[Node, str]:
    """A value and its unit; the last letter of ``5 m`` is a unit where the other side has this one."""
    if node.kind == "*" and node.args[1].kind == "symbol" and unit(node.args[1].name) == other:
        return node.args[0], other
    return (node.args[0], node.name) if node.kind == "unit" else (node, "")
