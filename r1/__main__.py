"""The command ``r1 NAME ...``, also ``python -m r1 NAME ...``: each name is a module with a ``main()``.

``python -m r1.NAME ...`` is the same. Nothing but the module of the command is imported.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

import r1

COMMANDS = (
    "run",
    "sweep",
    "report",
    "compare",
    "reproduce",
    "sample",
    "rescore",
    "serve",
    "options",
    "config",
    "completion",
)
HELP = """{doc}

usage: r1 COMMAND ...

{commands}

  r1 run                                       the default run: GRPO on sums, a few minutes on two CPU cores
  r1 run stage=sft data=dataset data.path=mine.jsonl model.path=NAME model/recipe=500m
  r1 run --help                                groups, flags and more examples
  r1 COMMAND --help                            of any command; r1 --version
"""


def main() -> None:
    """Run the command that the command line names, or print the help."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(help_text(), end="")
    elif name in ("-v", "-V", "--version"):
        print(f"r1 {r1.__version__}")
    elif name in COMMANDS:
        sys.argv = [f"r1 {name}", *rest]
        import_module(_module(name)).main()
    else:
        from r1.core.command import run_command

        run_command(lambda: _refuse(name))


def help_text() -> str:
    """r1 in one sentence, and its commands by the first line of their modules."""
    rows = [_usage(name) for name in COMMANDS]
    width = max(len(usage) for usage, _ in rows)
    lines = [f"  {usage:{width}}  {text}" for usage, text in rows]
    return HELP.format(doc=r1.__doc__, commands="\n".join(lines))


def _module(name: str) -> str:
    """Of a part's folder of the same name, the command is ``__main__``."""
    return f"r1.{name}.__main__" if Path(__file__).with_name(name).is_dir() else f"r1.{name}"


def _usage(name: str) -> tuple[str, str]:
    """(``sweep FILE``, what it does) from the first line of a command's module, which is not imported."""
    with Path(__file__).parents[1].joinpath(*_module(name).split(".")).with_suffix(".py").open() as file:
        match = re.fullmatch(r'"""r1 ([^:]+): (.+?)\.?(""")?\n', file.readline())
    assert match, f"the first line of {_module(name)} is no usage"
    return match[1], match[2]


def _refuse(name: str) -> None:
    from r1.core.errors import UserError, suggest

    hint = suggest(name, COMMANDS)
    if "=" in name or name.startswith(("-", "+", "~")):
        hint = f"r1 run {name}"
    raise UserError("r1 has no such command", key="r1 COMMAND", value=name, expected=COMMANDS, hint=hint)


if __name__ == "__main__":
    main()
