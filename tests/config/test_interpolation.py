"""Interpolations that stand for huge values are refused before they are resolved."""

from __future__ import annotations

import time
from typing import Any

import pytest
from omegaconf import OmegaConf

from r1.config.interpolation import check_interpolations, resolved_sizes
from r1.core.errors import UserError


def chain(text: str, last: Any = "xxxxxxxxxx", depth: int = 9) -> dict[str, Any]:
    return {f"k{i}": text.replace("NEXT", f"k{i + 1}") for i in range(depth)} | {f"k{depth}": last}


EXPLODING = {
    "texts": chain("${NEXT}" * 10),
    "mappings": {f"k{i}": {f"v{j}": f"${{k{i + 1}}}" for j in range(10)} for i in range(9)} | {"k9": {"x": 1}},
    "lists": {f"k{i}": [f"${{k{i + 1}}}"] * 10 for i in range(9)} | {"k9": [1]},
    "relative": {"a": chain("${.NEXT}" * 10)},
    "resolvers": chain("${concat:${NEXT},${NEXT},${NEXT},${NEXT},${NEXT},${NEXT},${NEXT},${NEXT}}"),
    "one long text": chain("${NEXT}" * 1000, last="x" * 100_000, depth=2),
}


@pytest.mark.parametrize("kind", EXPLODING)
def test_exploding_interpolations_are_refused_at_once(kind: str) -> None:
    started = time.process_time()
    with pytest.raises(UserError, match="its interpolations stand for more than") as caught:
        check_interpolations(EXPLODING[kind])
    assert caught.value.key.removeprefix("a.").startswith("k")
    assert time.process_time() - started < 1


@pytest.mark.parametrize("config", [chain("${NEXT}"), chain("${NEXT}" * 2), {"a": "${b}", "b": "${a}"}, {"a": "$ {${"}])
def test_ordinary_chains_and_cycles_pass(config: dict[str, Any]) -> None:
    check_interpolations(config)


def test_size_is_that_of_the_resolved_texts() -> None:
    config = {"a": "${b.c}-${.d}", "d": "four", "b": {"c": "${..e}", "f": ["${a}", "x"]}, "e": "${b.f[1]}y"}
    resolved = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    assert resolved == {"a": "xy-four", "d": "four", "b": {"c": "xy", "f": ["xy-four", "x"]}, "e": "xy"}
    # the length as it is written, and for each interpolation 100 and its target's
    e = len("${b.f[1]}y") + 100 + 1
    c = len("${..e}") + 100 + e
    assert resolved_sizes(config)[("a",)] == len("${b.c}-${.d}") + 200 + c + 4
