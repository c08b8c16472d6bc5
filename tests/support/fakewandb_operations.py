"""The GraphQL operations that W&B's client (0.31) asks for: runs, sweeps and their agents, artifacts, public API."""

from __future__ import annotations

import json
import re
import urllib.parse
import uuid
from typing import Any

import yaml
from fakewandb_state import Held, State, identifier, now

TAKEN = {  # from an upsertBucket to a run
    "config": "config",
    "summaryMetrics": "summaryMetrics",
    "displayName": "displayName",
    "groupName": "group",
    "jobType": "jobType",
    "tags": "tags",
    "notes": "notes",
    "sweep": "sweepName",
    "state": "state",
}
API = ("id", "name", "displayName", "state", "group", "jobType", "tags", "sweepName", "config", "summaryMetrics")
API += ("createdAt", "heartbeatAt", "notes")


class Runs:
    def __init__(self, state: State, url: str) -> None:
        self.state, self.url = state, url

    def Viewer(self, v: Held) -> Held:
        user = {"id": "u1", "name": "Local", "username": "local", "email": "l@localhost", "entity": "local"}
        teams = {"edges": [{"node": {"name": "local"}}]}
        return {"viewer": user | {"flags": "{}", "admin": False, "apiKeys": {"edges": []}, "teams": teams}}

    GetViewer = GetDefaultEntity = Viewer

    def ServerFeaturesQuery(self, v: Held) -> Held:
        return {"serverInfo": {"features": []}}

    def OrgFeatureFlags(self, v: Held) -> Held:
        return {"viewer": {"featureFlags": []}, "organization": None}

    def OrganizationCoreWeaveOrganizationID(self, v: Held) -> Held:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def UpsertBucket(self, v: Held) -> Held:
        run = self.state.run(v.get("entity"), v.get("project"), v.get("name") or self.state.by_id(v["id"])["name"])
        inserted, run["seen"] = not run["seen"], True
        run |= {to: v[name] for name, to in TAKEN.items() if v.get(name) is not None}
        entity = {"id": run["entity"], "name": run["entity"]}
        project = {"id": "p", "name": run["project"], "entity": entity}
        bucket = {name: run[name] for name in ("id", "name", "displayName", "config", "sweepName")}
        # no lines are counted: a history that is sent again without a resume replaces what there is
        bucket |= {"description": None, "project": project, "historyLineCount": None}
        return {"upsertBucket": {"inserted": inserted, "bucket": bucket}}

    def RunResumeStatus(self, v: Held) -> Held:
        model = {"id": "m", "name": v.get("project"), "entity": {"id": "local", "name": "local"}}
        run = self.state.find(v)
        if run is None or not run["seen"]:
            return {"model": model | {"bucket": None}}
        bucket = {name: run[name] for name in ("id", "name", "summaryMetrics", "displayName", "config", "tags")}
        counts = {f"{kind}LineCount": len(run[kind]) for kind in ("history", "events", "log")}
        tails = {f"{kind}Tail": json.dumps(run[kind][-1:]) for kind in ("history", "events")}
        return {"model": model | {"bucket": bucket | counts | tails | {"wandbConfig": json.dumps({"t": 1})}}}

    def RunStoppedStatus(self, v: Held) -> Held:
        run = self.state.find(v)
        return {"project": {"run": {"stopped": bool(run and run["stop"])}}}

    def CreateRunFiles(self, v: Held) -> Held:
        base = f"{self.url}/upload/{v.get('entity')}/{v.get('project')}/{v.get('run')}/"
        files = [{"name": name, "uploadUrl": base + urllib.parse.quote(name)} for name in v["files"]]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}

    def StopRun(self, v: Held) -> Held:
        self.state.by_id(v["id"])["stop"] = True
        return {"stopRun": {"success": True}}


