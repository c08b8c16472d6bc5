"""No retired word comes back into an identifier, a metric's name or a message."""

from __future__ import annotations

import ast

import pytest
from words import retired, uses


def test_retired_words_are_not_used() -> None:
    assert uses() == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("found = 1", ["found"]),
        ("def rows_found(asked): pass", ["asked", "found"]),
        ("class RewardCrew: pass", ["crew"]),
        ("self.told = held_out", ["told"]),
        ("held_out = found.held", []),  # a term of the field; uses are not definitions
        ("log('reject/asked', 1)", ["asked"]),
        ("raise ValueError('file not found')", []),
        ("raise ValueError('the run goes on')", ['"goes on"']),
        ("background = foundation = 1", []),
    ],
)
def test_retired_words_of_a_source(source: str, words: list[str]) -> None:
    assert sorted(word for _, word, _ in retired(ast.parse(source))) == words
