"""The command line: flags and overrides in Hydra's grammar.

Of two overrides of one key the last one counts, as in Hydra. No value may be a secret, and of Hydra's own settings only
those of a sweep may be set.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from r1.config.hydra_adapter import ChoiceSweep, Override, QuotedString, argument_parser, parse_override, plain_choices
from r1.core.errors import UserError, UserErrors
from r1.core.override_text import override_value
from r1.core.paths import CONF
from r1.core.secrets import REDACTED, SEEN_SECRETS, redact

FLAGS = "-m (a grid), --cfg job (show the config), --help, --info"
HYDRA_SWEEP_KEYS = (
    "hydra/launcher",
    "hydra.launcher",
    "hydra/sweeper",
    "hydra.sweeper",
    "hydra.sweep",
    "hydra.searchpath",
)


def drop_repeated(argv: Sequence[str]) -> list[str]:
    """The command line without overrides that a later one of the same key replaces; each is noted on stderr."""
    remaining: list[str | None] = list(argv)
    position: dict[str, int] = {}
    for i, text in enumerate(argv):
        if (key := _key_of(text)) is None:
            continue
        if (earlier := position.get(key)) is not None:
            remaining[i] = combine(remaining[earlier] or "", text)
            remaining[earlier] = None
            print(f"r1  {key} is given twice: the last one counts", file=sys.stderr)
        position[key] = i
    return [text for text in remaining if text is not None]


def _key_of(text: str) -> str | None:
    """The key that an argument overrides; None: a flag, or not an override."""
    if text.startswith("-") or not ("=" in text or text.startswith("~")):
        return None
    try:
        return override_key(parse_override(text)) or None
    except Exception:  # reported when the command line is parsed
        return None


def combine(earlier: str, later: str) -> str | None:
    """One override for two of the same key, in this order; None: nothing is left.

    ``+key`` adds a key that the config does not have: only a later ``+`` may set it, and ``~key`` takes it back.
    """
    is_added = earlier.startswith("+") and not earlier.startswith("++")
    if is_added and later.startswith("~"):
        return None
    return f"+{later}" if is_added and later[0] not in "+~" else later


def parse_command_line(argv: list[str]) -> tuple[Namespace, list[Override]]:
    """Flags and overrides of a command line.

    Raises:
        UserErrors: every error that shows without composing a config.
    """
    parser = argument_parser()
    parser.error = _unknown_flag  # type: ignore[method-assign]
    args = parser.parse_args(argv)
    if args.experimental_rerun:  # it would load a pickle
        hint = "python -m r1.reproduce RUN runs a record again"
        raise UserError("r1 does not rerun pickled jobs", key="--experimental-rerun", hint=hint)
    if args.config_path or args.config_name:
        flag = "--config-path" if args.config_path else "--config-name"
        hint = "python -m r1.reproduce RUN runs a record again; --config-dir FOLDER adds options of your own"
        raise UserError(
            "r1 composes from its own conf/", key=flag, value=args.config_path or args.config_name, hint=hint
        )
    return args, parse_overrides(args.overrides, bool(args.multirun))


def parse_overrides(texts: Iterable[str], multirun: bool = False) -> list[Override]:
    """Overrides in Hydra's grammar.

    Raises:
        UserErrors: every error that shows without composing a config.
    """
    overrides: list[Override] = []
    errors: list[UserError] = []
    texts = list(texts)
    if split := [i for i, text in enumerate(texts) if text == "="]:
        value, hint = " ".join(texts[max(0, split[0] - 1) : split[0] + 2]), "write KEY=VALUE without spaces"
        raise UserError("an override has no spaces around its =", key="command line", value=value, hint=hint)
    for number, text in enumerate(texts):
        try:
            override = parse_override(text)
        except Exception as error:  # the grammar raises many kinds
            before = texts[number - 1] if number else ""
            if "=" in text or not before or "=" in before:  # of several words in a row, the first
                errors.append(_unreadable(text, str(error)))
            if "=" not in text and "=" in before:
                errors[-1].hint = _join_hint(before, text)
            continue
        if not override.key_or_group:
            errors.append(_unreadable(text, ""))
            continue
        errors += override_errors(override, overrides, multirun)
        overrides.append(override)
    if errors:
        raise UserErrors(errors)
    return overrides


def _unknown_flag(message: str) -> NoReturn:
    value = message.rpartition(": ")[2]
    if message.startswith("unrecognized"):
        message = "unknown flag" if value.startswith("-") else "flags stand before the first key=value"
    hint = "settings are written key=value, without dashes: r1 run -m stage.lr=1e-4,3e-4"
    raise UserError(message, key="command line", value=value, expected=FLAGS, hint=hint)


def _unreadable(text: str, reason: str) -> UserError:
    if not text.strip():
        return UserError("an empty override", key="command line", value=text, hint="leave it out, or write key=value")
    key, equals, value = text.partition("=")
    if equals and not key.strip("+~ "):
        return UserError("an override needs a key", key="command line", value=text, hint="write key=value")
    reason = "" if redact(text) != text else reason  # it quotes the value
    if not equals:
        hint = f"write key=value; to leave a key out: ~{text}"
        return UserError("an override needs a value", key="command line", value=text, hint=hint)
    hint = f"""quote it twice if it is text: "{key}='{value}'" """ if "'" not in value else reason
    if value.startswith("[") and "]" not in value:
        hint = f"a list has no spaces: {key}=[A,B]; or quote all of it: '{key}=[A, B]'"
    return UserError("this override cannot be read", key=key, value=text, expected="key=value", hint=hint)


def _join_hint(before: str, text: str) -> str:
    """A word without a key may be the rest of the value before it, which the shell has cut at a space."""
    key, _, value = before.partition("=")
    joined = f"""a text with spaces is quoted twice: "{key}='{value} {text} ...'" """
    return f"{text}=OPTION: r1 options {text} lists them" if (CONF / text).is_dir() else joined


def override_errors(override: Override, earlier: Iterable[Override], multirun: bool) -> Iterator[UserError]:
    """The errors of one override; whether its key exists is not known yet."""
    key, value = override_key(override), override.value()
    if any(override_key(other) == key for other in earlier):
        yield UserError(f"`{key}` is given twice", key=key, value=override.input_line, hint="leave one of them out")
    if value == {}:
        hint = f"~{key} to leave it out"
        yield UserError("an empty mapping changes nothing", key=key, value=override.input_line, hint=hint)
    if any(map(_is_secret, flatten_values(value))):
        yield UserError(
            "this looks like a secret; command lines are seen by others and kept in the shell's history",
            key=key,
            value=REDACTED,
            hint="export it as an environment variable (WANDB_API_KEY, or the one that teacher.api_key_env names)",
        )
    if override.is_sweep_override() and not multirun:
        text = override.input_line.partition("=")[2] if override.input_line else ""
        hint = f"-m for one run with each; {key}=[{text}] for a list; {key}='\"{text}\"' for a text with commas"
        if (CONF / key).is_dir():
            hint = f"-m {key}={text} for one run with each; a pipeline runs them one after the other (experiment=r1)"
        yield UserError("several values for one key", key=key, value=text, expected="one value, or -m", hint=hint)
    if key.partition("/")[0].partition(".")[0] == "hydra":
        yield from _hydra_problems(override, key, value, multirun)


def _hydra_problems(override: Override, key: str, value: Any, multirun: bool) -> Iterator[UserError]:
    if "_target_" in str(override.input_line):
        yield UserError("a command line may not choose what Hydra builds", key=key, value=override.input_line)
    elif not key.startswith(HYDRA_SWEEP_KEYS):
        yield UserError(
            "Hydra's own settings stay as they are",
            key=key,
            value=value,
            expected=HYDRA_SWEEP_KEYS,
            hint="output_dir=... says where the record goes" if "dir" in key else "leave it out",
        )
    elif not multirun and key != "hydra.searchpath":
        yield UserError("only a sweep reads this", key=key, value=value, hint="-m for a sweep, or leave it out")


def map_texts(text: str, function: Callable[[str, str], str]) -> str:
    """An override with ``function`` applied to each text of its value, also in lists, mappings and choices of a sweep.

    Args:
        function: called with the key of a text (``a.b``, or that of a mapping) and the text.
    """

    def apply(key: str, part: Any) -> Any:
        if isinstance(part, dict):
            return {name: apply(str(name), child) for name, child in part.items()}
        if isinstance(part, list):
            return [apply(key, child) for child in part]
        return function(key, part) if isinstance(part, str) else part

    override = parse_override(text)
    before = plain_choices(override)
    after = apply(override_key(override), before)
    return text if after == before else f"{override.get_key_element()}={','.join(map(override_value, after))}"


def override_key(override: Override) -> str:
    """The key or group that an override sets, with its package."""
    return override.key_or_group + (f"@{override.package}" if override.package else "")


def flatten_values(value: Any) -> Iterator[Any]:
    """The plain values in nested lists, mappings and sweeps."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, ChoiceSweep):
        value = value.list
    if isinstance(value, list):
        for item in value:
            yield from flatten_values(item)
    else:
        yield value.text if isinstance(value, QuotedString) else value


def hide_in_environment(overrides: Iterable[str]) -> list[str]:
    """The overrides with each secret value as a reference to an environment variable, which is set here.

    Hydra writes the overrides of a grid into multirun.yaml, and a launcher into its own files; workers inherit the
    environment.
    """

    names: dict[str, str] = {}

    def reference(key: str, text: str) -> str:
        if "${" in text or redact({key: text}) == {key: text}:
            return text
        name = names.setdefault(text, f"R1_SECRET_{len(names)}")
        os.environ[name] = text
        return f"${{oc.env:{name}}}"

    return [map_texts(text, reference) for text in overrides]


def _is_secret(value: Any) -> bool:
    """Whether a whole text looks like a secret, or is an address with a password in it."""
    # One remembered from a config that was composed already stands in a pipeline's file, not on the command line.
    if not isinstance(value, str) or value in SEEN_SECRETS:
        return False
    hidden = redact(value)
    return hidden == REDACTED or f"//{REDACTED}@" in hidden
