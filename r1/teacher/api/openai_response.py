"""The response format of an OpenAI-compatible endpoint. Every body and header may be malformed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any

from r1.teacher.base import Answer, Failure

MAX_BYTES = 1 << 26  # a longer body is no chat completion
MAX_ERROR_BYTES = 4096
MAX_TOKENS = 10_000_000  # of a question or an answer; a larger number is none


def read_answer(body: bytes, warn: Callable[[str], object] = str) -> Answer:
    """Parse a chat completion. Reasoning in a field of its own is put in front of the content, between think tags.

    Args:
        warn: gets a text for each number that is ignored.

    Raises:
        Failure: the body is not a chat completion.
    """
    try:
        reply = json.loads(body)
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        message = choice["message"]
        content = message.get("content") or ""
        thinking = message.get("reasoning_content") or message.get("reasoning") or ""
        if not (isinstance(content, str) and isinstance(thinking, str)):
            raise TypeError("content")
        if thinking:
            content = f"<think>{thinking}</think>\n{content}" if content else f"<think>{thinking}"
        return Answer(
            _text(content),
            _text(choice.get("finish_reason") or "unknown"),
            prompt_tokens=_token_count(usage, "prompt_tokens", warn),
            completion_tokens=_token_count(usage, "completion_tokens", warn),
            model=_text(reply.get("model")),
            system_fingerprint=_text(reply.get("system_fingerprint")),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError):
        raise Failure("unreadable", f"no chat completion: {body[:4000].decode(errors='replace')}") from None


def _token_count(usage: Any, name: str, warn: Callable[[str], object]) -> int:
    """A number of tokens as the endpoint counts them; 0, unknown, for anything that can be none."""
    value = usage.get(name) if isinstance(usage, dict) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS:
        return int(value)
    if value is not None:
        warn(f"{name}={json.dumps(value)[:40]} is no number of tokens from 0 to {MAX_TOKENS:,}; it counts as unknown")
    return 0


def _text(value: object) -> str:
    """Text that UTF-8 can encode: JSON may hold half of a surrogate pair."""
    return str(value or "").encode(errors="replace").decode()


def retry_after(headers: Message) -> float:
    """Seconds of the ``Retry-After`` header, a number or a date; 0 if it is missing or malformed."""
    value: str = headers.get("Retry-After", "").strip()
    try:
        if value[:1].isdigit():
            return float(value)
        seconds: float = parsedate_to_datetime(value).timestamp() - time.time()
    except (TypeError, ValueError, IndexError, OverflowError):
        return 0.0
    return max(0.0, seconds)


def error_message(body: bytes) -> str:
    """The message in an OpenAI-style error body, or the start of another body."""
    text = body[:MAX_ERROR_BYTES].decode(errors="replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return text
