"""The GraphQL operations of W&B's client (0.31): runs, sweeps and their agents, artifacts, public API."""

from __future__ import annotations

import json
import re
import urllib.parse
import uuid
from typing import Any

import yaml
from fakewandb_state import Json, State, identifier, now

BUCKET_FIELDS = {  # of an upsertBucket -> of a run
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

    def Viewer(self, v: Json) -> Json:
        user = {"id": "u1", "name": "Local", "username": "local", "email": "l@localhost", "entity": "local"}
        teams = {"edges": [{"node": {"name": "local"}}]}
        return {"viewer": user | {"flags": "{}", "admin": False, "apiKeys": {"edges": []}, "teams": teams}}

    GetViewer = GetDefaultEntity = Viewer

    def ServerFeaturesQuery(self, v: Json) -> Json:
        return {"serverInfo": {"features": []}}

    def OrgFeatureFlags(self, v: Json) -> Json:
        return {"viewer": {"featureFlags": []}, "organization": None}

    def OrganizationCoreWeaveOrganizationID(self, v: Json) -> Json:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def UpsertBucket(self, v: Json) -> Json:
        run = self.state.run(v.get("entity"), v.get("project"), v.get("name") or self.state.by_id(v["id"])["name"])
        inserted, run["seen"] = not run["seen"], True
        run |= {to: v[name] for name, to in BUCKET_FIELDS.items() if v.get(name) is not None}
        entity = {"id": run["entity"], "name": run["entity"]}
        project = {"id": "p", "name": run["project"], "entity": entity}
        bucket = {name: run[name] for name in ("id", "name", "displayName", "config", "sweepName")}
        # no lines are counted: a history that is sent again without a resume replaces what there is
        bucket |= {"description": None, "project": project, "historyLineCount": None}
        return {"upsertBucket": {"inserted": inserted, "bucket": bucket}}

    def RunResumeStatus(self, v: Json) -> Json:
        model = {"id": "m", "name": v.get("project"), "entity": {"id": "local", "name": "local"}}
        run = self.state.find(v)
        if run is None or not run["seen"]:
            return {"model": model | {"bucket": None}}
        bucket = {name: run[name] for name in ("id", "name", "summaryMetrics", "displayName", "config", "tags")}
        counts = {f"{kind}LineCount": len(run[kind]) for kind in ("history", "events", "log")}
        tails = {f"{kind}Tail": json.dumps(run[kind][-1:]) for kind in ("history", "events")}
        return {"model": model | {"bucket": bucket | counts | tails | {"wandbConfig": json.dumps({"t": 1})}}}

    def RunStoppedStatus(self, v: Json) -> Json:
        run = self.state.find(v)
        return {"project": {"run": {"stopped": bool(run and run["stop"])}}}

    def CreateRunFiles(self, v: Json) -> Json:
        base = f"{self.url}/upload/{v.get('entity')}/{v.get('project')}/{v.get('run')}/"
        files = [{"name": name, "uploadUrl": base + urllib.parse.quote(name)} for name in v["files"]]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}

    def StopRun(self, v: Json) -> Json:
        self.state.by_id(v["id"])["stop"] = True
        return {"stopRun": {"success": True}}


class Artifacts(Runs):
    """Every artifact counts as committed at once, so the client uploads none of its files."""

    def ArtifactType(self, v: Json) -> Json:
        return {"project": {"artifact": None}}

    def CreateArtifact(self, v: Json) -> Json:
        fields = v["input"]
        key = (collection_name(fields), digest(fields))
        artifact = next((a for a in self.state.artifacts.values() if (a["name"], a["digest"]) == key), None)
        if artifact is None:
            artifact = {"id": identifier("Artifact", uuid.uuid4().hex[:8]), "name": collection_name(fields)}
            artifact |= {"digest": digest(fields), "type": fields.get("artifactTypeName"), "by": fields.get("runName")}
            self.state.artifacts[artifact["id"]] = artifact | {"metadata": json.loads(fields.get("metadata") or "{}")}
        answer = {
            "id": artifact["id"],
            "state": "COMMITTED",
            "artifactSequence": {"latestArtifact": {"id": artifact["id"]}},
        }
        return {"createArtifact": {"artifact": answer}}

    def ArtifactByID(self, v: Json) -> Json:
        artifact = self.state.artifacts[v["id"]]
        project = {"id": "p", "internalId": "1", "name": "r1", "entity": {"name": "local"}}
        shown = {
            "id": artifact["id"],
            "artifactType": {"name": artifact["type"]},
            "metadata": json.dumps(artifact["metadata"]),
        }
        shown |= {"artifactSequence": {"name": artifact["name"], "project": project}, "digest": artifact["digest"]}
        shown |= {"state": "COMMITTED", "tags": [], "aliases": [], "createdAt": now(), "ttlIsInherited": False}
        shown |= dict.fromkeys(("versionIndex", "ttlDurationSeconds", "size", "fileCount"), 0)
        return {"artifact": shown | dict.fromkeys(("description", "historyStep", "commitHash", "updatedAt"))}

    def UseArtifact(self, v: Json) -> Json:
        fields = v.get("input") or v
        self.state.used.append((fields["runName"], fields["artifactID"]))
        return {"useArtifact": {"artifact": {"id": fields["artifactID"]}}}


def collection_name(fields: Json) -> str:
    return str((fields.get("artifactCollectionNames") or [fields.get("artifactCollectionName")])[0])


def digest(fields: Json) -> str:
    return str(fields.get("digest"))


