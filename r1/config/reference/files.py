"""The files of conf/ as people read them: options, and keys with their defaults and the comments on their lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from r1.config.check.schema import META
from r1.core.errors import UserError, suggest
from r1.core.override_text import override_value
from r1.core.paths import CONF, EXAMPLE_CONFS, ROOT
from r1.core.yaml import ConfigLoader

FOLDERS = (CONF, *EXAMPLE_CONFS)
SORTED_BY_FOLDERS = "experiment"  # the only group whose folders sort options; elsewhere they are groups of their own
PACKAGE = re.compile(r"# @package (\S+)")
COMMENT = re.compile(r"(?:^|\s)#\s*(.*)")


@dataclass(frozen=True)
class Key:
    """A key of a file.

    Attributes:
        name: dotted, below the node that the file describes.
        default: the value as the file writes it, on one line; empty for a mapping, whose keys follow.
        line: from 1.
    """

    name: str
    default: str
    comment: str
    file: Path
    line: int


@dataclass(frozen=True)
class Choice:
    """An entry of a file's defaults list: ``loss: dapo``.

    Attributes:
        group: ``stage/loss``, with its package (``reward/terms@terms.accuracy``) where the file names one.
        option: the name of the default, or ``null``.
    """

    group: str
    option: str
    comment: str


@dataclass(frozen=True)
class Option:
    """A YAML file of a config group; the group and the name of conf/config.yaml are empty.

    Attributes:
        package: the config key of its node; empty: the whole config.
        title: the comment at its top.
        bases: names of the files of its group whose keys it starts from.
        values: its content without the defaults list; interpolations are text.
    """

    group: str
    name: str
    file: Path
    package: str
    title: str
    keys: dict[str, Key]
    choices: tuple[Choice, ...]
    bases: tuple[str, ...]
    values: dict[str, Any]

    def with_bases(self) -> Option:
        """This option with the keys, values and choices of the files that it starts from."""
        keys, values, choices = dict(self.keys), self.values, {choice.group: choice for choice in self.choices}
        for name in reversed(self.bases):
            base = read_option(self.group, name).with_bases()
            keys, values = base.keys | keys, _merged(base.values, values)
            choices = {choice.group: choice for choice in base.choices} | choices
        order = list(dict.fromkeys(name.partition(".")[0] for name in keys))  # a key before those inside it
        keys = dict(sorted(keys.items(), key=lambda item: order.index(item[0].partition(".")[0])))
        return replace(self, keys=keys, values=values, choices=tuple(choices.values()))


def group_names() -> list[str]:
    """The groups in the order of conf/config.yaml, each before the groups inside it."""
    first = [choice.group for choice in read_option("", "config").choices]
    folders = {path.relative_to(folder).as_posix() for folder in FOLDERS for path in folder.rglob("*") if path.is_dir()}
    groups = [name for name in folders if not name.startswith(f"{SORTED_BY_FOLDERS}/")]
    return sorted(groups, key=lambda name: (first.index(name.partition("/")[0]), name))


def option_names(group: str) -> list[str]:
    """The options of a group, those of its folders last where folders sort them; none if there is no such group."""
    return [name for name in file_names(group) if not name.rpartition("/")[2].startswith("_")]


def file_names(group: str) -> list[str]:
    """The options of a group, and the files that options start from."""
    pattern = "**/*.yaml" if group == SORTED_BY_FOLDERS else "*.yaml"
    files = [(folder / group, file) for folder in FOLDERS for file in (folder / group).glob(pattern)]
    names = [file.relative_to(folder).with_suffix("").as_posix() for folder, file in files]
    return sorted(names, key=lambda name: ("/" in name, name))


def group_title(group: str) -> str:
    """What a group decides: the comment where a file names its default, in the defaults list or as a key."""
    parent, _, name = group.rpartition("/")
    files = [read_option(parent, file) for file in file_names(parent)] if parent else [read_option("", "config")]
    comments = [choice.comment for file in files for choice in file.choices if choice.group == group]
    comments += [file.keys[name].comment for file in files if name in file.keys]
    return next(filter(None, comments), "")


def is_knob(name: str, prefix: str = "") -> bool:
    """Whether a key below ``prefix`` is one that people set: no mapping of Hydra's, no target."""
    return name.startswith(prefix) and name.rpartition(".")[2] not in META and name.partition(".")[0] != "hydra"


def source_of(file: Path) -> str:
    """The name of a config file as messages show it."""
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else str(file)


