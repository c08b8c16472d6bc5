"""No secret reaches a disk or a log: redaction by key, by the form of a value, and by the environment's secrets."""

from __future__ import annotations

import os
import re
from typing import Any

REDACTED = "<redacted>"
SECRET_NAMES = (
    r"(?:api|access|private)[_-]?key|(?<!eos_)(?<!bos_)(?<!pad_)(?<!total_)token"
    r"|secret|passw(?:or)?d|authorization|credential"
)
SECRET_KEY = re.compile(rf"(?:^|[._-])(?:{SECRET_NAMES})s?$", re.IGNORECASE)
SECRET_PAIR = re.compile(  # name=value anywhere in a text, and name: value inside braces
    rf"((?:(?<![^\W_])(?:{SECRET_NAMES})s?\s*=|[{{,]\s*['\"]?(?:[\w.-]*[._-])?(?:{SECRET_NAMES})s?['\"]?\s*:)\s*)"
    r"('[^']*'|\"[^\"]*\"|[^\s,}'\"]+)",
    re.IGNORECASE,
)
SECRET_VALUE = re.compile(
    r"\b(?:sk-[\w-]{16,}|hf_\w{16,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|AKIA[0-9A-Z]{16}|(?<!/)[0-9a-f]{40})\b"
    r"|(?<=://)[^/\s'\"]+(?=@)|(?<=Bearer )[^\s'\"]+"
)
SECRET_ENV = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
SEEN_SECRETS: set[str] = set()  # values once hidden because of their key are hidden wherever they turn up again
MIN_LENGTH = 8  # characters; a shorter text may turn up by chance
HARMLESS_VALUE = re.compile(r"[\d.eE+-]*|true|false|null|none", re.IGNORECASE)  # max_tokens=100 is no secret


def redact(value: Any) -> Any:
    """The same containers with every secret replaced, also those in texts (``a.api_key=...``)."""
    if isinstance(value, dict):
        return {k: _remember_and_hide(v) if _is_secret(str(k), v) else redact(v) for k, v in value.items()}
    if isinstance(value, list):
        return [redact(item) for item in value]
    return _redact_text(value) if isinstance(value, str) else value


def redact_values(text: str) -> str:
    """Redact values only, not by their keys: for source code, where ``token = next(tokens)`` is no secret."""
    from_env = [secret for name, secret in os.environ.items() if SECRET_ENV.search(name)]
    for secret in (*SEEN_SECRETS, *from_env):
        if len(secret) >= MIN_LENGTH:
            text = text.replace(secret, REDACTED)
    return SECRET_VALUE.sub(REDACTED, text)


def _is_secret(key: str, value: Any) -> bool:
    return isinstance(value, str) and bool(SECRET_KEY.search(key)) and not HARMLESS_VALUE.fullmatch(value)


def _remember_and_hide(secret: str) -> str:
    SEEN_SECRETS.add(secret.strip("'\""))
    return REDACTED


def _redact_text(text: str) -> str:
    key, equals, value = text.partition("=")
    if equals and " " not in key and _is_secret(key, value):  # an override: the rest of the text is its value
        return f"{key}={_remember_and_hide(value)}"
    return SECRET_PAIR.sub(_redact_pair, redact_values(text))


def _redact_pair(pair: re.Match[str]) -> str:
    name, value = pair.groups()
    return pair.group() if HARMLESS_VALUE.fullmatch(value.strip("'\"")) else name + _remember_and_hide(value)
