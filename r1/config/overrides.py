"""What may stand on a command line: overrides in Hydra's grammar, each key once, no secret, and of Hydra's own settings
only those that a sweep needs.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from r1.core.errors import UserError, UserErrors
from r1.core.secrets import HIDDEN, redact

FLAGS = "-m (a grid), --cfg job (show the config), --help, --info"
SWEEPS = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.sweep", "hydra.searchpath")


def read(argv: list[str]) -> tuple[Namespace, list[Override]]:
    """Flags and overrides of a command line.

    Raises:
        UserErrors: everything that can be seen without composing a config.
    """
    parser = get_args_parser()
    parser.error = _unknown_flag  # type: ignore[method-assign]
    args = parser.parse_args(argv)
    if args.experimental_rerun:  # it would load a pickle
        do = "python -m r1.reproduce RUN runs a record again"
        raise UserError("r1 does not rerun pickled jobs", where="--experimental-rerun", do=do)
    if args.config_path or args.config_name:
        flag = "--config-path" if args.config_path else "--config-name"
        do = "python -m r1.reproduce RUN runs a record again; --config-dir FOLDER adds options of your own"
        raise UserError("r1 composes from its own conf/", where=flag, given=args.config_path or args.config_name, do=do)
    return args, parsed(args.overrides, bool(args.multirun))


def parsed(texts: Iterable[str], multirun: bool = False) -> list[Override]:
    """Overrides in Hydra's grammar.

    Raises:
        UserErrors: everything that can be seen without composing a config.
    """
    found: list[Override] = []
    errors: list[UserError] = []
    for text in texts:
        try:
            override = OverridesParser.create().parse_rule(text, "override")
        except Exception as error:  # the grammar raises many kinds
            errors.append(_unreadable(text, str(error)))
            continue
        if not override.key_or_group:
            errors.append(_unreadable(text, ""))
            continue
        errors += problems(override, found, multirun)
        found.append(override)
    if errors:
        raise UserErrors(errors)
    return found


def _unknown_flag(message: str) -> NoReturn:
    given = message.rpartition(": ")[2]
    what = "unknown flag" if given.startswith("-") else "flags stand before the first key=value"
    what = what if message.startswith("unrecognized") else message
    do = "settings are written key=value, without dashes: python -m r1.run -m stage.lr=1e-4,3e-4"
    raise UserError(what, where="command line", given=given, allowed=FLAGS, do=do)


def _unreadable(text: str, reason: str) -> UserError:
    if not text.strip():
        return UserError("an empty override", where="command line", given=text, do="leave it out, or write key=value")
    key, equals, value = text.partition("=")
    if equals and not key.strip("+~ "):
        return UserError("an override needs a key", where="command line", given=text, do="write key=value")
    if not equals:
        do = f"write key=value; to leave a key out: ~{text}"
        return UserError("an override needs a value", where="command line", given=text, do=do)
    do = f"""quote it twice if it is text: "{key}='{value}'" """ if "'" not in value else reason
    return UserError("this override cannot be read", where=key, given=text, allowed="key=value", do=do)


def problems(override: Override, earlier: Iterable[Override], multirun: bool) -> Iterator[UserError]:
    """Everything wrong with one override, apart from whether its key exists."""
    key, value = name(override), override.value()
    if any(name(other) == key for other in earlier):
        yield UserError(f"`{key}` is given twice", where=key, given=override.input_line, do="leave one of them out")
    if value == {}:
        do = f"~{key} to leave it out"
        yield UserError("an empty mapping changes nothing", where=key, given=override.input_line, do=do)
    if any(map(_is_secret, leaves(value))):
        yield UserError(
            "this looks like a secret; command lines are seen by others and kept in the shell's history",
            where=key,
            given=HIDDEN,
            do="export it as an environment variable (WANDB_API_KEY, or the one that teacher.api_key_env names)",
        )
    if override.is_sweep_override() and not multirun:
        text = override.input_line.partition("=")[2] if override.input_line else ""
        do = f"-m for one run with each; {key}=[{text}] for a list; {key}='\"{text}\"' for a text with commas"
        yield UserError("several values for one key", where=key, given=text, allowed="one value, or -m", do=do)
    if key.partition("/")[0].partition(".")[0] == "hydra":
        yield from _hydra_problems(override, key, value, multirun)


def _hydra_problems(override: Override, key: str, value: Any, multirun: bool) -> Iterator[UserError]:
    if "_target_" in str(override.input_line):
        yield UserError("a command line may not choose what Hydra builds", where=key, given=override.input_line)
    elif not key.startswith(SWEEPS):
        yield UserError(
            "Hydra's own settings stay as they are",
            where=key,
            given=value,
            allowed=SWEEPS,
            do="output_dir=... says where the record goes" if "dir" in key else "leave it out",
        )
    elif not multirun and key != "hydra.searchpath":
        yield UserError("only a sweep reads this", where=key, given=value, do="-m for a sweep, or leave it out")


def name(override: Override) -> str:
    """The key or group that an override is about, with its package."""
    return override.key_or_group + (f"@{override.package}" if override.package else "")


def leaves(value: Any) -> Iterator[Any]:
    """The plain values in nested lists, mappings and sweeps."""
    if isinstance(value, dict):
        value = list(value.values())
    for item in getattr(value, "list", value) if isinstance(getattr(value, "list", value), list) else [value]:
        yield from leaves(item) if isinstance(item, dict | list) else [getattr(item, "text", item)]


def _is_secret(value: Any) -> bool:
    """Whether a whole text looks like a secret, or is an address with a password in it."""
    hidden = redact(value) if isinstance(value, str) else ""
    return hidden == HIDDEN or f"//{HIDDEN}@" in hidden
