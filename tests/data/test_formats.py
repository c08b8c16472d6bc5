"""The formats of docs/data.md: each block's command, on rows like the one shown, prints the lines shown."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from r1.core.paths import ROOT
from r1.experiment.launch import launch
from r1.run import execute

PAGE = ROOT / "docs" / "data.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COPIES = range(20, 100)


class Format(NamedTuple):
    """A block of the page: a row, a command, and lines that it prints."""

    kind: str
    row: str
    command: list[str]
    shown: list[str]


def formats() -> Iterator[tuple[str, Format]]:
    for section in PAGE.read_text().split("\n### ")[1:]:
        (kind, row), (_, command), (_, shown) = BLOCK.findall(section)
        yield section.partition("\n")[0], Format(kind, row, shlex.split(command)[3:], shown.splitlines())


def copies(row: str) -> list[str]:
    """The row, which is about 7 and 5, and others like it."""
    return [row, *(re.sub(r"\b(7|12|13)\b", lambda n, k=k: str(int(n[0]) - 7 + k), row) for k in COPIES)]  # type: ignore[misc]


def write_rows(one: Format, path: Path) -> None:
    """Rows like the one shown, as the file or folder that the command reads."""
    from datasets import Dataset

    if one.kind == "csv":
        header, row = one.row.splitlines()
        path.write_text("\n".join([header, *copies(row)]) + "\n")
        return
    lines = [line.strip() for line in copies(one.row)]
    rows = [json.loads(line) for line in lines]
    match path.suffix:
        case ".jsonl":
            path.write_text("\n".join(lines) + "\n")
        case ".json":
            path.write_text(json.dumps(rows))
        case ".parquet":
            Dataset.from_list(rows).to_parquet(path)
        case _:
            Dataset.from_list(rows).save_to_disk(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("one", [pytest.param(one, id=title) for title, one in formats()])
def test_format_of_the_docs_is_read_as_they_show(
    one: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (path,) = (value.removeprefix("data.path=") for value in one.command if value.startswith("data.path="))
    write_rows(one, Path(path))
    assert launch([*one.command, "trainer.accelerator=cpu"], execute) == 0
    lines = [line.removeprefix("r1").strip() for line in capsys.readouterr().err.splitlines()]
    assert [line for line in lines if line.startswith("first row")] == one.shown


def test_the_docs_have_formats() -> None:
    assert len(list(formats())) >= 12
