"""A small W&B server on this machine, in memory, for the real client: ``wandb sweep``, ``agent``, ``sync`` and ``Api``.

Every call is kept in ``server.state.calls``, every uploaded file in ``files``, what it does not know in ``unknown``.
"""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
import time
import traceback
import urllib.parse
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from fakewandb_operations import Operations
from fakewandb_search import search
from fakewandb_state import Search, State, Stopper, now

OPERATION = re.compile(r"\b(?:query|mutation)\s+(\w+)")
STREAM = re.compile(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream")
STREAMED = {"wandb-history.jsonl": "history", "wandb-events.jsonl": "events", "output.log": "log"}
Mood = Literal["well", "silent", "failing"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.body()
        self.server.traffic.append(self.path.encode() + b" " + body)
        if self.unwell():
            return
        if self.path == "/graphql":
            self.graphql(json.loads(body))
        elif match := STREAM.match(self.path):
            self.stream(match.groups(), json.loads(body or b"{}"))
        elif self.path.startswith("/sdk/otel"):  # the client's own telemetry
            self.answer({})
        else:
            self.server.state.unknown.append((self.path, body.decode(errors="replace")))
            self.answer({}, 404)

    def do_PUT(self) -> None:
        body = self.body()
        self.server.traffic.append(self.path.encode() + b" " + body)
        if not self.unwell():
            self.server.state.files[urllib.parse.unquote(self.path.removeprefix("/upload/"))] = body
            self.answer({})

    def do_GET(self) -> None:
        if not self.unwell():
            data = self.server.state.files.get(urllib.parse.unquote(self.path.removeprefix("/upload/")))
            self.answer({} if data is None else data, 404 if data is None else 200)

    def graphql(self, request: dict[str, Any]) -> None:
        query, variables = request["query"], request.get("variables") or {}
        found = OPERATION.search(query)
        name = found.group(1) if found else "(anonymous)"
        state, operation = self.server.state, getattr(self.server.operations, name, None)
        state.calls.append((name, variables))
        if operation is None and "__type(" in query:  # what the server can do: nothing beyond the least
            self.answer({"data": {}})
        elif operation is None:
            state.unknown.append((name, query))
            self.answer({"errors": [{"message": f"no operation {name}"}]}, 400)
        else:
            try:
                with state.lock:
                    data = operation(variables)
            except Exception:
                state.unknown.append((name, traceback.format_exc()))
                self.answer({"errors": [{"message": f"{name} failed"}]}, 400)
            else:
                self.answer({"data": data})

    def stream(self, place: tuple[str, ...], told: dict[str, Any]) -> None:
        with self.server.state.lock:
            run = self.server.state.run(*place)
            run["heartbeatAt"] = now()
            run["state"] = "running" if run["state"] == "pending" else run["state"]
            for name, part in (told.get("files") or {}).items():
                if lines := STREAMED.get(name):
                    run[lines][part.get("offset", 0) :] = part["content"]
                elif name == "wandb-summary.json":
                    run["summaryMetrics"] = part["content"][-1]
            run["preempting"] = run["preempting"] or told.get("preempting", False)
            if told.get("complete"):
                run["exitcode"] = told.get("exitcode") or 0
                bad = "killed" if run["stop"] else "preempted" if run["preempting"] else "failed"
                run["state"] = bad if run["exitcode"] else "finished"
        self.answer({"exitcode": None, "limits": {}, "stopped": run["stop"]})

    # ---- HTTP ----

    def unwell(self) -> bool:
        """What the server does to every request when it is not well."""
        if self.server.mood == "silent":
            self.server.ended.wait()
            self.close_connection = True
        if self.server.mood == "failing":
            self.answer({"errors": [{"message": "out of order"}]}, 500)
        return self.server.mood != "well"

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            held = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                held += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            held = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(held) if self.headers.get("Content-Encoding") == "gzip" else held

    def answer(self, held: Any, status: int = 200) -> None:
        body = held if isinstance(held, bytes) else json.dumps(held).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Context manager; ``mood`` makes it misbehave, ``die()`` ends it with all its connections."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, search: Search = search, stopper: Stopper = lambda config, runs: []) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.state = State(search, stopper)
        self.operations = Operations(self.state, self.url)
        self.mood: Mood = "well"
        self.traffic: list[bytes] = []  # all that anyone has sent, but for the headers
        self.ended = threading.Event()
        self.sockets: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client drops connections as it likes."""

    def settled(self) -> None:
        """Wait until a run has come and none is at work any more."""
        deadline = time.monotonic() + 60
        while not self.state.runs or any(run["state"] == "running" for run in self.state.runs.values()):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def die(self) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()
        for connection in list(self.sockets):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        if not self.ended.is_set():
            self.die()