def option_file(group: str, name: str) -> Path | None:
    """The YAML file of an option; None: there is none."""
    files = (folder / group / f"{name}.yaml" for folder in FOLDERS)
    return next((file for file in files if file.is_file()), None)


@cache
def read_option(group: str, name: str) -> Option:
    """An option without the files that it starts from.

    Raises:
        UserError: the group has no such option.
    """
    file = option_file(group, name)
    if file is None:
        names = option_names(group)
        message = f"`{group}` has no option `{name}`"
        raise UserError(message, key=group, value=name, expected=names, hint=suggest(name, names))
    return parse_option(file, group, name)


def parse_option(file: Path, group: str = "", name: str = "") -> Option:
    """What a YAML file of a config folder holds."""
    text = file.read_text()
    lines = text.splitlines()
    root = yaml.compose(text, Loader=ConfigLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    nodes = {key.value: value for key, value in pairs}
    defaults = list(_defaults(nodes["defaults"], lines)) if "defaults" in nodes else []
    keys = {key.name: key for key in _keys(pairs, "", file, lines) if key.name != "defaults"}
    title = " ".join(line[1:].strip() for line in _header(lines))
    if not title and "_target_" in keys:
        title = keys["_target_"].comment
    declared = PACKAGE.search(text)
    package = declared[1].replace("_global_", "") if declared else group.replace("/", ".")
    values = yaml.load(text, Loader=ConfigLoader) or {}
    return Option(
        group,
        name,
        file,
        package,
        title,
        keys,
        tuple(_choice(entry, comment, group) for entry, comment in defaults if isinstance(entry, dict)),
        tuple(entry for entry, _ in defaults if isinstance(entry, str) and entry != "_self_"),
        {key: value for key, value in values.items() if key != "defaults"},
    )


def _header(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("#"):
            return
        if not PACKAGE.match(line):
            yield line


def _defaults(node: yaml.Node, lines: Sequence[str]) -> Iterator[tuple[str | dict[str, Any], str]]:
    """(entry, comment) of a defaults list."""
    for item in node.value:
        mark = item.value[0][1].end_mark if isinstance(item, yaml.MappingNode) else item.end_mark
        entry = {key.value: value.value for key, value in item.value} if not isinstance(item.value, str) else item.value
        yield entry, _comment_behind(lines, mark.line, mark.column)


def _choice(entry: dict[str, Any], comment: str, group: str) -> Choice:
    ((key, option),) = entry.items()
    key = key.removeprefix("override ").removeprefix("optional ")
    path = key[1:] if key.startswith("/") else f"{group}/{key}".lstrip("/")
    return Choice(path, option if isinstance(option, str) else "null", comment)


def _keys(pairs: Sequence[tuple[yaml.Node, yaml.Node]], prefix: str, file: Path, lines: Sequence[str]) -> Iterator[Key]:
    """The keys of a mapping, each before those inside it."""
    for key, value in pairs:
        name, is_open = f"{prefix}{key.value}", _has_keys(value)
        end = key.end_mark if is_open else value.end_mark
        if value.start_mark.line > key.start_mark.line:  # a list below its key
            end = key.end_mark
        comment = _comment_behind(lines, end.line, end.column)
        default = "" if is_open else _text_of(value, lines)
        yield Key(name, default, comment, file, key.start_mark.line + 1)
        if is_open:
            yield from _keys(value.value, f"{name}.", file, lines)


def _has_keys(value: yaml.Node) -> bool:
    """Whether a value is a mapping of config keys, and not of texts such as solved examples."""
    names = [key.value for key, _ in value.value] if isinstance(value, yaml.MappingNode) else []
    return bool(names) and not value.flow_style and all(re.fullmatch(r"\w+", str(name)) for name in names)


def _text_of(value: Any, lines: Sequence[str]) -> str:
    start, end = value.start_mark, value.end_mark
    if start.line == end.line:
        return str(lines[start.line][start.column : end.column])
    content: Any = yaml.SafeLoader("").construct_object(value, deep=True)
    return override_value(content)


def _comment_behind(lines: Sequence[str], number: int, column: int) -> str:
    """The comment behind a column of a line, with the lines below that go on in the same column."""
    line = lines[number] if number < len(lines) else ""
    match = COMMENT.search(line, column)
    if not match:
        return ""
    start, texts = line.index("#", match.start()), [match[1]]
    for below in lines[number + 1 :]:
        if below[:start].strip() or not below[start:].startswith("#"):
            break
        texts.append(below[start + 1 :].strip())
    return " ".join(texts)


def _merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    merged = base | values
    for key, value in base.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict) and value.keys():
            merged[key] = _merged(value, values[key])
    return merged
