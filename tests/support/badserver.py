"""An OpenAI-compatible server on this machine that misbehaves on purpose, and keeps what it was asked."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.seen)
            self.server.seen.append((self.path, self.headers, body, time.monotonic()))
        script = self.server.script
        (script[number] if number < len(script) else self.server.otherwise)(self, body)

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Follows ``script`` reply by reply, then says ``otherwise``; keeps what it was asked."""

    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Behaviour] = []
        self.otherwise: Behaviour = say
        self.seen: list[tuple[str, Message, dict[str, Any], float]] = []
        self.lock, self.released = threading.Lock(), threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that has hung up is part of the test

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield running
        finally:
            running.released.set()
            running.shutdown()
            thread.join()


def completion(text: str | None, reason: str | None = "stop", model: str | None = "big", **message: str) -> bytes:
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": reason}
    usage = {"prompt_tokens": 5, "completion_tokens": 7}
    told = {"model": model, "system_fingerprint": "fp_1"} if model else {}
    return json.dumps({"choices": [choice], "usage": usage, **told}).encode()


def say(handler: Handler, body: dict[str, Any]) -> None:
    handler.send(200, completion(f"{body['messages'][0]['content']} {body['seed']}"))


def solve(handler: Handler, body: dict[str, Any], model: str = "big") -> None:
    """The right answer to a sum, in the right form."""
    total = sum(map(int, re.findall(r"\d+", body["messages"][0]["content"])))
    handler.send(200, completion(f"<think> it is {total}.</think>\n<answer>{total}</answer>", model=model))


def refuse(status: int, message: str = "no", **headers: str) -> Behaviour:
    error = json.dumps({"error": {"message": message}}).encode()
    return lambda handler, body: handler.send(status, error, **headers)


def garbage(text: bytes) -> Behaviour:
    return lambda handler, body: handler.send(200, text)


def half_a_body(handler: Handler, body: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(completion("x")[:20])


def hang_up(handler: Handler, body: dict[str, Any]) -> None:
    handler.connection.close()


def hang(handler: Handler, body: dict[str, Any]) -> None:
    handler.server.released.wait(10)


def drip(handler: Handler, body: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.released.wait(0.05):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def drip_an_error(handler: Handler, body: dict[str, Any]) -> None:
    handler.send_response(500)
    handler.end_headers()
    while not handler.server.released.wait(0.05):
        handler.wfile.write(b"x")
        handler.wfile.flush()
