"""HTTP with one deadline for a request: its connection, the server's headers, body and trailers.

A socket's own timeout starts anew with every byte, so a server that sends one now and then is never done. Here the
request runs in a thread, and its socket is shut down at the deadline. No redirect is followed.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from socket import SHUT_RDWR, socket
from threading import Thread
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

MAX_TIMEOUT_S = 604_800  # a week; the system's own limit is an OverflowError


@dataclass(frozen=True)
class HttpResponse:
    status: int
    headers: Message
    body: bytes


class Exchange:
    """One request and its response.

    Args:
        url: with scheme and host.
        max_bytes: of the response's body; one byte more is read, for the caller to see that it is longer.
        connect_timeout_s: of the connection alone; None: that of the request.
        proxies: take https requests through the environment's proxy.
    """

    def __init__(
        self, url: str, *, max_bytes: int, connect_timeout_s: float | None = None, proxies: bool = False
    ) -> None:
        self.max_bytes, self.connect_timeout_s = max_bytes, connect_timeout_s
        self._connection, self._path = connection_to(url, proxies)
        self._socket: socket | None = None
        self._closed = False

    def run(self, method: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float) -> HttpResponse:
        """The response, whatever its status.

        Raises:
            TimeoutError: it is not complete after ``timeout_s`` seconds.
            OSError, HTTPException: no connection, one that breaks, or a malformed response.
        """
        future: Future[HttpResponse] = Future()

        def send() -> None:
            try:
                future.set_result(self._send(method, body, headers, timeout_s))
            except BaseException as error:
                future.set_exception(error)

        Thread(target=send, name="http", daemon=True).start()
        try:
            return future.result(timeout_s)
        finally:
            self.close()

    def _send(self, method: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float) -> HttpResponse:
        self._connection.timeout = min(timeout_s, self.connect_timeout_s or timeout_s)
        try:
            self._connection.connect()
            self._socket = self._connection.sock
            self._socket.settimeout(timeout_s)
            if self._closed:  # close() was called during the connect
                raise OSError("aborted")
            self._connection.request(method, self._path, body, dict(headers))
            with self._connection.getresponse() as response:
                return HttpResponse(response.status, response.headers, response.read(self.max_bytes + 1))
        except ValueError as error:  # http.client's own, of a malformed header or chunk
            raise HTTPException(str(error)) from None
        finally:
            self._connection.close()

    def close(self) -> None:
        """End the request, from any thread: ``run`` raises."""
        self._closed = True
        with suppress(OSError, AttributeError):  # not yet connected, or done
            (self._socket or self._connection.sock).shutdown(SHUT_RDWR)


def connection_to(url: str, proxies: bool) -> tuple[HTTPConnection, str]:
    """A connection, not yet open, and the request's target."""
    parts = urlsplit(url)
    host, target = parts.hostname or "", (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if parts.scheme != "https":
        return HTTPConnection(host, parts.port), target
    proxy = getproxies().get("https") if proxies and not proxy_bypass(host) else None
    if not proxy:
        return HTTPSConnection(host, parts.port), target
    at = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    user = f"{unquote(at.username)}:{unquote(at.password or '')}" if at.username else ""
    headers = {"Proxy-Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"} if user else {}
    connection = HTTPSConnection(at.hostname or "", at.port)
    connection.set_tunnel(host, parts.port, headers)
    return connection, target
