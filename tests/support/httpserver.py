"""The base of the fake HTTP servers: on the loopback, JSON in and out, every request recorded.

A responder is a function of the handler and the request's JSON. It returns the body of a 200 response (bytes or JSON),
or sends another response with ``handler.send`` and returns None.
"""

from __future__ import annotations

import gzip
import json
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, Self

Responder = Callable[["Handler", Any], Any]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Message
    body: bytes
    index: int  # in the server's list of requests
    time: float = field(default_factory=time.monotonic)

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")


class Handler(BaseHTTPRequestHandler):
    server: HttpServer

    def setup(self) -> None:
        self.protocol_version = self.server.http_version
        super().setup()

    def do_POST(self) -> None:
        body = self._read_body()
        if body is None:  # its client was killed while it sent the request
            return
        with self.server.lock:
            request = Request(self.command, self.path, self.headers, body, len(self.server.requests))
            self.server.requests.append(request)
        response = self.server.answer(self, request)
        if response is not None:
            self.send(200, response)

    do_GET = do_HEAD = do_PUT = do_POST

    def _read_body(self) -> bytes | None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if len(body) < length:
                return None
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def send(self, status: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


class HttpServer(ThreadingHTTPServer, ABC):
    """Context manager. ``stop`` ends the server with all its connections and threads; ``released`` ends a hang."""

    http_version = "HTTP/1.0"  # one request per connection
    request_queue_size = 64
    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[Request] = []
        self.lock, self.released = Lock(), Event()
        self._connections: set[socket.socket] = set()
        self._thread = Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    @abstractmethod
    def answer(self, handler: Handler, request: Request) -> Any:
        """See the head of this file."""

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: a client that closes its connection is part of many tests."""

    def stop(self) -> None:
        self.released.set()
        self.shutdown()
        self._thread.join()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread.is_alive():
            self.stop()


# ---- responders ----


def refuse(status: int, message: str = "no", **headers: str) -> Responder:
    return lambda handler, body: handler.send(status, {"error": {"message": message}}, **headers)


def reply_with(text: bytes) -> Responder:
    return lambda handler, body: text


def hang_up(handler: Handler, body: Any) -> None:
    handler.connection.close()


def hang(handler: Handler, body: Any) -> None:
    handler.server.released.wait(10)
