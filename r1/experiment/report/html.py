"""One HTML file from a template, with its style, scripts and data inside, that opens from disk.

Text from a record is untrusted: the template escapes it, the data block has no ``<`` to end it with, and the pages'
scripts only set text. A content security policy allows these scripts by their hashes and forbids the network.
Curves are drawn by Observable Plot, which is in vendor/ with the d3 that it needs.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "plots.js")  # of every page


def html(folder: Path, data: Any, scripts: Sequence[str] = (), **values: Any) -> str:
    """Render ``page.html`` of a folder, with its ``page.js``.

    Args:
        data: for the page's script, as JSON.
        scripts: further scripts of the folder, before ``page.js``.
        values: for the template.
    """
    files = [*(HERE / name for name in SCRIPTS), *(folder / name for name in (*scripts, "page.js"))]
    texts = [file.read_text(encoding="utf-8") for file in files]
    return plain_html(
        folder,
        scripts=texts,
        hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in texts],
        data=as_json(data),
        **values,
    )


def plain_html(folder: Path, **values: Any) -> str:
    """``page.html`` of a folder with these values, without a script; it includes ``head.html`` of this one."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([folder, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = (HERE / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(css=css, **values)


def as_json(data: Any) -> str:
    """JSON that no HTML parser can read a tag in."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
