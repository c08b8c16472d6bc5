"""The process that renders chat templates (r1/model/chat.py): they are programs, which may loop or fill the memory.

Started by its path with an empty environment. It renders with transformers' own functions, and imports no torch.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the folder of r1, started by its path

from r1.core.worker import Handler, main
from r1.model.transformers_adapter import render_template

GROWTH, EXTRA_CHARS = 16, 1 << 20  # a conversation has at most 16 times the characters of its messages, and 2^20


def renderer() -> Handler:
    """A handler of ``{"templates": [[template, date], ...], "jobs": [[index of a template, values], ...]}``.

    ``values`` are ``{"messages": [...], "variables": {}}`` as JSON. Each has a ``{"text": text, "spans": ...}``
    of ``render_template``, or ``{"error": text}`` if that raises.
    """

    def render(template_and_date: tuple[str, str], values: str) -> dict[str, Any]:
        try:
            job = json.loads(values)
            template, date = template_and_date
            text, spans = render_template(template, job["messages"], datetime.fromisoformat(date), job["variables"])
        except MemoryError:
            raise
        except Exception as error:
            return {"error": str(error) or type(error).__name__}
        most = EXTRA_CHARS + GROWTH * len(values)
        return (
            {"text": text, "spans": spans}
            if len(text) <= most
            else {"error": f"it writes more than {most:,} characters"}
        )

    def render_all(job: dict[str, Any]) -> list[dict[str, Any]]:
        return [render(job["templates"][index], values) for index, values in job["jobs"]]

    values = json.dumps({"messages": [{"role": "user", "content": "?"}], "variables": {}})
    render_all({"templates": [("{{ messages }}", "2024-07-26")], "jobs": [(0, values)]})  # imports
    return render_all


if __name__ == "__main__":
    main(int(sys.argv[1]), renderer)
