"""Paths of the package's own files, in a checkout and in a wheel (which holds conf/ as r1/conf)."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent.parent
ROOT = PACKAGE.parent
ASSETS = PACKAGE / "assets"  # the shipped models
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else ROOT / "conf"
EXAMPLE_CONFS = sorted(ROOT.glob("examples/*/conf")) if CONF.parent == ROOT else []  # a wheel has no examples
