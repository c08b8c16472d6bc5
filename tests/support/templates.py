"""Chat templates, written small: each renders as the public models of its kind do. And how tests build a template."""

from __future__ import annotations

from typing import Any

from r1.data.template.chat import Chat


def chat(**knobs: Any) -> Chat:
    """The tokenizer's own chat template, as conf/data/template/chat.yaml has it."""
    return Chat(**{"system": None, "prefill": "", "chat_template": None, "chat_template_kwargs": {}} | knobs)
