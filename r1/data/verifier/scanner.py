"""Reading a text from left to right, token by token: the part of the reader that holds no grammar."""

from __future__ import annotations

import re
from fractions import Fraction

from r1.data.verifier.tokens import (
    COMMAS,
    DECIMALS,
    MIXED,
    NUMBER,
    REPEATING,
    UnreadableError,
    number,
    repeating,
    token_at,
)
from r1.data.verifier.tree import Node


class Scanner:
    """A text and the position ``at`` in it."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def peek(self) -> str:
        """The next token; empty at the end."""
        while self.text.startswith(" ", self.at):
            self.at += 1
        return token_at(self.text, self.at)

    def accept(self, *tokens: str) -> str:
        """The next token, taken, if it is one of these; else empty."""
        token = self.peek()
        if token not in tokens:
            return ""
        self.at += len(token)
        return token

    def expect(self, *tokens: str) -> None:
        if self.peek() not in tokens:
            raise UnreadableError
        self.at += len(self.peek())

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The text at this position that matches, taken."""
        if match := pattern.match(self.text, self.at):
            self.at = match.end()
        return match

    def number(self) -> Node:
        """A plain, repeating or mixed number."""
        if match := self.take(REPEATING):
            return Node("number", value=repeating(*match.groups()))
        match = self.take(COMMAS) or self.take(NUMBER)
        if match is None:
            raise UnreadableError
        decimals = self.take(DECIMALS) if "," in match[0] else None
        node = number(match[0].replace(",", "") + (decimals[0] if decimals else ""))
        if node.value.denominator == 1 and not node.ulp and (mixed := MIXED.match(self.text, self.at)):
            top, bottom = (int(part) for part in mixed.groups() if part)
            if top < bottom:
                self.at = mixed.end()
                return Node("number", value=node.value + Fraction(top, bottom))
        return node

    def within_word(self) -> bool:
        """Whether the letters here continue a run of letters: the second of ``ab``."""
        return self.at > 0 and self.text[self.at - 1].isalpha() and not re.search(r"\\[a-zA-Z]+$", self.text[: self.at])

    def within_word_before(self, name: str) -> bool:
        before = self.text[: self.at - len(name)]
        return before[-1:].isalpha() and len(name) == 1 and not re.search(r"\\[a-zA-Z]+$", before)
