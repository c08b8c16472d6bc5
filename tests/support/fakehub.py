"""A Hugging Face Hub on the loopback: datasets with revisions, as ``datasets`` and ``huggingface_hub`` ask for them."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import datasets
import huggingface_hub
import pytest
from httpserver import Handler, HttpServer, Request, Responder

Files = dict[str, bytes]
ROUTE = re.compile(
    r"/api/datasets/(?P<name>[^/]+/[^/]+)(?:/(?P<what>revision|tree|paths-info)/(?P<revision>[^/]+)/?(?P<path>.*))?"
)
RESOLVE = re.compile(r"/datasets/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


class FakeHub(HttpServer):
    """``datasets[name][revision]`` are files by their path.

    Attributes:
        gated: the status of the refusal of sets that nobody may read, by name; ``hides_card``: not even their card.
        responder: the answer to every request, in place of these.
    """

    def __init__(self) -> None:
        super().__init__()
        self.datasets: dict[str, dict[str, Files]] = {}
        self.gated: dict[str, int] = {}
        self.hides_card = False
        self.responder: Responder | None = None

    def answer(self, handler: Handler, request: Request) -> Any:
        if self.responder:
            return self.responder(handler, None)
        url = urlsplit(request.path)
        path = unquote(url.path)
        if match := RESOLVE.fullmatch(path):
            return self.resolve(handler, **match.groupdict())
        if not (match := ROUTE.fullmatch(path)):
            return fail(handler, 404, "EntryNotFound")
        name, revision = match["name"], match["revision"] or "main"
        if name not in self.datasets:
            return fail(handler, 404, "RepoNotFound")
        if (found := self.find(name, revision)) is None:
            return fail(handler, 404, "RevisionNotFound")
        commit, files = found
        match match["what"]:
            case "tree":
                return tree(files, match["path"], is_recursive="recursive" in parse_qs(url.query))
            case "paths-info":
                paths = parse_qs(request.body.decode()).get("paths") or request.json["paths"]
                return [entry for entry in tree(files, "", True) if entry["path"] in paths]
        siblings = [{"rfilename": path} for path in files]
        return {
            "id": name,
            "sha": commit,
            "siblings": siblings,
            "private": False,
            "gated": name in self.gated,
            "tags": [],
        }

    def find(self, name: str, revision: str) -> tuple[str, Files] | None:
        """The commit and the files of a branch, a tag or a commit."""
        for branch, files in self.datasets[name].items():
            if revision in (branch, commit_of(files)):
                return commit_of(files), files
        return None

    def resolve(self, handler: Handler, name: str, revision: str, path: str) -> Any:
        if name not in self.datasets:
            return fail(handler, 404, "RepoNotFound")
        if name in self.gated and (self.hides_card or path != "README.md"):
            return fail(handler, self.gated[name], "GatedRepo")
        if (found := self.find(name, revision)) is None:
            return fail(handler, 404, "RevisionNotFound")
        commit, files = found
        if path not in files:
            return fail(handler, 404, "EntryNotFound")
        content = files[path]
        first, last = 0, len(content)
        if paths := handler.headers.get("Range"):
            first, _, end = paths.removeprefix("bytes=").partition("-")
            first, last = int(first), min(len(content), int(end) + 1 if end else len(content))
        etag = f'"{digest(content)}"'
        handler.send(206 if paths else 200, content[first:last], ETag=etag, X_Repo_Commit=commit)


def fail(handler: Handler, status: int, code: str) -> None:
    handler.send(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)


def digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def commit_of(files: Files) -> str:
    return digest(repr(sorted(files.items())).encode())


def tree(files: Files, folder: str, is_recursive: bool) -> list[dict[str, Any]]:
    """Files and folders below a folder."""
    paths = [PurePosixPath(path) for path in files]
    folders = sorted({str(parent) for path in paths for parent in path.parents} - {"."})
    entries: list[dict[str, Any]] = [{"type": "directory", "path": path, "oid": "0", "size": 0} for path in folders]
    entries += [{"type": "file", "path": p, "oid": digest(c), "size": len(c)} for p, c in files.items()]
    top = PurePosixPath(folder)
    below = [entry for entry in entries if top in PurePosixPath(entry["path"]).parents]
    return [e for e in below if is_recursive or PurePosixPath(e["path"]).parent == top]


def connect(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What ``HF_ENDPOINT=url`` does in a new process."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template[template.index("/{repo_id}") :]
    )
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", url)
