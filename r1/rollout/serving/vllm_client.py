"""HTTP client of a vLLM server: JSON requests and replies, every failure as a ``UserError``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from http.client import HTTPException
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from r1.core.errors import UserError
from r1.core.http import Exchange
from r1.rollout.base import CheckForStop
from r1.rollout.serving.weight_sync import VllmCompletion

START_HINT = "start it with: python -m r1.serve MODEL"
GENERATE_PATH = "/inference/v1/generate"
CONNECT_TIMEOUT_S = 10.0  # short: a run that is asked to stop waits for a connection at most this long
MAX_REPLY_BYTES = 1 << 28
MIN_LOGP, MAX_LOGP = -1e4, 1e-3  # of a sampled token: no probability is above 1, but for rounding
POLL_S = 0.02


class VllmClient:
    """One connection per request, so that requests can be aborted from another thread.

    Args:
        url: http(s)://HOST:PORT, with or without ``/v1``.
        timeout_s: seconds that one request may take.

    Raises:
        UserError: the url is invalid.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:  # an invalid port
            parts, host = urlsplit(""), ""
        if parts.scheme not in ("http", "https") or not host or parts.username or parts.password or parts.query:
            raise UserError("invalid server address", key="rollout.url", value=url, expected="http://HOST:PORT")
        self.url, self.timeout_s = url, timeout_s
        self.address = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
        self.exchanges: set[Exchange] = set()
        self.aborted = Event()

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Raises: UserError: the server does not answer, or not as vLLM does."""
        return self._request("POST", path, json.dumps(body or {}).encode())

    def get(self, path: str) -> Any:
        """Raises: UserError: as ``post``."""
        return self._request("GET", path, None)

    def _request(self, method: str, path: str, body: bytes | None) -> Any:
        exchange = Exchange(self.address + path, max_bytes=MAX_REPLY_BYTES, connect_timeout_s=CONNECT_TIMEOUT_S)
        self.exchanges.add(exchange)
        try:
            if self.aborted.is_set():  # abort_requests ran just before the line above and missed this request
                raise OSError("aborted")
            response = exchange.run(method, body, {"Content-Type": "application/json"}, self.timeout_s)
        except (OSError, HTTPException) as error:
            hint = f"{START_HINT}; a run that has started resumes with resume=auto"
            message = f"the vLLM server does not answer {path}: {type(error).__name__} {error}"
            raise UserError(message, key="rollout.url", value=self.url, hint=hint, code=1) from None
        finally:
            self.exchanges.discard(exchange)
        text = response.body[:MAX_REPLY_BYTES]
        if response.status != 200:
            hint = START_HINT if response.status in (403, 404, 405) else "see the server's log"
            message = f"the vLLM server answers {path} with {response.status}: {excerpt(text)}"
            raise UserError(message, key="rollout.url", value=self.url, hint=hint, code=1)
        try:
            return json.loads(text or b"null")
        except (ValueError, RecursionError):
            raise invalid_reply(path, self.url, text) from None

    def abort_requests(self) -> None:
        """Close the connections of all requests in flight; vLLM stops generating when its client disconnects."""
        self.aborted.set()
        for exchange in list(self.exchanges):
            exchange.close()

    def request_completion(self, body: dict[str, Any]) -> VllmCompletion:
        """One completion. Raises: UserError: as ``post``, or the reply is incomplete."""
        reply = self.post(GENERATE_PATH, body)
        try:
            (choice,) = reply["choices"]
            token_ids, logps = choice["token_ids"], [float(t["logprob"]) for t in choice["logprobs"]["content"]]
            versions = [str(span["version"]) for span in choice["weight_versions"] or ()]
            ids_valid = token_ids and all(type(i) is int and 0 <= i < 1 << 31 for i in token_ids)
            if not ids_valid or len(token_ids) != len(logps) or not all(map(is_logp, logps)):
                raise ValueError
            return VllmCompletion(token_ids, logps, versions)
        except (ValueError, KeyError, TypeError, OverflowError):
            raise invalid_reply(GENERATE_PATH, self.url, json.dumps(reply).encode()) from None


def is_logp(value: float) -> bool:
    return MIN_LOGP <= value <= MAX_LOGP


def wait_for_futures(futures: Sequence[Future[Any]], check_for_stop: CheckForStop) -> None:
    """Wait for all futures; raise the first error, or that of ``check_for_stop``, at once."""
    pending = set(futures)
    while pending:
        check_for_stop()
        done, pending = wait(pending, POLL_S, FIRST_EXCEPTION)
        for future in done:
            future.result()


def invalid_reply(path: str, url: str, text: bytes) -> UserError:
    message = f"the vLLM server's reply to {path} is no completion with log-probs and versions: {excerpt(text)}"
    return UserError(message, key="rollout.url", value=url, hint=START_HINT, code=1)


def excerpt(text: bytes) -> str:
    """The error message in a response body: at most 200 printable characters on one line."""
    message = text[:2000].decode(errors="replace")
    try:
        body = json.loads(text)
        message = str(body.get("error", body.get("detail", message)))
    except (ValueError, AttributeError, RecursionError):
        pass
    return "".join(c if c.isprintable() else " " for c in message)[:200]
