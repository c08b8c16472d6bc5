"""The relation "same answer" of two texts: exact where both are exact, relative where a decimal is involved.

What one side leaves out may be missing, what it states must not contradict: ``5`` is ``5\\text{ cm}``, and that is not
``5\\text{ m}``; ``x = 2`` is ``2`` and not ``y = 2``; ``1, 2`` is ``\\{1,2\\}`` and ``(1,2)``, which differ. The
relation is reflexive and symmetric.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import mpmath

from r1.data.verifier.evaluate import Point, UndefinedError, Value, agree, is_symbolic, lift
from r1.data.verifier.guard import digits
from r1.data.verifier.intervals import OPERATIONS, ascending, same_members, solution
from r1.data.verifier.reader import read
from r1.data.verifier.tokens import COMMAS
from r1.data.verifier.tree import FLIPPED, Node, is_inequality, is_name
from r1.data.verifier.units import unit

Presence = Literal["optional", "required"]

NUM_POINTS = 3
FAR_POINTS = ((3, 10**4), (4, 10**4))
"""Where expressions in pieces are compared too: near zero ``|x-5|`` is ``5-x``, and ``\\lfloor x/9 \\rfloor`` is 0."""
GUARD_DIGITS = 20
DECIMAL_COMMA = re.compile(r"-?[0-9]+,[0-9]+")
PHRASES = {  # of each row, all texts state the same
    "emptyset": (
        *("nosolution", "nosolutions", "none", "empty", "theemptyset", "norealsolution", "norealsolutions"),
        *("thereisnosolution", "therearenosolutions", "nosuchnumber"),
    ),
    "dne": ("doesnotexist", "thelimitdoesnotexist"),
    "infinitelymany": ("infinitelymanysolutions", "infinitesolutions", "thereareinfinitelymanysolutions"),
}
MEANING = {phrase: row for row, phrases in PHRASES.items() for phrase in phrases}


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
    with mpmath.workdps(2 * size + 2 * GUARD_DIGITS), contextlib.suppress(RecursionError):
        return a != "" != b and AnswerComparison(rules, size + GUARD_DIGITS).same(read(a), read(b))
    return False  # a product of hundreds of factors


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
            (OPERATIONS, self.set_operations),
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

    def same_list(self, a: Sequence[Node], b: Sequence[Node]) -> bool:
        """In any order, each as often as on the other side."""
        if len(a) != len(b) or Counter(a) == Counter(b):
            return len(a) == len(b)
        return all(sum(self.same(x, y) for y in a) == sum(self.same(x, y) for y in b) for x in (*a, *b))

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
            points = self.points
            if in_pieces(a) or in_pieces(b):
                points = [*points, *(Point(seed, scale) for seed, scale in FAR_POINTS)]
            return all(agree(point.value(a), point.value(b), self.num_digits) for point in points)
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
            return self.states(relation, other) if is_equation(relation) else self.real_sets(relation, other)
        if is_equation(a) and is_equation(b):
            return self.equations(a, b)
        if is_equation(a) or is_equation(b):
            equation, inequality = (a, b) if is_equation(a) else (b, a)
            named, (name, sides) = solution(inequality), stated(equation)
            return named is not None and name == named[0] and self.same(named[1], sides[0])
        if self.real_sets(a, b):
            return True
        a, b = ascending(a), ascending(b)
        return (a.name == b.name and self.all_same(a.args, b.args)) or self.proportional(a, b)

    def equations(self, a: Node, b: Node) -> bool:
        names, values = zip(*map(stated, (a, b)), strict=True)
        if names[0] is not None and names[1] is not None and self.same_name(*names):
            return self.states(a, values[0][0], values[1][0]) and self.states(b, values[1][0], values[0][0])
        if self.all_same(a.args, b.args) or self.all_same(a.args, b.args[::-1]):
            return True
        return self.proportional(a, b)

    def same_name(self, a: Node, b: Node) -> bool:
        """The same, or one of them without its arguments: ``y(t)`` and ``y``."""
        return self.same(a, b) or any(
            function.kind == "*" and function.args[0] == name and name.kind == "symbol"
            for function, name in ((a, b), (b, a))
        )

    def states(self, equation: Node, *values: Node) -> bool:
        """Whether an equation names or works out each of these values, and all its sides agree."""
        name, sides = stated(equation)
        if name is not None and is_list(sides[0]) and any(map(names_items, values)):  # x = 1, 2 is not x = 1, y = 2
            named = [Node("relation", (name, value), "=") for value in sides[0].args]
            return all(self.same_list(named, value.args) for value in values)
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
        """``6:8`` is ``3:4``; two times of day are equal part by part, and ``3:00`` is 3."""
        if a.kind != b.kind:
            ratio, other = (a, b) if a.kind == "ratio" else (b, a)
            return ratio.name == "clock" and not ratio.args[1].value and self.same(ratio.args[0], other)
        if self.all_same(a.args, b.args) or len(a.args) != len(b.args) or a.name == b.name == "clock":
            return self.all_same(a.args, b.args)
        shares = [[Node("/", (part, ratio.args[0])) for part in ratio.args] for ratio in (a, b)]
        return self.all_same(*shares)

    # ---- sets ----

    def real_sets(self, a: Node, b: Node) -> bool:
        """Sets of real numbers and inequalities, by their members."""
        left, right = solution(a), solution(b)
        if left is None or right is None or (left[0] and right[0] and left[0] != right[0]):
            return False
        verdict = same_members(left[1], right[1], self.same)
        return self.alike(left[1], right[1]) if verdict is None else verdict

    def alike(self, a: Node, b: Node) -> bool:
        """Sets part by part."""
        kinds = {"comma": "union"}
        if kinds.get(a.kind, a.kind) != kinds.get(b.kind, b.kind):
            return False
        if a.kind == "sequence":
            return self.sequences(a, b)
        return self.all_same(a.args, b.args) if a.kind == "difference" else self.same_set(a.args, b.args)

    def set_operations(self, a: Node, b: Node) -> bool:
        return self.alike(a, b) if solution(a) is None or solution(b) is None else self.real_sets(a, b)

    def sequences(self, a: Node, b: Node) -> bool:
        """Sets and bare lists in any order, others in order and with the same brackets."""
        if a.kind != b.kind:
            sequence, other = (a, b) if a.kind == "sequence" else (b, a)
            return self.one_item(sequence, other) or (solution(other) is not None and self.real_sets(a, b))
        if (states_bounds(a) or states_bounds(b)) and self.real_sets(a, b):
            return True
        kinds = {a.name, b.name}
        if kinds == {""} and any(item.kind == "sequence" for item in (*a.args, *b.args)):
            return self.same_set(a.args, b.args)  # solutions such as (1,2), (3,4), however often each is listed
        if kinds == {""}:
            compare = self.same_list if names_items(a) == names_items(b) else self.all_same
            return compare(a.args, b.args)
        if kinds == {"{}"} or (kinds == {"", "{}"} and self.rules.brackets == "optional"):
            return self.same_set(a.args, b.args)
        if kinds == {"", "()"} and self.rules.brackets == "required":
            return False
        return (len(kinds) == 1 or kinds == {"", "()"}) and self.all_same(a.args, b.args)

    def one_item(self, sequence: Node, other: Node) -> bool:
        """A set of one, a list that repeats one value, and rows in square brackets as a matrix."""
        if other.kind == "matrix":
            rows = sequence.args if sequence.name == "[]" else ()
            if not all(row.kind == "sequence" and row.name == "[]" for row in rows):
                return False
            cells = [row.args for row in rows]
            return {str(len(row)) for row in cells} == {other.name} and self.all_same(sum(cells, ()), other.args)
        if sequence.name == "{}":
            return self.rules.brackets == "optional" and len(sequence.args) == 1 and self.same(sequence.args[0], other)
        return is_list(sequence) and not names_items(sequence) and all(self.same(item, other) for item in sequence.args)


def texts(a: Node, b: Node) -> bool:
    names = [node.name.strip(".") if node.kind in ("text", "unread", "symbol") else "" for node in (a, b)]
    meaning = [MEANING.get(name.strip("()"), name.strip("()")) for name in names]
    return names[0] != "" and (names[0] == names[1] or (meaning[0] == meaning[1] and meaning[0] in PHRASES))


def is_list(node: Node) -> bool:
    return node.kind == "sequence" and not node.name


def names_items(node: Node) -> bool:
    """Whether a bare list has an item such as ``x = 1``."""
    return is_list(node) and any(item.kind == "relation" for item in node.args)


def states_bounds(node: Node) -> bool:
    """Whether a bare list consists of inequalities."""
    return is_list(node) and all(map(is_inequality, node.args))


def in_pieces(node: Node) -> bool:
    """Whether an expression can be another one elsewhere: ``|x-5|``, a root, a floor, a maximum."""
    fractional = node.kind == "^" and node.args[1].kind != "number"
    pieces = node.kind in ("|", "root", "floor", "ceil") or (node.kind == "function" and node.name in ("max", "min"))
    return pieces or fractional or any(map(in_pieces, node.args))


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


def with_unit(node: Node, other: str) -> tuple[Node, str]:
    """A value and its unit; the last letter of ``5 m`` is a unit where the other side has this one."""
    if node.kind == "*" and node.args[1].kind == "symbol" and unit(node.args[1].name) == other:
        return node.args[0], other
    return (node.args[0], node.name) if node.kind == "unit" else (node, "")
