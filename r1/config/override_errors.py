"""Why Hydra cannot compose an override, in r1's words: the key, the accepted values, and the nearest valid name."""

from __future__ import annotations

import itertools
import re
from typing import Any

from yaml import MarkedYAMLError  # type: ignore[import-untyped]

from r1.config.hydra_adapter import Override
from r1.config.overrides import override_key
from r1.core.errors import (
    ALIASES,
    NO_KEY,
    UserError,
    as_yaml_null,
    suggest,
    suggest_alias,
    suggest_moved_key,
)
from r1.core.paths import CONF
from r1.core.renamed import suggest_renamed
from r1.core.types import Config

LAUNCHERS = ("joblib", "submitit", "ray")  # extras of r1 that install one
PATHS = {"model": "hub", "data": "dataset"}  # group -> its option that takes any path
MAX_NAMED = 3  # options that a hint lists


def explain_override(override: Override, options: list[str], config: Config, reason: str) -> UserError:
    """Why an override cannot be added to ``config``; ``options`` are those of its group, if it chooses one."""
    key, kind = override.key_or_group, override.type.name
    value = override.value() if kind == "DEL" else as_yaml_null(override.value())
    if options:
        return wrong_option(override, options, reason)
    if kind == "ADD" and value_at(config, key) is not None:
        return UserError(f"`{key}` is there already", key=key, value=value, hint=f"leave out the +: {key}={value}")
    *parents, last = key.split(".")
    parent_key = ".".join(parents)
    parent = value_at(config, parent_key)
    if parent is None and parents[-1] in (value_at(config, ".".join(parents[:-1])) or {}):
        group = "/".join(parents)
        hint = f"choose an option first: +{group}=NAME" if (CONF / group).is_dir() else "set it first"
        return UserError(f"`{parent_key}` is null and has no keys", key=key, value=value, hint=hint)
    if parent is not None and not isinstance(parent, dict | list):
        message = f"`{parent_key}` is a value and has no keys"
        return UserError(message, key=key, value=value, hint=f"it is now {parent!r}")
    if kind in ("CHANGE", "DEL") and not (isinstance(parent, dict) and last in parent):
        return unknown_key(key, value, config)
    if "${" in str(value):
        hint = f"{reason.rstrip('.')}; r1 run --cfg job prints the keys, and a text is written with \\${{"
        return UserError("this interpolation leads nowhere", key=key, value=value, hint=hint)
    if kind == "DEL":
        hint = f"~{key} leaves it out, whatever its value"
        now = repr(value_at(config, key))
        return UserError(f"`{key}` has another value", key=key, value=value, expected=now, hint=hint)
    return UserError("this override does not compose", key=key, value=value, hint=reason)


def wrong_option(override: Override, options: list[str], reason: str) -> UserError:
    """Why an override cannot choose an option; ``options`` are those of its group."""
    key, value = override_key(override), as_yaml_null(override.value())
    if value not in options:
        is_name = bool(value) and isinstance(value, str)
        message = f"`{key}` has no option `{value}`" if is_name else f"`{key}` takes the name of one option"
        return UserError(message, key=key, value=value, expected=options, hint=_option_hint(override, options))
    if override.type.name == "ADD":
        return UserError(f"`{key}` is chosen already", key=key, value=value, hint=f"leave out the +: {key}={value}")
    if override.type.name == "DEL":
        return UserError(f"`{key}={value}` is not chosen", key=key, value=value, hint=f"~{key} leaves it out")
    if "No match in the defaults list" in reason:
        return UserError(f"`{key}` is not chosen by default", key=key, value=value, hint=f"add it: +{key}={value}")
    if "Could not override" in reason:
        group, _, package = key.partition("@")
        hint = f"+{key}={value} adds it at {package}, {group}={value} replaces the chosen one"
        if not package:
            hint = f"add it under a name: +{group}@{group.replace('/', '.')}.NAME={value}"
        return UserError(f"`{key}` is not chosen by default", key=key, value=value, hint=hint)
    return UserError("this option does not compose", key=key, value=value, hint=reason)


