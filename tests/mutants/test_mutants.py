"""The mutants can be applied: each text occurs once, and what replaces it is another program."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.reason)
def test_mutant_applies_once_and_is_another_program(mutant: Mutant) -> None:
    source = (ROOT / mutant.file).read_text()
    assert source.count(mutant.old) == 1
    mutated = ast.parse(source.replace(mutant.old, mutant.new))
    assert ast.dump(mutated) != ast.dump(ast.parse(source))
    assert all((ROOT / "tests" / path).exists() for path in mutant.also)


def test_quick_list_names_existing_files() -> None:
    files = (ROOT / "tests" / "quick.txt").read_text().split()
    assert len(files) == len(set(files))
    assert [file for file in files if not (ROOT / file).is_file()] == []