class Sweeps(Artifacts):
    def UpsertSweep(self, v: Json) -> Json:
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

    def SweepWithRuns(self, v: Json) -> Json:
        sweep = self.state.sweeps.get(v.get("sweep") or v.get("name") or "")
        return {"project": {"sweep": self._sweep(sweep) if sweep else None}}

    GetSweep = GetSweepLegacy = GetSweepState = SweepWithRuns

    def _sweep(self, sweep: Json) -> Json:
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

    def _runs(self, sweep: Json) -> list[Json]:
        runs = [self.state.run(sweep["entity"], sweep["project"], name) for name in sweep["runs"]]
        return [self._sweep_run(run) for run in runs]

    @staticmethod
    def _sweep_run(run: Json) -> Json:
        shown = {key: run[key] for key in ("name", "state", "config", "exitcode", "heartbeatAt", "summaryMetrics")}
        is_ = {"failed": run["state"] == "failed", "running": run["state"] == "running", "stopped": run["stop"]}
        history = [json.loads(row) for row in run["history"]]
        return shown | is_ | {"shouldStop": run["stop"], "sampledHistory": [history]}

    def CreateAgent(self, v: Json) -> Json:
        name = f"agent-{uuid.uuid4().hex[:8]}"
        self.state.agents[name] = {"sweep": v["sweep"], "running": set()}
        return {"createAgent": {"agent": {"id": name}}}

    def Heartbeat(self, v: Json) -> Json:
        agent = self.state.agents[v["id"]]
        sweep = self.state.sweeps[agent["sweep"]]
        alive = set(json.loads(v.get("runState") or "{}"))
        self._mark_dead(sweep, agent["running"] - alive)
        agent["running"] = alive
        runs = {name: self.state.run(sweep["entity"], sweep["project"], name) for name in sweep["runs"]}
        for name in self.state.stopper(sweep["config"], self._runs(sweep)):
            runs[name]["stop"] = True
        commands: list[Json] = [{"type": "stop", "run_id": name} for name in alive if runs[name]["stop"]]
        if sweep["state"] in ("FINISHED", "CANCELED"):
            commands += [{"type": "exit"}] if not alive or sweep["state"] == "CANCELED" else []
        elif not alive and sweep["state"] != "PAUSED":
            commands.append(self._next(sweep))
        return {"agentHeartbeat": {"agent": {"id": v["id"]}, "commands": json.dumps(commands)}}

    def _mark_dead(self, sweep: Json, names: set[str]) -> None:
        """Mark the runs of processes that exited without reporting an end."""
        for name in names:
            run = self.state.run(sweep["entity"], sweep["project"], name)
            if run["state"] in ("pending", "running"):
                run["state"] = "killed" if run["stop"] else "crashed"

    def _next(self, sweep: Json) -> Json:
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
    """With the operations of ``wandb.Api``."""

    def Run(self, v: Json) -> Json:
        run = self.state.find(v)
        return {"project": {"internalId": "1", "run": self._api(run) if run else None}}

    GetRun = GetLightRun = Run

    def RunState(self, v: Json) -> Json:
        run = self.state.find(v)
        return {"project": {"run": {"state": run["state"] if run else "unknown"}}}

    @staticmethod
    def _api(run: Json) -> Json:
        shown = {key: run[key] for key in API} | {"historyLineCount": len(run["history"]), "stopped": run["stop"]}
        shown |= {"readOnly": False, "systemMetrics": "{}", "projectId": "1", "internalId": run["id"]}
        user = {"name": "Local", "username": "local"}
        return shown | {"commit": None, "description": None, "historyKeys": None, "user": user}

    def Runs(self, v: Json) -> Json:
        runs = [run for run in self.state.runs.values() if run["project"] == v["project"]]
        if sweep := re.search(r'"sweep":\s*"(\w+)"', v.get("filters") or "{}"):
            runs = [run for run in runs if run["sweepName"] == sweep.group(1)]
        key = (v.get("order") or "").partition("summary_metrics.")[2]
        if key:  # for Sweep.best_run()
            values = {run["name"]: json.loads(run["summaryMetrics"]).get(key) for run in runs}
            runs = [run for run in runs if values[run["name"]] is not None]
            runs.sort(key=lambda run: values[run["name"]], reverse=v["order"].startswith("-"))
        edges = [{"node": self._api(run), "cursor": str(i)} for i, run in enumerate(runs[: v.get("perPage") or None])]
        page = {"endCursor": None, "hasNextPage": False}
        project = {"internalId": "1", "runCount": len(runs), "readOnly": False}
        return {"project": project | {"runs": {"edges": edges, "pageInfo": page}}}

    GetRuns = GetLightRuns = LightweightRuns = Runs

    def _history(self, v: Json) -> list[Json]:
        run = self.state.find(v)
        assert run is not None
        return [json.loads(row) for row in run["history"]]

    def RunHistoryKeys(self, v: Json) -> Json:
        rows = self._history(v)
        keys = {"lastStep": rows[-1]["_step"] if rows else -1, "sets": [], "keys": {}}
        return {"project": {"run": {"historyKeys": keys}}}

    def RunSampledHistory(self, v: Json) -> Json:
        return {"project": {"run": {"sampledHistory": [self._history(v)]}}}

    SampledHistoryPage = RunSampledHistory

    def RunFullHistory(self, v: Json) -> Json:
        run = self.state.find(v)
        assert run is not None
        return {"project": {"run": {"history": run["history"], "events": run["events"]}}}

    def RunParquetHistory(self, v: Json) -> Json:
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": self._history(v)}}}}

    def HistoryPage(self, v: Json) -> Json:
        low, high = v.get("minStep", 0), v.get("maxStep", 1 << 60)
        rows: list[Any] = [json.dumps(row) for row in self._history(v) if low <= row.get("_step", 0) < high]
        return {"project": {"run": {"history": rows}}}
