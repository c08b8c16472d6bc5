"""The response format of an OpenAI-compatible endpoint. Every body and header may be malformed."""

from __future__ import annotations

import json
import time
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from urllib.error import HTTPError

from r1.teacher.base import Answer, Failure

MAX_BYTES = 1 << 26  # a longer body is no chat completion
MAX_ERROR_BYTES = 4096


def read_answer(body: bytes) -> Answer:
    """Parse a chat completion. Reasoning in a field of its own is put in front of the content, between think tags.

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
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
            model=_text(reply.get("model")),
            system_fingerprint=_text(reply.get("system_fingerprint")),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError):
        raise Failure("unreadable", f"no chat completion: {body[:4000].decode(errors='replace')}") from None


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
    except (TypeError, ValueError):
        return 0.0
    return max(0.0, seconds)


def read_body(response: HTTPResponse, deadline: float) -> bytes:
    """Raises: Failure: the body is too long. TimeoutError: it did not end before ``deadline`` (monotonic seconds)."""
    chunks, size = [], 0
    while chunk := response.read1(1 << 16):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_BYTES:
            raise Failure("unreadable", f"a body of more than {MAX_BYTES} bytes")
        if time.monotonic() > deadline:  # the socket's own timeout starts anew with every byte
            raise TimeoutError
    return b"".join(chunks)


def error_message(error: HTTPError, deadline: float) -> str:
    """The message in an OpenAI-style error body, or the start of another body."""
    try:
        body = read_body(error.fp, deadline)[:MAX_ERROR_BYTES].decode(errors="replace")  # type: ignore[arg-type]  # it is the response
    except (OSError, HTTPException, Failure):
        return ""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return body
