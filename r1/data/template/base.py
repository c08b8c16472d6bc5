"""What the templates share: the text that a completion is made to start with."""

from __future__ import annotations

import re

OPEN_TAG = re.compile(r"<(?:think|answer)>\s*\Z")


def template_prefill(rendered: str) -> str:
    """The open tag that a rendered prompt ends with, e.g. ``"<think>\\n"``, or an empty string.

    Some chat templates open the thinking themselves. A completion then never contains that tag, and a
    reward for its form stays at 0 unless the template's ``prefill`` counts it in.
    """
    found = OPEN_TAG.search(rendered)
    return found.group() if found else ""


def with_prefill(rendered: str, prefill: str) -> str:
    """``rendered`` with ``prefill`` behind it, but not twice; space at the end makes no difference."""
    return rendered if rendered.rstrip().endswith(prefill.strip()) and prefill.strip() else rendered + prefill
