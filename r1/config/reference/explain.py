"""Where a key's value comes from: the files and overrides that set it, the interpolation behind it, and its reader."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from r1.config.compose import RESOLVERS, compose_point, config_loader
from r1.config.override_errors import unknown_key
from r1.config.overrides import parse_command_line
from r1.config.reference.files import FOLDERS, Key, Option, group_names, parse_option, source_of
from r1.core.errors import UserError, format_value
from r1.core.override_text import override_value
from r1.core.paths import PACKAGE
from r1.core.secrets import REDACTED, redact
from r1.core.types import Config

REFERENCE = re.compile(r"\$\{(?:oc\.select:)?([A-Za-z_][\w.]*)(?=[},])")
Files = Sequence[tuple[Option, str]]  # files with the config keys that they are merged at, in order
RESOLVER = re.compile(r"\$\{([\w.]+):([^${}]*)\}")
MOUNTED = {"reward.terms": ("weight",), "stage.filters": ("min", "max")}  # read by the object that holds a node


@dataclass(frozen=True)
class ValueSource:
    """One place that sets a key: a line of a file, or an override of the command line."""

    source: str
    text: str
    comment: str = ""


def explain(key: str, argv: Sequence[str]) -> list[tuple[str, str]]:
    """Lines of (label, text) about a key of the config that ``argv`` composes.

    Raises:
        UserError: the command line does not compose, or has no such key.
    """
    args, overrides = parse_command_line(list(argv))
    if args.multirun:
        raise UserError("a grid has many configs", key="-m", hint="write the overrides of one run")
    key, texts = key.partition("=")[0].lstrip("+~").replace("/", "."), [str(o.input_line) for o in overrides]
    with config_loader(args) as loader:
        config = compose_point(loader, args, texts).config
        raw: Any = OmegaConf.to_container(loader.compose(texts), resolve=False)
        folders = [*map(Path, [args.config_dir] if args.config_dir else []), *FOLDERS]
        files = [_read(folders, path, package) for path, package in loader.files(texts)]
    parent, last = _node(config, key.split("."))
    if not isinstance(parent, dict) or last not in parent:
        raise unknown_key(key, None, config)
    lines = [("", f"{key} = {_shown(parent[last], key)}")]
    settings = _settings(key, files, texts)
    lines += [("meaning", next(filter(None, (s.comment for s in reversed(settings))), ""))]
    for label, setting in zip(["set by", *["before"] * len(settings)], reversed(settings), strict=False):
        lines.append((label, f"{setting.source}   {setting.text}"))
    lines += _interpolation(key, raw, config, files, texts)
    lines += [("read by", reader) for reader in _readers(key, config, raw)]
    return [(label, redact(text)) for label, text in lines if text]


def _read(folders: Sequence[Path], path: str, package: str) -> tuple[Option, str]:
    file = next(file for folder in folders if (file := folder / f"{path}.yaml").is_file())
    return parse_option(file, *path.rpartition("/")[::2]), package


def _settings(key: str, files: Files, texts: Sequence[str]) -> list[ValueSource]:
    """All that set the key, the last of which counts."""
    settings = [setting for option, package in files for setting in _in_file(key, option, package, files)]
    for text in texts:
        name, _, value = text.lstrip("+~").partition("=")
        path = _mount(name, value, files)
        if key == path or (key.startswith(f"{path}.") and name.partition("@")[0] not in group_names()):
            settings.append(ValueSource("command line", text))
    return settings


def _mount(group: str, option: str, files: Files) -> str:
    """The config key that an override or an entry of a defaults list sets."""
    group, _, package = group.partition("@")
    packages = {f"{chosen.group}/{chosen.name}": mount for chosen, mount in files}
    return package or packages.get(f"{group}/{option}") or group.replace("/", ".")


def _in_file(key: str, option: Option, package: str, files: Files) -> Iterator[ValueSource]:
    """A file sets a key on a line of its own, in a mapping on one line, or as a choice of its defaults list."""
    for choice in option.choices:
        path = _mount(choice.group, choice.option, files)
        if key in (path, f"{package}.{path}".lstrip("."), f"{package}.{path.removeprefix(f'{option.group}.')}"):
            yield ValueSource(source_of(option.file), f"{choice.group}: {choice.option}", choice.comment)
    if package and not key.startswith(f"{package}."):
        return
    name = key[len(package) :].lstrip(".")
    if (line := option.keys.get(name)) and (line.default or line.comment):
        yield _line(line)
        return
    parent, last = _node(option.values, name.split("."))
    heads = [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]
    if isinstance(parent, dict) and last in parent and (head := next(filter(option.keys.get, heads), None)):
        yield _line(option.keys[head])


def _line(key: Key) -> ValueSource:
    text = f"{key.name.rpartition('.')[2]}: {key.default}"
    return ValueSource(f"{source_of(key.file)}:{key.line}", text, key.comment)


def _interpolation(
    key: str, raw: Config, config: Config, files: Files, texts: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """The resolvers and keys that a value is made of."""
    node, last = _node(raw, key.split("."))
    text = node.get(last) if isinstance(node, dict) else None
    if not isinstance(text, str):
        return
    references = REFERENCE.findall(text)
    for name, argument in RESOLVER.findall(text):
        if function := RESOLVERS.get(name):
            summary = " ".join((function.__doc__ or "").partition("\n\n")[0].split())
            yield "resolver", f"${{{name}:{argument}}}: {summary}"
        if name == "recipe":
            references.append(f"model.recipe.{argument}")
        if name == "oc.env":
            yield "resolver", f"the environment variable {argument}"
    for name in references:
        parent, last = _node(config, name.split("."))
        if isinstance(parent, dict) and last in parent:
            sources = [setting.source for setting in _settings(name, files, texts)]
            yield "from", f"{name} = {_shown(parent[last], name)}, {sources[-1] if sources else 'derived'}"


def _readers(key: str, config: Config, raw: Config) -> Iterator[str]:
    """The code that gets the value, and the keys that refer to it."""
    parts = key.split(".")
    nodes = [(depth, _at(config, parts[:depth])) for depth in range(len(parts) - 1, -1, -1)]
    depth, target = next(((d, node["_target_"]) for d, node in nodes if "_target_" in (node or {})), (0, ""))
    if parts[-1] == "_target_":
        yield f"r1/config/build.py, which builds it{_file_of(target)}"
    elif target and parts[depth] in MOUNTED.get(".".join(parts[: depth - 1]), ()):
        yield f"{'.'.join(parts[: depth - 1])}, which holds it"
    elif target:
        yield f"{target}({parts[depth]}=...){_file_of(target)}"
    elif not isinstance(_at(config, parts), dict):
        yield ", ".join(_files_that_read(parts[0]))
    for name, text in _leaves(raw):
        if isinstance(text, str) and key in REFERENCE.findall(text):
            yield f"{name}: {text}"


def _file_of(target: str) -> str:
    file = PACKAGE.parent.joinpath(*target.split(".")[:-1]).with_suffix(".py")
    return f", {source_of(file)}" if file.is_file() else ""


def _files_that_read(key: str) -> list[str]:
    """r1's modules that take a key of the run itself out of a config."""
    pattern = re.compile(rf"""\b(cfg|config|_root_)(\[|\.get\()["']{key}["']""")
    return [source_of(file) for file in sorted(PACKAGE.rglob("*.py")) if pattern.search(file.read_text())]


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items() if isinstance(node, dict) else ():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        elif f"{prefix}{name}".partition(".")[0] != "hydra":
            yield from ((f"{prefix}{name}", part) for part in (value if isinstance(value, list) else [value]))


def _node(config: Any, parts: Sequence[str]) -> tuple[Any, str]:
    """(the mapping that holds a key, the key's last name)."""
    return _at(config, parts[:-1]), parts[-1]


def _at(config: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _shown(value: Any, key: str) -> str:
    """A value as an override writes it, without secrets; of a node, what it builds."""
    if isinstance(value, dict) and "_target_" in value:
        return f"an object of {value['_target_']}"
    return REDACTED if format_value(value, key) == REDACTED else override_value(value)
