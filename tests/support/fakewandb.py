"""A small W&B server on this machine, in memory, for the real client: ``wandb sweep``, ``agent``, ``sync`` and ``Api``.

Every call is recorded in ``server.state.calls``, every upload in ``files``, every unknown operation in ``unknown``.
"""

from __future__ import annotations

import re
import time
import traceback
from typing import Any, Literal
from urllib.parse import unquote

from fakewandb_operations import Operations
from fakewandb_search import search
from fakewandb_state import Search, State, Stopper, now
from httpserver import Handler, HttpServer, Request

OPERATION = re.compile(r"\b(?:query|mutation)\s+(\w+)")
STREAM = re.compile(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream")
STREAMED = {"wandb-history.jsonl": "history", "wandb-events.jsonl": "events", "output.log": "log"}
Mood = Literal["well", "silent", "failing", "dripping"]


class Server(HttpServer):
    """``mood`` makes it misbehave."""

    http_version = "HTTP/1.1"

    def __init__(self, search: Search = search, stopper: Stopper = lambda config, runs: []) -> None:
        super().__init__()
        self.state = State(search, stopper)
        self.operations = Operations(self.state, self.url)
        self.mood: Mood = "well"

    def wait_until_runs_ended(self) -> None:
        """Wait until there is a run and none is active."""
        deadline = time.monotonic() + 60
        while not self.state.runs or any(run["state"] == "running" for run in self.state.runs.values()):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def answer(self, handler: Handler, request: Request) -> Any:
        if self.mood == "silent":
            self.released.wait()
            handler.close_connection = True
            return None
        if self.mood == "dripping":
            handler.send_response(200)
            handler.end_headers()
            while not self.released.wait(0.05):
                handler.wfile.write(b" ")
                handler.wfile.flush()
            handler.close_connection = True
            return None
        if self.mood == "failing":
            return handler.send(500, {"errors": [{"message": "out of order"}]})
        if request.method == "POST":
            return self.post(handler, request)
        file = unquote(request.path.removeprefix("/upload/"))
        if request.method == "PUT":
            self.state.files[file] = request.body
            return {}
        return self.state.files[file] if file in self.state.files else handler.send(404, {})

    def post(self, handler: Handler, request: Request) -> Any:
        if request.path == "/graphql":
            return self.graphql(handler, request.json)
        if match := STREAM.match(request.path):
            return self.stream(match.groups(), request.json)
        if request.path.startswith("/sdk/otel"):  # the client's own telemetry
            return {}
        self.state.unknown.append((request.path, request.body.decode(errors="replace")))
        return handler.send(404, {})

    def graphql(self, handler: Handler, body: dict[str, Any]) -> Any:
        query, variables = body["query"], body.get("variables") or {}
        match = OPERATION.search(query)
        name = match.group(1) if match else "(anonymous)"
        state, operation = self.state, getattr(self.operations, name, None)
        state.calls.append((name, variables))
        if operation is None and "__type(" in query:  # the server's optional features: none
            return {"data": {}}
        if operation is None:
            state.unknown.append((name, query))
            return handler.send(400, {"errors": [{"message": f"no operation {name}"}]})
        try:
            with state.lock:
                return {"data": operation(variables)}
        except Exception:
            state.unknown.append((name, traceback.format_exc()))
            return handler.send(400, {"errors": [{"message": f"{name} failed"}]})

    def stream(self, path: tuple[str, ...], body: dict[str, Any]) -> Any:
        with self.state.lock:
            run = self.state.run(*path)
            run["heartbeatAt"] = now()
            run["state"] = "running" if run["state"] == "pending" else run["state"]
            for name, part in (body.get("files") or {}).items():
                if lines := STREAMED.get(name):
                    run[lines][part.get("offset", 0) :] = part["content"]
                elif name == "wandb-summary.json":
                    run["summaryMetrics"] = part["content"][-1]
            run["preempting"] = run["preempting"] or body.get("preempting", False)
            if body.get("complete"):
                run["exitcode"] = body.get("exitcode") or 0
                failed = "killed" if run["stop"] else "preempted" if run["preempting"] else "failed"
                run["state"] = failed if run["exitcode"] else "finished"
        return {"exitcode": None, "limits": {}, "stopped": run["stop"]}
