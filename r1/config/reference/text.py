"""Groups, options and keys as tables for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

import r1
from r1.config.reference.files import (
    Key,
    Option,
    group_names,
    group_title,
    is_knob,
    option_names,
    read_option,
    source_of,
)
from r1.core.errors import UserError, suggest

PIPE_WIDTH = 200  # columns where the output is no terminal
NODES = ("trainer", "val")  # of conf/config.yaml, which have keys and no options
FOOTER = "r1 options GROUP: what its options are; r1 options GROUP/OPTION: its keys, with types and ranges"

RUN_HELP = """usage: r1 run [FLAG]... [GROUP=OPTION | KEY=VALUE]...

  r1 run                                             the default run: GRPO on sums, a few minutes on two CPU cores
  r1 run stage=grpo reward=math stage.group_size=16  options of groups, and their keys
  r1 run stage=sft data=dataset data.path=mine.jsonl model.path=NAME model/recipe=500m
  r1 run experiment=r1                               a pipeline: several runs, each the parent of the next
  r1 run -m stage.lr=1e-4,3e-4 seed=0,1,2            a grid: one run for each combination

flags stand before the first KEY=VALUE:
  -m, --multirun       a grid
  --cfg job            print the composed config; nothing is run. dry_run=true checks it, too
  --config-dir FOLDER  options and experiments of your own
  --info               the files that the config is composed of; --hydra-help: Hydra's own flags"""


def show(parts: Iterable[RenderableType]) -> None:
    """Print on stdout, a blank line between two parts."""
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, markup=False, emoji=False)
    for number, part in enumerate(parts):
        console.print(*[""] * bool(number), part, sep="\n")


def run_help() -> list[RenderableType]:
    """The page of ``r1 run --help``."""
    return [Text(f"{r1.__doc__}\n\n{RUN_HELP}"), groups_table(group_names()), Text(FOOTER)]


def reference(name: str | None) -> list[RenderableType]:
    """The page of all groups, of a group, of an option (``stage/grpo``, ``stage=grpo``), or of ``trainer`` and ``val``.

    Raises:
        UserError: there is no such group or option.
    """
    groups, path = group_names(), (name or "").strip("/").replace("=", "/")
    if not path:
        keys = read_option("", "config").keys.values()
        rows = [(key.name, key.default, key.comment) for key in keys if is_knob(key.name)]
        return [groups_table(groups), _table(("key", "default", "of the run itself"), rows), Text(FOOTER)]
    if path in NODES:
        config = read_option("", "config")
        return [Text(config.keys[path].comment), *_tables([_keys_table(config, f"{path}.")])]
    if path in groups:
        options = [(option, read_option(path, option).title) for option in option_names(path)]
        inner = [group for group in groups if group.startswith(f"{path}/")]
        title = Text(f"{path}: {group_title(path)}".removesuffix(": "))
        return [title, *_tables([_table(("option", ""), options), groups_table(inner)])]
    for group in sorted(groups, key=len, reverse=True):
        if path.startswith(f"{group}/"):
            return option_page(read_option(group, path.removeprefix(f"{group}/")))
    hint = f"of a key: r1 config explain {path}" if "." in path else suggest(path, [*groups, *NODES])
    raise UserError("there is no such config group", key="GROUP", value=name, expected=[*groups, *NODES], hint=hint)


def option_page(option: Option) -> list[RenderableType]:
    """Title, source, keys and choices of an option."""
    full = option.with_bases()
    source = ", ".join([source_of(option.file), *filter(None, [full.values.get("_target_")])])
    title = Text(f"{option.group}={option.name}: {option.title}\n{source}")
    choices = [(choice.group, choice.option, choice.comment) for choice in full.choices]
    return [title, *_tables([_keys_table(full), _table(("group", "option", ""), choices)])]


def groups_table(groups: Iterable[str]) -> Table:
    """Each group with its options, of which those in conf/config.yaml's defaults list are marked."""
    chosen = {choice.group: choice.option for choice in read_option("", "config").choices}
    rows = []
    for group in groups:
        names = [f"{name}*" if chosen.get(group) == name else name for name in option_names(group)]
        rows.append((group, ", ".join(names), group_title(group)))
    return _table(("group", "options (*: chosen by default)", ""), rows)


def key_rows(option: Option, prefix: str = "") -> list[tuple[Key, str]]:
    """(key, type in words) of the keys that people set, those below ``prefix``."""
    from r1.config.check.models import describe
    from r1.config.reference.types import key_types  # imports what a run imports

    types = {name: describe(hint) for name, hint in key_types(option).items()}
    return [(key, types.get(key.name, "")) for key in option.keys.values() if is_knob(key.name, prefix)]


def _keys_table(option: Option, prefix: str = "") -> Table:
    rows = [(key.name, key.default, words, key.comment) for key, words in key_rows(option, prefix)]
    return _table(("key", "default", "type", ""), rows)


def _tables(tables: Iterable[Table]) -> list[Table]:
    return [table for table in tables if table.row_count]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table without the columns that are empty in every row."""
    filled = [(name, cells) for name, *cells in zip(columns, *rows, strict=True) if any(cells)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name, _ in filled:
        table.add_column(name, overflow="fold", no_wrap=name in ("group", "key", "option"))
    for row in zip(*(cells for _, cells in filled), strict=True):
        table.add_row(*row)
    return table
