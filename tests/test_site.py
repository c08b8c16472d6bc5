"""README.md and the pages of docs/: short, linked, complete, and built without a warning."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1.core.paths import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def links(file: Path) -> Iterator[tuple[str, str]]:
    """(path, anchor) of every link inside the repository."""
    for target in LINK.findall(CODE.sub("", file.read_text())):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(file: Path) -> set[str]:
    """Those of a page's headings: lower case, blanks as hyphens, other signs dropped."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub(lambda code: code[0].strip("`"), file.read_text()), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def pages(nav: object) -> Iterator[str]:
    match nav:
        case str():
            yield nav
        case list() | dict():
            for part in nav.values() if isinstance(nav, dict) else nav:
                yield from pages(part)


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_of_a_text_lead_to_files_and_headings(file: Path) -> None:
    targets = [((file.parent / path).resolve() if path else file, anchor) for path, anchor in links(file)]
    assert [str(target) for target, _ in targets if not target.exists()] == []
    assert [(target.name, a) for target, a in targets if a and a not in anchors(target)] == []
    if file.is_relative_to(DOCS):  # the site has no other files
        assert [str(target) for target, _ in targets if not target.is_relative_to(DOCS)] == []


def test_site_has_every_page_once() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    assert sorted(pages(nav)) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


def test_readme_has_at_most_150_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.slow
def test_site_is_built_without_a_warning_and_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    files = [file for file in (tmp_path / "site").rglob("*") if file.suffix in (".html", ".css")]
    assert len([file for file in files if file.suffix == ".html"]) > len(PAGES)
    loaded = re.compile(
        rb"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(?:https?:)?//|<link[^>]*\shref=["']?(?:https?:)?//[^>]*"""
        rb"""stylesheet|@import|url\(["']?(?:https?:)?//"""
    )
    assert [file.name for file in files if loaded.search(file.read_bytes())] == []
