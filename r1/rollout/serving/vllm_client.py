"""Talking to a vLLM server: JSON there and back, and what is wrong when it is not."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from socket import SHUT_RDWR
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from r1.core.errors import UserError
from r1.rollout.serving.weight_sync import VllmCompletion

START = "python -m r1.serve MODEL starts one that fits"
CONNECT_S = 10.0  # a host that has not answered by then is not there; a run that is stopped waits no longer
MAX_BYTES = 1 << 28  # a longer body is no answer of vLLM's


class Server:
    """Args: url: http(s)://HOST:PORT; timeout_s: seconds that one request may take.

    Raises:
        UserError: the address is none.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        try:
            parts = urlsplit(url)
            self.host, self.port = parts.hostname or "", parts.port
        except ValueError:
            parts, self.host, self.port = urlsplit(""), "", None
        if parts.scheme not in ("http", "https") or not self.host or parts.username or parts.password or parts.query:
            raise UserError("this is no address of a server", key="rollout.url", value=url, expected="http://HOST:PORT")
        self.url, self.timeout_s = url, timeout_s
        self.path = parts.path.rstrip("/").removesuffix("/v1")
        self.open: set[HTTPConnection] = set()
        self.hung_up = Event()
        self.connection = HTTPSConnection if parts.scheme == "https" else HTTPConnection

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Raises: UserError: nobody answers, or not as vLLM does."""
        return self._ask("POST", path, json.dumps(body or {}).encode())

    def get(self, path: str) -> Any:
        """Raises: UserError: as ``post``."""
        return self._ask("GET", path, None)

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        connection = self.connection(self.host, self.port, timeout=min(self.timeout_s, CONNECT_S))
        try:
            connection.connect()
            connection.sock.settimeout(self.timeout_s)
            self.open.add(connection)
            if self.hung_up.is_set():  # before this one was among the open ones
                raise OSError("hung up")
            connection.request(method, self.path + path, body, {"Content-Type": "application/json"})
            with connection.getresponse() as reply:
                text = reply.read(MAX_BYTES)
        except (OSError, HTTPException) as error:
            hint = f"{START}; a run that had begun goes on with resume=auto"
            message = f"the vLLM server does not answer {path}: {type(error).__name__} {error}"
            raise UserError(message, key="rollout.url", value=self.url, hint=hint, code=1) from None
        finally:
            self.open.discard(connection)
            connection.close()
        if reply.status != 200:
            hint = START if reply.status in (403, 404, 405) else "the server's own log says more"
            message = f"the vLLM server answers {path} with {reply.status}: {excerpt(text)}"
            raise UserError(message, key="rollout.url", value=self.url, hint=hint, code=1)
        try:
            return json.loads(text or b"null")
        except (ValueError, RecursionError):
            raise unreadable(path, self.url, text) from None

    def abort_requests(self) -> None:
        """Break off every request in flight: vLLM stops writing for those who have gone."""
        self.hung_up.set()
        for connection in list(self.open):
            with suppress(OSError, AttributeError):  # it has just ended by itself
                connection.sock.shutdown(SHUT_RDWR)

    def written(self, path: str, body: dict[str, Any]) -> VllmCompletion:
        """One completion. Raises: UserError: as ``post``, and where it is incomplete."""
        found = self.post(path, body)
        try:
            (choice,) = found["choices"]
            ids, logps = choice["token_ids"], [at["logprob"] for at in choice["logprobs"]["content"]]
            versions = [span["version"] for span in choice["weight_versions"] or ()]
            sound = ids and len(ids) == len(logps) and all(type(i) is int and i >= 0 for i in ids)
            if not sound or not all(math.isfinite(float(logp)) for logp in logps):
                raise ValueError
            return VllmCompletion(ids, [float(logp) for logp in logps], [str(version) for version in versions])
        except (ValueError, KeyError, TypeError):
            raise unreadable(path, self.url, json.dumps(found).encode()) from None


def unreadable(path: str, url: str, text: bytes) -> UserError:
    message = f"what the vLLM server answers to {path} is no completion with log-probs and versions: {excerpt(text)}"
    return UserError(message, key="rollout.url", value=url, hint=START, code=1)


def excerpt(text: bytes) -> str:
    """What an error's body says, on one line, printable, short."""
    said = text[:2000].decode(errors="replace")
    try:
        found = json.loads(text)
        said = str(found.get("error", found.get("detail", said)))
    except (ValueError, AttributeError, RecursionError):
        pass
    return "".join(c if c.isprintable() else " " for c in said)[:200]