def _option_hint(override: Override, options: list[str]) -> str:
    """The option or the keys that a wrong choice could have meant."""
    key, value = override_key(override), override.value()
    if override.is_delete():
        return f"~{key.replace('/', '.')}.NAME leaves one out"
    if isinstance(value, dict):
        return f"set its keys one by one: {key}.KEY=VALUE"
    if isinstance(value, list):
        return f"-m {key}={','.join(map(str, value))} for one run with each; a pipeline runs one after the other"
    text = str(as_yaml_null(value))
    if text.startswith("_"):
        return "a file that starts with _ is not an option, but shared by options; glob(*,exclude=_*) leaves it out"
    if key.startswith("hydra/"):
        extra = text.partition("_")[0]
        near = suggest(text, options)
        return near or (
            f"pip install -e '.[{extra}]'" if extra in LAUNCHERS else f"pip install hydra-{value}-{key[6:]}"
        )
    if key in PATHS and re.search(r"[/.]", text):
        return f"{key}={PATHS[key]} {key}.path={text}"
    in_folder = [option for option in options if option.endswith(f"/{text}")]
    nearest = f"did you mean `{in_folder[0]}`?" if in_folder else suggest(text, options)
    return suggest_renamed(key, value) or nearest or f"r1 options {key}: what each of them is"


def unknown_key(key: str, value: Any, config: Config) -> UserError:
    """An error with the keys that could have been meant: those under the deepest parent of ``key`` that exists."""
    parts = key.split(".")
    depth = next(d for d in range(len(parts) - 1, -1, -1) if isinstance(value_at(config, ".".join(parts[:d])), dict))
    parent, prefix = value_at(config, ".".join(parts[:depth])), "".join(f"{part}." for part in parts[:depth])
    known = sorted(str(other) for other in parent if not str(other).startswith("_"))
    if not prefix:
        known = sorted({*known, *(p.relative_to(CONF).as_posix() for p in CONF.rglob("*") if p.is_dir())})
    hint = suggest_renamed(key) or suggest_group(key, value, config) or suggest_alias(key, config)
    hint = hint or options_with_key(key) or ("" if prefix else suggest_moved_key(key, config))
    hint = hint or suggest(parts[depth], known, prefix) or suggest_moved_key(key, config)
    if prefix == "reward.terms." and (CONF / "reward" / "terms" / f"{parts[2]}.yaml").is_file():
        hint = f"add this term first: +reward/terms@reward.terms.{parts[2]}={parts[2]}"
    message = f"unknown key `{key}`"
    return UserError(message, key=key, value=value, expected=known or NO_KEY, hint=hint)


def suggest_group(key: str, value: Any, config: Config) -> str:
    """``did you mean `stage/optimizer=muon`?`` for ``optimizer=muon``: the group of that name, inside another one."""
    name = key.rpartition(".")[2]
    for folder in sorted(CONF.glob(f"*/{ALIASES.get(name, name)}")):
        group = folder.relative_to(CONF).as_posix()
        if group.replace("/", ".") != key and (folder / f"{value}.yaml").is_file():
            sign = "" if value_at(config, group.replace("/", ".")) else "+"
            return f"did you mean `{sign}{group}={value}`?"
    return ""


def options_with_key(key: str) -> str:
    """``stage=grpo reads it``: the other options of the same group that have this key."""
    group, _, last = key.rpartition(".")
    files = (CONF / group.replace(".", "/")).glob("*.yaml") if group else []
    has_key = re.compile(rf"^({re.escape(last)}:|  - {re.escape(last)}@)", re.MULTILINE)
    texts = {file.stem: text for file in sorted(files) if has_key.search(text := file.read_text())}
    # first those that have no value for it: it is the key that they are chosen for
    options = sorted(texts, key=lambda name: f"\n{last}: ???" not in texts[name])
    if any(name.startswith("_") for name in options):
        return f"other options of `{group}` read it"
    names = " or ".join(options if len(options) <= MAX_NAMED else [*options[:MAX_NAMED], "another option"])
    return f"{group.replace('.', '/')}={names} reads it" if options else ""


def value_at(config: Any, key: str) -> Any:
    """The value of a dotted key, the whole config for an empty one; None if there is no such key."""
    for part in key.split(".") if key else ():
        config = config.get(part) if isinstance(config, dict) else None
    return config


def reason_of(error: BaseException) -> str:
    """The innermost message, without Hydra's own advice."""
    lines = [line.strip() for line in exception_texts(error)[-1].splitlines() if line.strip()]
    noise = r"full_key:|object_type=|Available options|Config search path|provider="
    return " ".join(itertools.takewhile(lambda line: not re.match(noise, line), lines))


def exception_texts(error: BaseException | None) -> list[str]:
    """The messages of an error and of its causes, the innermost last."""
    return [] if error is None else [str(error), *exception_texts(error.__cause__)]


def config_error(error: BaseException) -> UserError:
    """The config files themselves are at fault."""
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    key = f"{mark.name}:{mark.line + 1}" if mark else "config files"
    return UserError("the config cannot be composed", key=key, hint=reason_of(error))
