"""The process that renders chat templates (r1/model/chat.py): they are programs, which may loop or fill the memory.

Started by its path with an empty environment. It renders with transformers' own functions, and imports no torch.
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the folder of r1, started by its path

from r1.core.worker import Handler, main
from r1.model.transformers_adapter import render_template

GROWTH, EXTRA_CHARS = 16, 1 << 20  # a conversation has at most 16 times the characters of its messages, and 2^20


def renderer() -> Handler:
    """A handler of ``{"template": text, "date": text, "messages": [...], "variables": {}}``.

    It returns ``{"text": text, "spans": ...}`` of ``render_template``, or ``{"error": text}`` for what that raises.
    """

    def render(job: dict[str, Any]) -> dict[str, Any]:
        try:
            date = datetime.fromisoformat(job["date"])
            text, spans = render_template(job["template"], job["messages"], date, job["variables"])
        except MemoryError:
            raise
        except Exception as error:
            return {"error": str(error) or type(error).__name__}
        most = EXTRA_CHARS + GROWTH * len(str((job["messages"], job["variables"])))
        return (
            {"text": text, "spans": spans}
            if len(text) <= most
            else {"error": f"it writes more than {most:,} characters"}
        )

    messages = [{"role": "user", "content": "?"}]
    render({"template": "{{ messages }}", "messages": messages, "date": "2024-07-26", "variables": {}})  # imports
    return render


if __name__ == "__main__":
    main(int(sys.argv[1]), renderer)
