"""The YAML loaders: both safe and bounded, one for the configs of records, one for files that people write."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, ClassVar

import yaml  # type: ignore[import-untyped]

FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_NODES = 100_000
MAX_DEPTH = 200  # libyaml's loader overflows the stack at some 20,000
HALF_PAIR = re.compile("[\ud800-\udfff]")
MAX_DIGITS = 4300  # Python's own limit; 1:30:59, a number to base 60, takes quadratic time


class Bounded:
    """A loader that takes time linear in the length of a text.

    An error: aliases that stand for more than ``MAX_NODES`` values or for themselves, nesting beyond ``MAX_DEPTH``, a
    number of more than ``MAX_DIGITS``, and half of a surrogate pair.
    """

    def __init__(self, text: str) -> None:
        if sum(map(text.count, "[{-?")) > MAX_DEPTH:
            check_depth(text)
        super().__init__(text)  # type: ignore[call-arg]

    def get_single_node(self) -> yaml.Node | None:
        try:
            node = super().get_single_node()  # type: ignore[misc]
            if node is not None and num_nodes(node, {}) > MAX_NODES:
                raise yaml.YAMLError(f"its aliases stand for more than {MAX_NODES} values, or for themselves")
        except RecursionError:
            raise yaml.YAMLError("it is nested too deeply") from None
        return node

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        if len(node.value) > MAX_DIGITS and node.tag.endswith((":int", ":float")):
            raise yaml.YAMLError(f"it has a number of more than {MAX_DIGITS} digits")
        if not node.value.isascii() and HALF_PAIR.search(node.value):
            raise yaml.YAMLError("it has half of a surrogate pair, which is no character")
        return super().construct_scalar(node)  # type: ignore[misc]


class ConfigLoader(Bounded, FAST):  # type: ignore[misc]
    """YAML in which dates are text and ``1e-6`` is a number, as in OmegaConf's."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, form) for tag, form in forms if not tag.endswith(":timestamp")]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


ConfigLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), [*"-+0123456789"]
)


class UniqueKeyLoader(Bounded, yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader, but a duplicate key is an error: YAML readers silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set[str]()
        for key, _ in node.value:
            text = str(key.value)
            if text in seen:
                raise yaml.MarkedYAMLError(problem=f"the key `{text}` occurs twice", problem_mark=key.start_mark)
            seen.add(text)
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return]


def check_depth(text: str) -> None:
    """Raises: yaml.YAMLError: lists and mappings are nested beyond ``MAX_DEPTH``."""
    depth = 0
    for event in yaml.parse(text, FAST):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.YAMLError("it is nested too deeply")


def num_nodes(node: yaml.Node, sizes: dict[int, float]) -> float:
    """How many values a node stands for once its aliases are written out; infinite if it holds itself.

    Args:
        sizes: those of the nodes so far, by identity: an alias is the same node again, so that this takes linear time.
    """
    if id(node) not in sizes:
        sizes[id(node)] = float("inf")  # until it is known: the node itself, met below itself
        parts = node.value if isinstance(node.value, list) else []
        children = [child for part in parts for child in (part if isinstance(part, tuple) else (part,))]
        sizes[id(node)] = 1 + sum(num_nodes(child, sizes) for child in children)
    return sizes[id(node)]