class Artifacts(Runs):
    """Every artifact counts as committed at once, so none of its files is asked for."""

    def ArtifactType(self, v: Held) -> Held:
        return {"project": {"artifact": None}}

    def CreateArtifact(self, v: Held) -> Held:
        asked = v["input"]
        same = (
            a for a in self.state.artifacts.values() if (a["name"], a["digest"]) == (asked_name(asked), digest(asked))
        )
        held = next(same, None)
        if held is None:
            held = {"id": identifier("Artifact", uuid.uuid4().hex[:8]), "name": asked_name(asked)}
            held |= {"digest": digest(asked), "type": asked.get("artifactTypeName"), "by": asked.get("runName")}
            self.state.artifacts[held["id"]] = held | {"metadata": json.loads(asked.get("metadata") or "{}")}
        answer = {"id": held["id"], "state": "COMMITTED", "artifactSequence": {"latestArtifact": {"id": held["id"]}}}
        return {"createArtifact": {"artifact": answer}}

    def ArtifactByID(self, v: Held) -> Held:
        held = self.state.artifacts[v["id"]]
        project = {"id": "p", "internalId": "1", "name": "r1", "entity": {"name": "local"}}
        shown = {"id": held["id"], "artifactType": {"name": held["type"]}, "metadata": json.dumps(held["metadata"])}
        shown |= {"artifactSequence": {"name": held["name"], "project": project}, "digest": held["digest"]}
        shown |= {"state": "COMMITTED", "tags": [], "aliases": [], "createdAt": now(), "ttlIsInherited": False}
        shown |= dict.fromkeys(("versionIndex", "ttlDurationSeconds", "size", "fileCount"), 0)
        return {"artifact": shown | dict.fromkeys(("description", "historyStep", "commitHash", "updatedAt"))}

    def UseArtifact(self, v: Held) -> Held:
        asked = v.get("input") or v
        self.state.used.append((asked["runName"], asked["artifactID"]))
        return {"useArtifact": {"artifact": {"id": asked["artifactID"]}}}


def asked_name(asked: Held) -> str:
    return str((asked.get("artifactCollectionNames") or [asked.get("artifactCollectionName")])[0])


def digest(asked: Held) -> str:
    return str(asked.get("digest"))


class Sweeps(Artifacts):
    def UpsertSweep(self, v: Held) -> Held:
        sweeps = self.state.sweeps
        sweep = next((s for s in sweeps.values() if s["id"] == v.get("id")), None)
        if sweep is None:
            name = uuid.uuid4().hex[:8]
            sweep = sweeps[name] = {"id": identifier("Sweep", name), "name": name, "state": "PENDING", "runs": []}
            sweep |= {"entity": v.get("entityName") or "local", "project": v.get("projectName") or "uncategorized"}
            sweep |= {key: v.get(key) for key in ("displayName", "description")} | {"createdAt": now()}
        if v.get("config"):
            sweep |= {"yaml": v["config"], "config": yaml.safe_load(v["config"])}
        sweep["state"] = v.get("state") or sweep["state"]
        project = {"id": "p", "name": sweep["project"], "entity": {"id": sweep["entity"], "name": sweep["entity"]}}
        return {"upsertSweep": {"sweep": {"name": sweep["name"], "project": project}, "configValidationWarnings": []}}

    def SweepWithRuns(self, v: Held) -> Held:
        sweep = self.state.sweeps.get(v.get("sweep") or v.get("name") or "")
        return {"project": {"sweep": self._sweep(sweep) if sweep else None}}

    GetSweep = GetSweepLegacy = GetSweepState = SweepWithRuns

    def _sweep(self, sweep: Held) -> Held:
        shown = {key: sweep[key] for key in ("id", "name", "displayName", "state", "description", "createdAt")}
        shown |= {"__typename": "Sweep", "method": sweep["config"]["method"], "config": sweep["yaml"]}
        shown |= {
            "updatedAt": now(),
            "heartbeatAt": now(),
            "earlyStopJobRunning": False,
            "runCount": len(sweep["runs"]),
        }
        shown |= dict.fromkeys(("bestLoss", "controller", "scheduler", "runCountExpected"))
        return shown | {"runs": {"edges": [{"node": run} for run in self._runs(sweep)]}}

    def _runs(self, sweep: Held) -> list[Held]:
        runs = [self.state.run(sweep["entity"], sweep["project"], name) for name in sweep["runs"]]
        return [self._sweep_run(run) for run in runs]

    @staticmethod
    def _sweep_run(run: Held) -> Held:
        shown = {key: run[key] for key in ("name", "state", "config", "exitcode", "heartbeatAt", "summaryMetrics")}
        is_ = {"failed": run["state"] == "failed", "running": run["state"] == "running", "stopped": run["stop"]}
        history = [json.loads(row) for row in run["history"]]
        return shown | is_ | {"shouldStop": run["stop"], "sampledHistory": [history]}

    def CreateAgent(self, v: Held) -> Held:
        name = f"agent-{uuid.uuid4().hex[:8]}"
        self.state.agents[name] = {"sweep": v["sweep"], "running": set()}
        return {"createAgent": {"agent": {"id": name}}}

    def Heartbeat(self, v: Held) -> Held:
        agent = self.state.agents[v["id"]]
        sweep = self.state.sweeps[agent["sweep"]]
        alive = set(json.loads(v.get("runState") or "{}"))
        self._bury(sweep, agent["running"] - alive)
        agent["running"] = alive
        runs = {name: self.state.run(sweep["entity"], sweep["project"], name) for name in sweep["runs"]}
        for name in self.state.stopper(sweep["config"], self._runs(sweep)):
            runs[name]["stop"] = True
        commands: list[Held] = [{"type": "stop", "run_id": name} for name in alive if runs[name]["stop"]]
        if sweep["state"] in ("FINISHED", "CANCELED"):
            commands += [{"type": "exit"}] if not alive or sweep["state"] == "CANCELED" else []
        elif not alive and sweep["state"] != "PAUSED":
            commands.append(self._next(sweep))
        return {"agentHeartbeat": {"agent": {"id": v["id"]}, "commands": json.dumps(commands)}}

    def _bury(self, sweep: Held, gone: set[str]) -> None:
        """Processes that have ended without a word."""
        for name in gone:
            run = self.state.run(sweep["entity"], sweep["project"], name)
            if run["state"] in ("pending", "running"):
                run["state"] = "killed" if run["stop"] else "crashed"

    def _next(self, sweep: Held) -> Held:
        config = sweep["config"]
        capped = len(sweep["runs"]) >= config.get("run_cap", 1 << 30)
        values = None if capped else self.state.search(config, self._runs(sweep))
        sweep["state"] = "RUNNING" if values else "FINISHED"
        if values is None:
            return {"type": "exit"}
        name = uuid.uuid4().hex[:8]
        run = self.state.run(sweep["entity"], sweep["project"], name)
        run |= {"state": "pending", "sweepName": sweep["name"], "config": json.dumps(values)}
        sweep["runs"].append(name)
        return {"type": "run", "run_id": name, "program": config.get("program", ""), "args": values}


