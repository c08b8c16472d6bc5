"""Writes docs/reference/config.md: every option and key of conf/, with type, default and meaning.

python docs/make_reference.py
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from r1.config.reference.files import (
    Key,
    Option,
    file_names,
    group_names,
    group_title,
    option_file,
    option_names,
    read_option,
)
from r1.config.reference.text import key_rows
from r1.core.paths import CONF, ROOT

PAGE = Path(__file__).parent / "reference" / "config.md"
HEAD = """# Configuration reference

What `r1 options` prints, for all options: written from conf/ and the code's annotations by
`python docs/make_reference.py`, and a test holds it to them. `r1 config explain KEY` shows where a run's value comes
from, `r1 config schema` prints JSON schemas for editors. An option is chosen by `GROUP=OPTION`, a key set by
`KEY=VALUE`; `${...}` is worked out from other keys.
"""


def page() -> str:
    """The text of the page."""
    lines = [HEAD, "## The run", "", *keys_of(read_option("", "config"))]
    for group in group_names():
        options = [read_option(group, name) for name in option_names(group) if is_shipped(group, name)]
        lines += ["", f"## {group}", ""]
        lines += [f"{sentence(group_title(group))}\n"] if group_title(group) else []
        lines += table(("option", ""), [(f"`{option.name}`", option.title) for option in options])
        if group == "experiment":
            continue
        for name in file_names(group):
            if name.startswith("_"):
                lines += section(f"Keys of every option of {group}", read_option(group, name))
        for option in options:
            lines += section(f"{group}={option.name}", option)
    return "\n".join(lines) + "\n"


def is_shipped(group: str, name: str) -> bool:
    file = option_file(group, name)
    return file is not None and file.is_relative_to(CONF)


def section(title: str, option: Option) -> list[str]:
    rows = keys_of(option)
    start = f" Starts from the keys of `{'`, `'.join(option.bases)}`." if set(option.bases) - {"_base"} else ""
    return (
        ["", f"### {title}", "", *([sentence(option.title) + start, ""] if option.title else []), *rows] if rows else []
    )


def keys_of(option: Option) -> list[str]:
    """The table of a file's own keys; the types of a shared file are those of an option that starts from it."""
    full = option.with_bases()
    if option.name.startswith("_") and "_target_" not in option.values:
        heirs = (read_option(option.group, name) for name in option_names(option.group))
        full = next(heir for heir in heirs if option.name in heir.bases).with_bases()
    types = {key.name: words for key, words in key_rows(full)}
    own = [key for key in option.keys.values() if key.name in types]
    return table(("key", "type", "default", ""), [row(key, types[key.name]) for key in own])


def row(key: Key, words: str) -> tuple[str, ...]:
    return (f"`{key.name}`", words, f"`{key.default}`" if key.default else "", key.comment)


def escaped(cell: str) -> str:
    """Text of a table's cell: code keeps its signs, a bar ends no cell, and `<name>` is no tag."""
    text = cell.replace("|", "\\|")
    return text if cell.startswith("`") else text.replace("<", "&lt;").replace("*", "\\*")


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:].removesuffix(".") + "."


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; empty without rows."""
    lines = [f"| {' | '.join(map(escaped, cells))} |" for cells in rows]
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *lines] if lines else []


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE.relative_to(ROOT))
