"""Retired words in identifiers, metric names, messages and docstrings; ``python tests/support/words.py`` lists them.

The field's word is in CONTRIBUTING.md's glossary.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
IDENTIFIER_WORDS = re.compile(  # as a word of a snake_case or CamelCase name
    "ahead|asked|begun|beside|courier|crew|figures|found|given|goes|held|kept|mine|ours|places|said|settled?|"
    "sieve|theirs|told|whole"
)
TEXT_WORDS = re.compile(  # in strings and docstrings
    r"\b(courier|crew|sieve|settles?|settled|begun|goes on|is told|are told|was told|told to|is asked|are asked|"
    r"was asked|were asked|theirs|nobody|whoever)\b"
)
STANDARD = {"held_out", "whole_word"}  # terms of the field that contain one


def retired_in(identifier: str) -> list[str]:
    for term in STANDARD:
        identifier = identifier.replace(term, "")
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", identifier).lower().split("_")
    return [word for word in words if IDENTIFIER_WORDS.fullmatch(word)]


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of everything that a module names: functions, classes, parameters, variables, attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.ClassDef() | ast.AsyncFunctionDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of every string: messages, metric names, docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def retired(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """(line, retired word, what it stands in)."""
    for line, name in identifiers(tree):
        for word in retired_in(name):
            yield line, word, name
    for line, text in texts(tree):
        for match in TEXT_WORDS.finditer(text):
            yield line, f'"{match.group()}"', " ".join(text[max(0, match.start() - 30) : match.end() + 30].split())
        if re.fullmatch(r"[a-z_]+(/[a-z0-9_@*]+)+", text):  # a metric's name
            for word in retired_in(text.replace("/", "_")):
                yield line, word, text


def uses() -> list[tuple[str, str]]:
    """(word, ``file:line: where``) of every retired word in r1/ and examples/."""
    files = [file for folder in ("r1", "examples") for file in sorted((ROOT / folder).rglob("*.py"))]
    return [
        (word, f"{file.relative_to(ROOT)}:{line}: {place}")
        for file in files
        for line, word, place in sorted(retired(ast.parse(file.read_text())))
    ]


if __name__ == "__main__":
    listed = uses()
    for word, place in listed:
        print(f"{place}  [{word}]")
    sys.exit(f"{len(listed)} uses of retired words" if listed else 0)
