"""Nothing secret reaches a disk: redaction by key, by the look of a value, and by what the environment holds."""

from __future__ import annotations

import os
import re
from typing import Any

HIDDEN = "<redacted>"
SECRET_KEY = re.compile(r"(?:^|[._-])(api_?key|token|secret|passw(?:or)?d|authorization|credential)s?$", re.IGNORECASE)
SECRET_VALUE = re.compile(
    r"\b(?:sk-[\w-]{16,}|hf_\w{16,}|gh[pousr]_\w{20,}|AKIA[0-9A-Z]{16}|[0-9a-f]{40})\b|(?<=://)[^/@\s]+:[^/@\s]+(?=@)"
)
SECRET_ENV = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")


def redact(value: Any) -> Any:
    """The same containers with every secret replaced; ``a.api_key=...`` overrides included."""
    if isinstance(value, dict):
        return {k: HIDDEN if _hides(k, v) else redact(v) for k, v in value.items()}
    if isinstance(value, list):
        return [redact(item) for item in value]
    return _redact_text(value) if isinstance(value, str) else value


def _hides(key: Any, value: Any) -> bool:
    return bool(SECRET_KEY.search(str(key))) and isinstance(value, str)


def _redact_text(text: str) -> str:
    key, equals, _ = text.partition("=")
    if equals and SECRET_KEY.search(key.strip()) and " " not in key.strip():
        return f"{key}={HIDDEN}"
    for name, secret in os.environ.items():
        if SECRET_ENV.search(name) and len(secret) >= 8:
            text = text.replace(secret, HIDDEN)
    return SECRET_VALUE.sub(HIDDEN, text)
