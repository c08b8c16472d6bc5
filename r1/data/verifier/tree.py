"""The tree of an answer, and the words of mathematics."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

RELATIONS = {
    **{"=": "=", ":=": "=", "\\in": "=", "\\equiv": "=", "\\approx": "~", "\\sim": "~", "\\simeq": "~"},
    **{"<": "<", "\\lt": "<", ">": ">", "\\gt": ">", "!=": "!=", "\\ne": "!=", "\\neq": "!="},
    **{"<=": "<=", "\\le": "<=", "\\leq": "<=", "\\leqslant": "<="},
    **{">=": ">=", "\\ge": ">=", "\\geq": ">=", "\\geqslant": ">="},
}
CONSTANTS = {"e", "i", "pi", "infty"}
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "=", "~": "~"}
TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}
FUNCTIONS = TRIGONOMETRIC | {
    *("sinh", "cosh", "tanh", "coth", "sech", "csch", "ln", "log", "lg", "exp", "Re", "Im", "arg", "det"),
    *("arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc", "arcsinh", "arccosh", "arctanh"),
    *("max", "min", "gcd", "lcm", "Gamma"),
}
SYMBOLS = {
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"),
    *("lambda", "mu", "nu", "xi", "omicron", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi"),
    *("psi", "omega", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi"),
    *("Omega", "infty", "emptyset", "ell", "hbar", "partial", "nabla", "ldots", "cdots", "dots"),
    *("perp", "parallel", "square", "star"),
}
SYNONYMS = {
    **{
        "infinity": "infty",
        "inf": "infty",
        "oo": "infty",
        "varphi": "phi",
        "varepsilon": "epsilon",
        "vartheta": "theta",
    },
    **{"varnothing": "emptyset", "imath": "i", "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom"},
    **{"tbinom": "binom", "tg": "tan", "ctg": "cot", "asin": "arcsin", "acos": "arccos", "atan": "arctan"},
    **{"backslash": "setminus"},
}
MARKS = {  # commands that make one symbol of what follows
    *("overline", "bar", "vec", "hat", "widehat", "tilde", "dot", "ddot", "overrightarrow", "overleftrightarrow"),
    *("mathbb", "mathcal", "mathfrak", "angle", "triangle", "measuredangle", "operatorname"),
}
FACTORS = FUNCTIONS | SYMBOLS | MARKS | {"frac", "sqrt", "binom"}
"""Commands that start a factor."""

SPELLED = FUNCTIONS | {
    *("pi", "sqrt", "infinity", "inf", "oo", "theta", "alpha", "beta", "gamma", "delta", "lambda", "sigma", "omega"),
    *("epsilon", "phi", "psi", "rho", "tau", "asin", "acos", "atan"),
}
"""Names that are read without a backslash too."""

APPLIED = frozenset("fghpqFGHPQTWN")
"""Letters whose brackets hold arguments: ``f(8)``, but ``x(x+1)`` is a product."""


@dataclass(frozen=True, slots=True)
class Node:
    """A tree of mathematics.

    Attributes:
        kind: ``number``, ``symbol``, ``text`` (words), ``unread``, ``function``, ``applied`` (unknown), ``matrix``,
            ``choice`` (with a label), ``sequence``, ``union``, ``intersection``, ``relation``, ``ratio``, ``unit``, or
            an operation: ``+``, ``^``, ``root``, ...
        name: of a symbol, function or unit; the text; a sequence's brackets; a chain's relations; a matrix's columns.
        value: of a number.
        ulp: one unit in the last place of a decimal; 0: the number is exact.
    """

    kind: str
    args: tuple[Node, ...] = ()
    name: str = ""
    value: Fraction = Fraction(0)
    ulp: Fraction = Fraction(0)


INFINITY = Node("symbol", name="infty")
REALS = Node("symbol", name="R")
EMPTY_SET = Node("symbol", name="emptyset")


def is_name(node: Node) -> bool:
    """Whether a side of an equation names what the other side is: ``x``, ``f(8)``, ``|AB|``, ``S:T``, ``(p,q)``."""
    if node.kind in ("*", "/", "|", "ratio", "sequence", "union", "intersection"):
        return all(map(is_name, node.args))
    return node.kind in ("symbol", "applied") and node.name not in CONSTANTS


def plain_value(node: Node) -> Node:
    """A number with its sign as one node, any other node as it is."""
    if node.kind == "-" and node.args[0].kind == "number":
        return Node("number", value=-node.args[0].value, ulp=node.args[0].ulp)
    return node


def is_inequality(node: Node) -> bool:
    return node.kind == "relation" and node.name not in ("=", "~")


def is_interval(node: Node) -> bool:
    """Whether a node can be an interval: ``(1,2)`` can also be a point."""
    return node.kind == "sequence" and len(node.args) == 2 and node.name in ("()", "[]", "(]", "[)")


def is_infinite(interval: Node) -> bool:
    return INFINITY in interval.args or Node("-", (INFINITY,)) in interval.args