class Operations(Sweeps):
    """With what ``wandb.Api`` asks for."""

    def Run(self, v: Held) -> Held:
        run = self.state.find(v)
        return {"project": {"internalId": "1", "run": self._api(run) if run else None}}

    GetRun = GetLightRun = Run

    def RunState(self, v: Held) -> Held:
        run = self.state.find(v)
        return {"project": {"run": {"state": run["state"] if run else "unknown"}}}

    @staticmethod
    def _api(run: Held) -> Held:
        shown = {key: run[key] for key in API} | {"historyLineCount": len(run["history"]), "stopped": run["stop"]}
        shown |= {"readOnly": False, "systemMetrics": "{}", "projectId": "1", "internalId": run["id"]}
        user = {"name": "Local", "username": "local"}
        return shown | {"commit": None, "description": None, "historyKeys": None, "user": user}

    def Runs(self, v: Held) -> Held:
        runs = [run for run in self.state.runs.values() if run["project"] == v["project"]]
        if sweep := re.search(r'"sweep":\s*"(\w+)"', v.get("filters") or "{}"):
            runs = [run for run in runs if run["sweepName"] == sweep.group(1)]
        key = (v.get("order") or "").partition("summary_metrics.")[2]
        if key:  # what Sweep.best_run() asks for
            values = {run["name"]: json.loads(run["summaryMetrics"]).get(key) for run in runs}
            runs = [run for run in runs if values[run["name"]] is not None]
            runs.sort(key=lambda run: values[run["name"]], reverse=v["order"].startswith("-"))
        edges = [{"node": self._api(run), "cursor": str(i)} for i, run in enumerate(runs[: v.get("perPage") or None])]
        page = {"endCursor": None, "hasNextPage": False}
        held = {"edges": edges, "pageInfo": page}
        return {"project": {"internalId": "1", "runCount": len(runs), "readOnly": False, "runs": held}}

    GetRuns = GetLightRuns = LightweightRuns = Runs

    def _history(self, v: Held) -> list[Held]:
        run = self.state.find(v)
        assert run is not None
        return [json.loads(row) for row in run["history"]]

    def RunHistoryKeys(self, v: Held) -> Held:
        rows = self._history(v)
        keys = {"lastStep": rows[-1]["_step"] if rows else -1, "sets": [], "keys": {}}
        return {"project": {"run": {"historyKeys": keys}}}

    def RunSampledHistory(self, v: Held) -> Held:
        return {"project": {"run": {"sampledHistory": [self._history(v)]}}}

    SampledHistoryPage = RunSampledHistory

    def RunFullHistory(self, v: Held) -> Held:
        run = self.state.find(v)
        assert run is not None
        return {"project": {"run": {"history": run["history"], "events": run["events"]}}}

    def RunParquetHistory(self, v: Held) -> Held:
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": self._history(v)}}}}

    def HistoryPage(self, v: Held) -> Held:
        low, high = v.get("minStep", 0), v.get("maxStep", 1 << 60)
        rows: list[Any] = [json.dumps(row) for row in self._history(v) if low <= row.get("_step", 0) < high]
        return {"project": {"run": {"history": rows}}}
