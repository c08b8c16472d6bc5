"""Paths of the package's own files, in a checkout and in a wheel (which holds conf/ as r1/conf)."""

from __future__ import annotations

from glob import glob, has_magic
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
ROOT = PACKAGE.parent
ASSETS = PACKAGE / "assets"  # the shipped models
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else ROOT / "conf"
EXAMPLE_CONFS = sorted(ROOT.glob("examples/*/conf")) if CONF.parent == ROOT else []  # a wheel has no examples


def matching_files(path: str) -> list[Path]:
    """The file of that name, or those that a glob matches, in the order of their names; empty: there are none."""
    file = Path(path).expanduser()
    is_pattern = has_magic(path) and not file.exists()
    files = map(Path, sorted(glob(str(file), recursive=True))) if is_pattern else [file]
    return [file for file in files if file.is_file()]
