"""The state of the fake W&B server."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
Search = Callable[[Json, list[Json]], Json | None]  # (config of a sweep, its runs) -> {name: {value}}; None: finished
Stopper = Callable[[Json, list[Json]], list[str]]  # (config of a sweep, its runs) -> names of runs to stop


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())


def identifier(*parts: str) -> str:
    return base64.b64encode(":".join(parts).encode()).decode()


class State:
    def __init__(self, search: Search, stopper: Stopper) -> None:
        self.lock = threading.RLock()
        self.search, self.stopper = search, stopper
        self.runs: dict[tuple[str, str, str], Json] = {}  # by entity, project, name
        self.sweeps: dict[str, Json] = {}
        self.agents: dict[str, Json] = {}
        self.artifacts: dict[str, Json] = {}
        self.used: list[tuple[str, str]] = []  # (run, artifact)
        self.files: dict[str, bytes] = {}
        self.calls: list[tuple[str, Json]] = []
        self.unknown: list[tuple[str, str]] = []

    def run(self, entity: str | None, project: str | None, name: str) -> Json:
        """A run, created if it does not exist."""
        entity, project = entity or "local", project or "uncategorized"
        new = {"id": identifier("Run:v1", name, project, entity), "entity": entity, "project": project, "name": name}
        new |= {"displayName": name, "state": "running", "config": "{}", "summaryMetrics": "{}", "tags": []}
        new |= dict.fromkeys(("sweepName", "group", "jobType", "notes", "exitcode"))
        new |= {"createdAt": now(), "heartbeatAt": now(), "history": [], "events": [], "log": []}
        return self.runs.setdefault((entity, project, name), new | {"stop": False, "preempting": False, "seen": False})

    def find(self, variables: Json) -> Json | None:
        names = (variables.get(key) for key in ("name", "run", "runName", "runId"))
        entity = variables.get("entity") or variables.get("entityName") or "local"
        project = variables.get("project") or variables.get("projectName")
        return self.runs.get((entity, str(project), next((str(name) for name in names if name), "")))

    def by_id(self, run_id: str) -> Json:
        return next(run for run in self.runs.values() if run["id"] == run_id)
