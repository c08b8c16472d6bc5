"""Reading: the canonical spelling of an answer as a tree, by recursive descent.

A text that is more than this grammar has is one ``unread`` node, which equals the same text alone.
The rules that decide between two readings:

- A word is no product of letters: ``listen`` is text. One letter, two small ones, and up to three within an expression
  (``2abc``) are symbols.
- Two numbers side by side are no product: ``17 42`` is text. A number before a fraction below 1 is a mixed number.
- A comma outside of brackets with three digits behind it separates thousands: ``2,900``.
- ``5 \\text{ cm}``, ``30^\\circ``, ``28\\%`` and ``\\$5`` carry a unit (r1/data/verifier/units.py).
- A power, a root or a subscript takes a number of any length, ``x^10``; ``\\frac12`` takes two digits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from r1.data.verifier.intervals import solution
from r1.data.verifier.scanner import Scanner
from r1.data.verifier.tokens import (
    ARGUMENT,
    CHOICE,
    CLOSE,
    DEGREE,
    FENCES,
    INVERSE,
    MATRIX,
    MINUTES,
    MONEY,
    NUMERAL,
    OPEN,
    PHRASE,
    POWER,
    PRIMES,
    REMARK,
    SCALES,
    SET_OPERATIONS,
    TEXT,
    UNIT_RATIO,
    UnreadableError,
    as_text,
    both_signs,
    bracket_end,
    closes,
    compact,
    conjunction,
    number,
    numeral,
    read_word,
    split,
    text_atom,
)
from r1.data.verifier.tree import (
    APPLIED,
    CONSTANTS,
    FACTORS,
    FUNCTIONS,
    MARKS,
    REALS,
    RELATIONS,
    SPELLED,
    SYMBOLS,
    SYNONYMS,
    TRIGONOMETRIC,
    Node,
    is_inequality,
    is_infinite,
    is_interval,
    is_name,
)
from r1.data.verifier.units import NOT_UNITS, is_unit, unit


@lru_cache(maxsize=4096)  # the gold answer of a group is read once
def read(text: str) -> Node:
    """The tree of a canonical text; an ``unread`` node if it is neither mathematics nor words."""
    words = TEXT.fullmatch(text)
    try:
        if choice := CHOICE.fullmatch(words[1] if words else text):
            return Node("choice", (read_list(choice[3]),), choice[1] or choice[2])
        return read_list(words[1].strip() if words else text)
    except (UnreadableError, RecursionError):
        return read_phrase(words[1] if words else text)


def read_phrase(text: str) -> Node:
    """``May 1, 2020`` and ``Vendor 2`` as text."""
    return (
        as_text(" ".join(text.replace(",", " ").split()))
        if PHRASE.fullmatch(text)
        else Node("unread", name=compact(text))
    )


def read_list(text: str, *, words: bool = True) -> Node:
    """One item, or several without brackets: a sequence named ``""``; ``{1,2}`` without backslashes is a set.

    Args:
        words: whether letters alone are a word; within an expression they are factors.
    """
    if (
        text.startswith("{")
        and bracket_end(text, 0) == len(text)
        and len(inner := split(text[1:-1], thousands=False)) > 1
    ):
        return Node("sequence", read_items(inner), "{}")
    items = read_items(split(text, thousands=True), words=words)
    return items[0] if len(items) == 1 else listed(items, conjunction(text))


def listed(items: tuple[Node, ...], joined_by: str) -> Node:
    """Several items: a list, an assignment of several values, or a set of real numbers.

    Args:
        joined_by: ``and``, ``or``, or empty: commas or both.
    """
    if joined_by and all(map(is_inequality, items)):
        return Node("union" if joined_by == "or" else "intersection", items)
    certain = ("[)", "(]", "[]") if joined_by else ("[)", "(]")  # (1,2), (3,4) are points
    if all(map(is_interval, items)) and any(is_infinite(item) or item.name in certain for item in items):
        return Node("union", items)
    return with_one_name(items, joined_by)


def with_one_name(items: tuple[Node, ...], joined_by: str) -> Node:
    """A list; ``x = 1`` or ``x = 2`` and ``x = 1, 2`` are ``x`` and a list."""
    assigned = [item for item in items if item.kind == "relation" and item.name == "=" and is_name(item.args[0])]
    first_alone = assigned == [items[0]] and not any(item.kind == "relation" for item in items[1:])
    if not first_alone and not (len(assigned) == len(items) and len({item.args[0] for item in items}) == 1):
        return Node("sequence", items)
    values = tuple(item.args[1] if item.kind == "relation" else item for item in items)
    return Node("relation", (assigned[0].args[0], listed(values, joined_by)), "=")


def read_items(texts: Sequence[str], *, words: bool = True) -> tuple[Node, ...]:
    """The items of a sequence; one with a plus-minus sign is two."""
    return tuple(read_item(signed, words=words) for text in texts for signed in both_signs(text))


def read_item(text: str, *, words: bool) -> Node:
    """One expression, relation or word."""
    return (read_word(text) if words else None) or read_relation(text)


def read_relation(text: str) -> Node:
    """One expression or relation."""
    reader = ExpressionReader(text)
    node = reader.relation()
    reader.expect("")
    return node


class ExpressionReader(Scanner):
    """One item of a text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.in_bars = self.in_angle = self.degrees = False

    # ---- relations and units ----

    def relation(self) -> Node:
        """``side (relation side)*``."""
        accepted = self.accept("\\approx", "\\sim", "=")  # "\approx 5" and "= 5" state 5
        unnamed = not accepted and self.peek() in RELATIONS  # \geq 5
        sides, names = [Node("symbol") if unnamed else self.side()], list[str]()
        while (token := self.accept(*RELATIONS)) and not (accepted and names):
            names.append(RELATIONS[token])
            sides.append(self.side())
        return Node("relation", tuple(sides), " ".join(names)) if names else sides[0]

    def side(self) -> Node:
        """Sets or ratios of sums, with a unit."""
        money = self.accept(*MONEY)
        node = self.set_expression()
        while self.accept(":"):
            clock = "clock" if MINUTES.match(self.text, self.at) else ""
            other = self.set_expression()
            node = Node("ratio", (*(node.args if node.kind == "ratio" else (node,)), other), clock)
        while scale := self.accept(*SCALES):
            node = Node("*", (node, Node("^", (number("10"), number(SCALES[scale])))))
        name = self.unit() or MONEY.get(money, "")
        return Node("unit", (node,), name) if name else node

    def unit(self) -> str:
        """What follows up to the end of the side, if it is a unit."""
        prefix = "deg " if self.degrees else ""
        self.degrees, start = False, self.at
        while (token := self.peek()) and token not in RELATIONS and not closes(token) and token != ",":
            self.at = bracket_end(self.text, self.at) if token in ("{", "(") else self.at + len(token)
        plain = self.text[start : self.at].strip()
        plain = plain and TEXT.sub(r" \1 ", DEGREE.sub(" deg ", plain)).strip()
        for command, sign in {"\\%": "%", **MONEY}.items():
            plain = plain.replace(command, sign)
        if not plain:
            return prefix.strip()
        name = unit(prefix + plain.replace("\\cdot", " ").replace("\\frac", ""))
        if name is None:
            raise UnreadableError
        return name

    def set_expression(self) -> Node:
        node = self.sum()
        while token := self.accept(*SET_OPERATIONS):
            kind, other = SET_OPERATIONS[token], self.sum()
            same_kind = kind != "difference" and node.kind == kind
            node = Node(kind, (*(node.args if same_kind else (node,)), other))
        return node

    # ---- expressions ----

    def sum(self) -> Node:
        node = self.product()
        while token := self.accept("+", "-"):
            other = self.product()
            node = Node("+", (node, other if token == "+" else Node("-", (other,))))
        return node

    def product(self) -> Node:
        """Factors with or without a sign between them, from left to right."""
        node = self.signed()
        while True:
            if self.accept("\\cdot", "\\times", "*", "\\ast"):
                node = Node("*", (node, self.signed()))
            elif self.accept("/", "\\div"):
                node = Node("/", (node, self.signed()))
            elif self.starts_factor():
                node = Node("*", (node, self.power()))
            else:
                return node

    def signed(self) -> Node:
        if self.accept("-"):
            return Node("-", (self.signed(),))
        return self.signed() if self.accept("+") else self.power()

    def starts_factor(self) -> bool:
        """Whether a factor follows without a sign between, and not a unit."""
        token = self.peek()
        if token[:1].isdigit():
            before = self.text[: self.at].rstrip()[-1:]
            if before in ("!", ")") or (before == "}" and POWER.match(self.text, self.at)):
                return True  # 5!3!, (n-2) 3, 2^{k} 2^{-n}
            raise UnreadableError  # 17 42
        if token.isalpha():
            if self.text[self.at - 1] == " " and UNIT_RATIO.match(self.text, self.at):
                return False  # 5 m/s
            return self.within_word() or len(token) == 1 or token in SPELLED or not is_unit(token)
        if text := TEXT.fullmatch(token):
            return text[1].strip() in ("e", "i") or text[1].strip() in SPELLED
        if token.startswith("\\begin"):
            return True
        name = SYNONYMS.get(token[1:], token[1:])
        if token == "(" and (words := REMARK.match(self.text, self.at)):
            return not all(map(is_unit, words[1].replace(".", "").split()))  # 9 (apples)
        return (
            token in OPEN
            or token == "{"
            or (token == "|" and not self.in_bars)
            or token in FENCES
            or (token.startswith("\\") and name in FACTORS)
        )

    def power(self) -> Node:
        """An atom with its powers, factorials, primes and degrees."""
        node = self.atom()
        while True:
            if self.take(DEGREE):
                if not self.in_angle:
                    self.degrees = True
                else:
                    node = Node("*", (node, Node("/", (Node("symbol", name="pi"), number("180")))))
            elif self.accept("^", "**"):
                node = Node("^", (node, self.exponent()))
            elif self.accept("!"):
                node = Node("!", (node,))
            else:
                return node

    def exponent(self) -> Node:
        if token := self.accept("+", "-"):
            return Node("-", (self.exponent(),)) if token == "-" else self.exponent()
        node = self.argument(digits=99)
        return Node("^", (node, self.exponent())) if self.accept("^", "**") else node

    def argument(self, digits: int = 1) -> Node:
        """What a command takes: a group, a number of so many digits, or one symbol."""
        token = self.peek()
        if token == "{":
            return self.group()
        if token[:1].isdigit():
            match = self.take(re.compile(f"[0-9]{{1,{digits}}}" + (r"(?:\.[0-9]+)?" if digits > 1 else "")))
            return number(match[0] if match else "")
        return self.atom()

    def group(self) -> Node:
        """A pair of braces without a meaning of its own."""
        end = bracket_end(self.text, self.at)
        inner, self.at = self.text[self.at + 1 : end - 1].strip(), end
        return read_list(inner, words=False)

    def atom(self) -> Node:
        """A number, symbol, bracket, matrix, word or command."""
        token = self.peek()
        if not self.within_word() and (match := NUMERAL.match(self.text, self.at)) and (node := numeral(match)):
            self.at = match.end()
            return node
        if token[:1].isdigit() or (token[:1] == "." and len(token) > 1):
            return self.number()
        if token in OPEN:
            return self.bracket(token)
        if token == "{":
            return self.subscripted(self.group())
        if token.startswith("\\begin"):
            return self.matrix()
        if text := TEXT.fullmatch(token):
            self.at += len(token)
            return self.subscripted(text_atom(text[1].strip()))
        if token.isalpha():
            return self.letters(token)
        self.at += len(token)
        if token == "|":
            return self.bars()
        if token in FENCES:
            node = self.sum()
            self.expect(FENCES[token])
            return Node(token.removeprefix("\\l"), (node,))
        return self.command(SYNONYMS.get(token[1:], token[1:]) if token.startswith("\\") else "")

    def letters(self, token: str) -> Node:
        """A spelled function or constant, a word of four letters or more as one symbol, or one letter."""
        if not self.within_word():
            prefix = next((name for name in ("sqrt", "sin", "cos", "tan", "ln", "log") if token[:-1] == name), token)
            if prefix in SPELLED:
                self.at += len(prefix)
                return self.command(SYNONYMS.get(prefix, prefix))
            if token in NOT_UNITS:
                raise UnreadableError  # x^2 for x > 0
            if len(token) > 3:
                self.at += len(token)
                return Node("symbol", name=token)
        self.at += 1
        return self.subscripted(Node("symbol", name=token[0]))

    def subscripted(self, node: Node) -> Node:
        """A symbol with its subscripts and primes, applied to what follows in brackets if it is a function's letter."""
        if node.kind != "symbol":
            return node
        name = node.name
        while True:
            if self.accept("_"):
                start = self.at
                token = self.peek()
                self.at = bracket_end(self.text, self.at) if token == "{" else self.at + len(token)
                name += "_" + re.sub(r"\\(?=[a-z])|[\\{}\s]", "", TEXT.sub(r"\1", self.text[start : self.at]))
            elif self.accept("'", "\\prime"):
                name += "'"
            elif name in APPLIED and self.take(INVERSE):
                name += "^-1"
            elif primes := self.take(PRIMES):
                name += "'" * primes[0].count("prime")
            else:
                break
        is_function = name[0] in APPLIED or self.at_number_in_brackets(name)
        if is_function and self.text.startswith("(", self.at) and not self.within_word_before(name):
            return Node("applied", items_of(self.bracket("(")), name)
        return Node("symbol", name=name)

    def at_number_in_brackets(self, name: str) -> bool:
        """Whether a name stands before ``(0)``, no factor before it: ``v(0)``, which is no product, but ``2x(3)``."""
        before = self.text[: self.at - len(name)].rstrip()[-1:]
        return (
            name not in CONSTANTS
            and not (before.isdigit() or before == ")")
            and bool(ARGUMENT.match(self.text, self.at))
        )

    def bracket(self, opening: str) -> Node:
        """A group, or a sequence with its brackets: set, tuple, interval."""
        end = bracket_end(self.text, self.at)
        last = next((token for token in CLOSE if self.text[:end].endswith(token)), None)
        if last is None:
            raise UnreadableError
        inner = self.text[self.at + len(opening) : end - len(last)].strip()
        self.at = end
        brackets = OPEN[opening] + CLOSE[last]
        if brackets == "{}":
            return read_set(inner)
        texts = split(inner, thousands=False)
        items = read_items(texts, words=len(texts) > 1)
        return items[0] if len(items) == 1 and brackets in ("()", "[]") else Node("sequence", items, brackets)

    def bars(self) -> Node:
        """An absolute value."""
        before, self.in_bars = self.in_bars, True
        node = self.sum()
        self.in_bars = before
        self.expect("|")
        return Node("|", (node,))

    # ---- commands ----

    def command(self, name: str) -> Node:
        """What follows a command's name."""
        if name == "frac":
            return Node("/", (self.argument(), self.argument()))
        if name == "binom":
            return Node("binom", (self.argument(), self.argument()))
        if name == "sqrt":
            return self.root()
        if name in FUNCTIONS:
            return self.function(name)
        if name in SYMBOLS:
            return self.subscripted(Node("symbol", name=name))
        if name in MARKS:
            token = self.peek()
            end = bracket_end(self.text, self.at) if token == "{" else self.at + len(token)
            marked, self.at = compact(self.text[self.at : end]), end
            return self.subscripted(Node("symbol", name=marked if name == "mathbb" else f"{name} {marked}"))
        raise UnreadableError

    def root(self) -> Node:
        index = number("2")
        if self.peek() == "[":
            index = self.bracket("[")
        return Node("root", (index, self.argument(digits=99)))

    def function(self, name: str) -> Node:
        """``\\sin^2 x``, ``\\log_2 8``, ``\\max(1,2)``; without brackets the argument is the product that follows."""
        base, exponent = None, None
        while token := self.accept("_", "^"):
            if token == "^":
                exponent = self.exponent()
            else:
                spaced = re.match(r"[0-9]+(?=[ ({\\])", self.text[self.at :])
                base = self.argument(digits=99 if spaced else 1)
        before, self.in_angle = self.in_angle, name in TRIGONOMETRIC
        arguments = self.function_arguments()
        self.in_angle = before
        if exponent is not None and exponent == Node("-", (number("1"),)):
            name, exponent = "arc" + name, None
        node = Node("function", (*arguments, *((base,) if base else ())), name)
        return Node("^", (node, exponent)) if exponent else node

    def function_arguments(self) -> tuple[Node, ...]:
        """Those in brackets, or the product up to the next sign or function."""
        token = self.peek()
        if token == "{":
            return items_of(self.group())
        if token in ("(", "["):
            inner = ExpressionReader(self.text[self.at : bracket_end(self.text, self.at)])
            inner.in_angle, self.at = self.in_angle, self.at + len(inner.text)
            return items_of(inner.power())
        if self.accept("-"):
            return (Node("-", self.function_arguments()),)
        node = self.power()
        while self.peek().lstrip("\\") not in FUNCTIONS and self.peek() not in OPEN and self.starts_factor():
            node = Node("*", (node, self.power()))
        return (node,)

    def matrix(self) -> Node:
        """Rows of equal length; of ``vmatrix`` the determinant."""
        match = self.take(MATRIX)
        end = self.text.find("\\end", self.at)
        if match is None or end < 0:
            raise UnreadableError
        body, self.at = re.sub(r"\\hline", "", self.text[self.at : end]), end
        self.at += len(self.peek())
        rows = [row.split("&") for row in re.split(r"\\\\(?:\s*\[[^\]]*\])?|\\cr(?![a-zA-Z])", body) if row.strip()]
        if len({len(row) for row in rows}) != 1:
            raise UnreadableError
        cells = tuple(read_list(cell.strip()) for row in rows for cell in row)
        node = Node("matrix", cells, str(len(rows[0])))
        return Node("function", (node,), "det") if match[1] in ("v", "V") else node


def items_of(node: Node) -> tuple[Node, ...]:
    """The arguments in brackets, which close as they opened."""
    if node.kind == "sequence" and node.name in ("[)", "(]"):
        raise UnreadableError
    return node.args if node.kind == "sequence" else (node,)


def read_set(inner: str) -> Node:
    """``\\{1, 2\\}``, ``\\{\\}`` and ``\\{x \\mid x > 1\\}``."""
    if not inner:
        return Node("symbol", name="emptyset")
    parts = re.split(r"\\mid(?![a-zA-Z])|\|", inner)
    if len(parts) != 2 and inner.count(":") == 1:
        parts = inner.split(":")
    if len(parts) == 2:
        member, condition = (read_list(part.strip()) for part in parts)
        name = member.args[0] if member.kind == "relation" and member.args[1:] == (REALS,) else member
        if (stated := solution(condition)) and stated[0] == name:
            return stated[1]
        bounds = condition.kind == "relation" and name.kind == "symbol" and name in condition.args
        return condition if bounds else Node("sequence", (member, condition), "{|}")
    return Node("sequence", read_items(split(inner, thousands=False)), "{}")
