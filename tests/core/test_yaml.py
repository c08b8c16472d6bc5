"""The YAML loaders take linear time, or refuse a text."""

from __future__ import annotations

import time
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from r1.core.yaml import ConfigLoader, UniqueKeyLoader


def nine(number: int) -> str:
    return ",".join([f"*a{number}"] * 9)


REFUSED = {
    "aliases": "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{nine(i - 1)}]\n" for i in range(1, 9)),
    "merged": "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{nine(i - 1)}]}}\n" for i in range(1, 9)),
    "itself": "a: &a [*a]",
    "brackets": "[" * 1_000_000,
    "braces": "{a: " * 300_000,
    "filled brackets": "[1, " * 300_000 + "1" + "]" * 300_000,
    "lists": "- " * 1_000_000,
    "keys": "? " * 1_000_000,
    "indents": "".join(" " * i + "a:\n" for i in range(1000)),
    "digits": "a: " + "9" * 1_000_000,
    "base 60": "a: " + ":".join(["59"] * 300_000),
    "base 60 fraction": "a: " + ":".join(["59"] * 300_000) + ".5",
    "hexadecimal": "a: 0x" + "f" * 1_000_000,
}


@pytest.mark.parametrize("loader", [ConfigLoader, UniqueKeyLoader])
@pytest.mark.parametrize("kind", REFUSED)
def test_hostile_yaml_is_refused_at_once(loader: Any, kind: str) -> None:
    started = time.process_time()
    with pytest.raises((yaml.YAMLError, ValueError)):
        yaml.load(REFUSED[kind], loader)
    assert time.process_time() - started < 3


@pytest.mark.parametrize("loader", [ConfigLoader, UniqueKeyLoader])
def test_aliases_and_nesting_within_bounds_are_read(loader: Any) -> None:
    depth = 150
    assert yaml.load("a: &a {x: [1, {y: 2}]}\nb: *a\nc: {<<: *a}", loader)["c"] == {"x": [1, {"y": 2}]}
    assert str(yaml.load("[" * depth + "]" * depth, loader)) == "[" * depth + "]" * depth
    assert yaml.load("a: '" + "[{-? " * 10_000 + "'", loader)["a"].startswith("[{-?")
