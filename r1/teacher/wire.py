"""The wire format of an OpenAI-compatible endpoint: bodies, headers and errors, which may all be malformed."""

from __future__ import annotations

import json
import time
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from urllib.error import HTTPError

from r1.teacher.base import Answer

MAX_BYTES = 1 << 26  # a longer body is no chat completion


class Failure(Exception):
    """A request came to nothing; the next may not. ``retry_after``: seconds the endpoint asks to wait."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


def read_answer(body: bytes) -> Answer:
    """A chat completion as an answer; reasoning that comes apart from the content is put between think tags.

    Raises:
        Failure: the body is something else.
    """
    try:
        reply = json.loads(body)
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        message = choice["message"]
        content, thinking = (
            message.get("content") or "",
            message.get("reasoning_content") or message.get("reasoning") or "",
        )
        if not (isinstance(content, str) and isinstance(thinking, str)):
            raise TypeError("content")
        if thinking:
            content = f"<think>{thinking}</think>\n{content}" if content else f"<think>{thinking}"
        tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        return Answer(content, str(choice.get("finish_reason") or "unknown"), *tokens)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError):
        raise Failure(f"no chat completion: {body[:400].decode(errors='replace')}") from None


def retry_after(headers: Message) -> float:
    """Seconds of a ``Retry-After`` header, which is a number or a date; 0 without one that can be read."""
    value: str = headers.get("Retry-After", "").strip()
    try:
        if value[:1].isdigit():
            return float(value)
        seconds: float = parsedate_to_datetime(value).timestamp() - time.time()
    except (TypeError, ValueError):
        return 0.0
    return max(0.0, seconds)


def read_body(response: HTTPResponse, deadline: float) -> bytes:
    chunks, size = [], 0
    while chunk := response.read1(1 << 16):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_BYTES:
            raise Failure(f"a body of more than {MAX_BYTES} bytes")
        if time.monotonic() > deadline:  # the socket's own timeout starts anew with every byte
            raise TimeoutError
    return b"".join(chunks)


def excerpt(error: HTTPError) -> str:
    """What the endpoint says about its error: the message of an OpenAI-style body, or the body."""
    try:
        body = error.read(4096).decode(errors="replace")
    except (OSError, HTTPException):
        return ""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return body
