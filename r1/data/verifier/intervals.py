"""Sets of real numbers: the set that inequalities state, and whether two sets have the same members."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import mpmath

from r1.data.verifier.evaluate import Point, UndefinedError, is_symbolic, lift
from r1.data.verifier.tree import EMPTY_SET, FLIPPED, INFINITY, REALS, Node, is_inequality, is_interval, is_name

MINUS_INFINITY = Node("-", (INFINITY,))
OPERATIONS = {"union", "intersection", "difference", "comma"}
Solution = tuple[Node | None, Node]
"""The name that inequalities bound, None for a set, which names nothing; and the set where it may lie."""
Same = Callable[[Node, Node], bool]


def solution(node: Node) -> Solution | None:
    """What a set of real numbers, an inequality or several of them state; None for all else.

    Inequalities with commas between them are a set of kind ``comma``: all hold, or if they cannot, one of them.
    """
    if node.kind == "relation":
        return bounded(node)
    listed = node.kind == "sequence" and not node.name and all(map(is_inequality, node.args))
    if listed or node.kind in OPERATIONS:
        parts = [part for part in map(solution, node.args) if part is not None]
        names = {name for name, _ in parts if name is not None}
        if len(parts) < len(node.args) or len(names) > 1:
            return None
        return next(iter(names), None), Node("comma" if listed else node.kind, tuple(part for _, part in parts))
    is_set = node in (REALS, EMPTY_SET) or (node.kind == "sequence" and node.name == "{}") or is_open_at_infinity(node)
    return (None, node) if is_set else None


def is_open_at_infinity(node: Node) -> bool:
    """Whether a node is an interval: ``[-\\infty,0]`` is none."""
    ends = (MINUS_INFINITY, INFINITY)
    closed = [end in ends and bracket in "[]" for end, bracket in zip(node.args, node.name, strict=False)]
    return is_interval(node) and not any(closed)


def ascending(relation: Node) -> Node:
    """``b > a`` as ``a < b``."""
    names = relation.name.split(" ")
    if not set("".join(names)) & {">"} or "<" in relation.name:
        return relation
    return Node("relation", relation.args[::-1], " ".join(FLIPPED[name] for name in reversed(names)))


def bounded(relation: Node) -> Solution | None:
    """The name that an inequality bounds, and where it may lie: ``a < x \\le b`` is x in ``(a,b]``.

    ``x > a`` is ``(a,\\infty)``, ``|x-1| \\ge 2`` the union ``(-\\infty,-1] \\cup [3,\\infty)``.
    None: it does not bound one name alone.
    """
    relation = ascending(relation)
    names, sides = relation.name.split(" "), relation.args
    if names == ["!="] and is_name(sides[0]):
        return sides[0], all_but(sides[1])
    if not set(names) <= {"<", "<="}:
        return None
    if len(sides) == 2 and (is_name(sides[0]) or sides[0].kind == "|"):
        sides, names = (MINUS_INFINITY, *sides), ["<", *names]
    elif len(sides) == 2:
        sides, names = (*sides, INFINITY), [*names, "<"]
    if len(sides) != 3:
        return None
    brackets = ("(" if names[0] == "<" else "[") + (")" if names[1] == "<" else "]")
    middle, inside = sides[1], Node("sequence", (sides[0], sides[2]), brackets)
    if middle.kind == "|" and (form := linear(middle.args[0])) and form[0] is not None:
        return form[0], moved(mirrored(inside), form[1], form[2])
    if (form := linear(middle)) and form[0] is not None:
        return form[0], moved(inside, form[1], form[2])
    return (middle, inside) if is_name(middle) else None


def all_but(point: Node) -> Node:
    """The real numbers without one."""
    return Node("union", tuple(Node("sequence", ends, "()") for ends in ((MINUS_INFINITY, point), (point, INFINITY))))


def mirrored(interval: Node) -> Node:
    """Where x lies if ``|x|`` lies in an interval."""
    low, high = interval.args
    left = "(" if interval.name[1] == ")" else "["
    if low == MINUS_INFINITY:  # no lower bound
        return Node("sequence", (Node("-", (high,)), high), left + interval.name[1])
    negative = (MINUS_INFINITY if high == INFINITY else Node("-", (high,)), Node("-", (low,)))
    right = ")" if interval.name[0] == "(" else "]"
    return Node("union", (Node("sequence", negative, left + right), interval))


def moved(region: Node, slope: Fraction, offset: Fraction) -> Node:
    """Where x lies if ``slope * x + offset`` lies in a region."""
    if slope == 1 and offset == 0:
        return region
    if region.kind == "union":
        return Node("union", tuple(moved(part, slope, offset) for part in region.args))
    ends = tuple(end if end in (INFINITY, MINUS_INFINITY) else solved(end, slope, offset) for end in region.args)
    if slope > 0:
        return Node("sequence", ends, region.name)
    opposite = {INFINITY: MINUS_INFINITY, MINUS_INFINITY: INFINITY}
    brackets = region.name.translate(str.maketrans("()[]", ")(]["))[::-1]
    return Node("sequence", tuple(opposite.get(end, end) for end in reversed(ends)), brackets)


def solved(end: Node, slope: Fraction, offset: Fraction) -> Node:
    """The x where ``slope * x + offset`` is an end of an interval."""
    return Node("/", (Node("+", (end, Node("number", value=-offset))), Node("number", value=slope)))


def linear(node: Node) -> tuple[Node | None, Fraction, Fraction] | None:
    """``(x, a, b)`` of an expression ``ax + b`` with rational numbers; x is None if it has no unknown."""
    if node.kind == "number":
        return None, Fraction(0), node.value
    if node.kind == "symbol":
        return (node, Fraction(1), Fraction(0)) if is_symbolic(node) else None
    parts = [linear(arg) for arg in node.args] if node.kind in ("+", "-", "*", "/") else [None]
    forms = [part for part in parts if part is not None]
    names = {name for name, _, _ in forms if name is not None}
    if len(forms) < len(parts) or len(names) > 1:
        return None
    name, (_, a, b) = next(iter(names), None), forms[0]
    if node.kind == "-":
        return name, -a, -b
    _, c, d = forms[1]
    if node.kind == "+":
        return name, a + c, b + d
    if node.kind == "*":
        return None if a and c else (name, a * d + b * c, b * d)
    return None if c or not d else (name, a / d, b / d)


def same_members(a: Node, b: Node, same: Same) -> bool | None:
    """Whether two sets of real numbers have the same members; None if an end of an interval is no real number."""
    values: list[tuple[Any, Node]] = []
    for end in {*ends(a), *ends(b)}:
        try:
            value = None if is_symbolic(end) else lift(Point(0).value(end))
        except (UndefinedError, KeyError):
            value = None
        if value is None or isinstance(value, list) or mpmath.im(value) != 0:
            return None
        values.append((mpmath.re(value), end))
    values.sort(key=lambda pair: pair[0])
    positions: dict[Node, int] = {}
    for (_, before), (_, end) in zip([(None, REALS), *values], values, strict=False):
        equal = before in positions and same(before, end)
        positions[end] = positions[before] if equal else 1 + 2 * len(set(positions.values()))
    size = 2 * len(set(positions.values())) + 1
    return cells(a, positions, size) == cells(b, positions, size)


def ends(region: Node) -> Iterator[Node]:
    """The numbers where members of a set may begin or end."""
    if region.kind == "sequence":
        yield from (end for end in region.args if end not in (INFINITY, MINUS_INFINITY))
    else:
        for part in region.args:
            yield from ends(part)


def cells(region: Node, positions: dict[Node, int], size: int) -> list[bool]:
    """Whether a set holds each of the cells of the number line: the ends, at odd positions, and what lies between."""
    if region.kind != "sequence" and region.args:
        parts = list(zip(*(cells(part, positions, size) for part in region.args), strict=True))
        if region.kind == "difference":
            return [part[0] and not any(part[1:]) for part in parts]
        all_hold = list(map(all, parts))
        return (
            all_hold
            if region.kind == "intersection" or (region.kind == "comma" and any(all_hold))
            else list(map(any, parts))
        )
    if region.kind != "sequence":
        return [region == REALS] * size
    at = [{INFINITY: size, MINUS_INFINITY: -1}.get(end, positions.get(end, 0)) for end in region.args]
    if region.name == "{}":
        return [position in at for position in range(size)]
    inside = [at[0] < position < at[1] for position in range(size)]
    for position, bracket in zip(at, region.name, strict=True):
        if bracket in "[]" and 0 <= position < size and at[0] <= at[1]:
            inside[position] = True
    return inside
