"""What may follow at the end of a command line: groups, options and keys of the config composed so far."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

from r1.config.compose import compose_point, config_loader, group_options
from r1.config.hydra_adapter import HydraLoader
from r1.config.reference.files import group_names, is_knob
from r1.core.types import Config


def override_candidates(words: Sequence[str], word: str) -> list[str]:
    """Complete overrides that start with ``word``; one that ends with ``=``, ``.`` or ``@`` is open.

    Args:
        words: the overrides before it, which decide what keys there are.
    """
    args = Namespace(config_dir=None, multirun=False)
    sign = word[: len(word) - len(word.lstrip("+~"))]
    with config_loader(args) as loader:
        key, equals, value = word[len(sign) :].partition("=")
        if equals:
            end = "" if value.startswith("[") else " "
            return [f"{sign}{key}={text}{end}" for text in _values(loader, args, words, key, value)]
        names = [*_groups(key), *_keys(_composed(loader, args, words), key)]
    ends = " " if sign == "~" else "="
    return sorted(f"{sign}{name}" if name.endswith((".", "/")) else f"{sign}{name}{ends}" for name in names)


def _values(loader: HydraLoader, args: Namespace, words: Sequence[str], key: str, value: str) -> list[str]:
    """The options of a group, also the last one of a list or grid; of a switch, true and false."""
    options = group_options(loader, key.partition("@")[0])
    if not options:
        options = ["true", "false"] if isinstance(_at(_composed(loader, args, words), key), bool) else []
    start = value[: max(value.rfind(","), value.rfind("[")) + 1]
    return [f"{start}{option}" for option in options if f"{start}{option}".startswith(value)]


def _groups(key: str) -> Iterator[str]:
    """Groups that start with ``key``; those inside a group only once its slash is there."""
    for group in group_names():
        if group.startswith(key) and "/" not in group[len(key) :]:
            yield group
    if "/" not in key:
        yield from {f"{group.partition('/')[0]}/" for group in group_names() if "/" in group and group.startswith(key)}


def _keys(config: Config, key: str) -> Iterator[str]:
    """Keys that start with ``key``, one level deeper than its last dot."""
    parent, dot, _ = key.rpartition(".")
    node = _at(config, parent) if dot else config
    for name, value in node.items() if isinstance(node, dict) else ():
        full = f"{parent}{dot}{name}"
        if full.startswith(key) and is_knob(full):
            if isinstance(value, dict) and value:
                yield f"{full}."
            elif full not in group_names():
                yield full


def _composed(loader: HydraLoader, args: Namespace, words: Sequence[str]) -> Config:
    """The config of the overrides so far; the default one where they do not compose."""
    for texts in (list(words), []):
        try:
            return compose_point(loader, args, texts).config
        except Exception:  # a completion has no room for errors: the run reports them
            continue
    return {}


def _at(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config
