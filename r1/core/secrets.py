"""Nothing secret reaches a disk or a log: redaction by key, by the look of a value, by what the environment holds."""

from __future__ import annotations

import os
import re
from typing import Any

HIDDEN = "<redacted>"
NAMES = (
    r"(?:api|access|private)[_-]?key|(?<!eos_)(?<!bos_)(?<!pad_)(?<!total_)token"
    r"|secret|passw(?:or)?d|authorization|credential"
)
SECRET_KEY = re.compile(rf"(?:^|[._-])(?:{NAMES})s?$", re.IGNORECASE)
SECRET_PAIR = re.compile(  # name=value anywhere in a text, and name: value inside braces
    rf"((?:(?<![^\W_])(?:{NAMES})s?\s*=|[{{,]\s*['\"]?(?:[\w.-]*[._-])?(?:{NAMES})s?['\"]?\s*:)\s*)"
    r"('[^']*'|\"[^\"]*\"|[^\s,}'\"]+)",
    re.IGNORECASE,
)
SECRET_VALUE = re.compile(
    r"\b(?:sk-[\w-]{16,}|hf_\w{16,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|AKIA[0-9A-Z]{16}|(?<!/)[0-9a-f]{40})\b"
    r"|(?<=://)[^/\s'\"]+(?=@)|(?<=Bearer )[^\s'\"]+"
)
SECRET_ENV = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
SEEN: set[str] = set()  # what was once hidden for its name is hidden wherever it turns up again
MIN_LENGTH = 8  # a shorter text may turn up by chance
PLAIN = re.compile(r"[\d.eE+-]*|true|false|null|none", re.IGNORECASE)  # max_tokens=100 is no secret


def redact(value: Any) -> Any:
    """The same containers with every secret replaced; ``a.api_key=...`` in a text included."""
    if isinstance(value, dict):
        return {k: _hide(v) if _hides(str(k), v) else redact(v) for k, v in value.items()}
    if isinstance(value, list):
        return [redact(item) for item in value]
    return _redact_text(value) if isinstance(value, str) else value


def redact_values(text: str) -> str:
    """Only what looks like a secret or is one of the environment's: for source code, where a name says nothing."""
    held = [secret for name, secret in os.environ.items() if SECRET_ENV.search(name)]
    for secret in (s for s in (*SEEN, *held) if len(s) >= MIN_LENGTH):
        text = text.replace(secret, HIDDEN)
    return SECRET_VALUE.sub(HIDDEN, text)


def _hides(key: str, value: Any) -> bool:
    return isinstance(value, str) and bool(SECRET_KEY.search(key)) and not PLAIN.fullmatch(value)


def _hide(secret: str) -> str:
    SEEN.add(secret.strip("'\""))
    return HIDDEN


def _redact_text(text: str) -> str:
    key, equals, value = text.partition("=")
    if equals and " " not in key and _hides(key, value):  # an override: the rest of the text is its value
        return f"{key}={_hide(value)}"
    return SECRET_PAIR.sub(_redact_pair, redact_values(text))


def _redact_pair(pair: re.Match[str]) -> str:
    name, value = pair.groups()
    return pair.group() if PLAIN.fullmatch(value.strip("'\"")) else name + _hide(value)
