"""What a config only names counts by content: files, models, the base of an adapter, models on the hub."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r1.core import inputs, provenance
from r1.core.inputs import hash_inputs
from r1.core.types import Config

KEYS = (
    "model.path",
    "model.tokenizer",
    "teacher.path",
    "data.path",
    "data.val_path",
    "data.template.chat_template",
    "reward.terms.preference.path",
    "reward.terms.mine.words",
    "reward.terms.mine.folder",
)


def flip_a_byte(file: Path) -> None:
    """Change one byte; size and mtime stay as they were."""
    status = file.stat()
    with file.open("r+b") as opened:
        first = opened.read(1)
        opened.seek(0)
        opened.write(bytes([first[0] ^ 1]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {"_target_": "mine.reward", part: value} if part in ("words", "folder") else {part: value}
    return dict(value)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_fingerprint_sees_a_flipped_byte_of_every_file_that_a_config_names(
    config: Callable[..., Config], tmp_path: Path, key: str, kind: str
) -> None:
    file = tmp_path / "folder" / "weights.bin"
    file.parent.mkdir()
    file.write_bytes(b"0123")
    (tmp_path / "link").symlink_to("folder")
    named = {"file": file, "folder": file.parent, "link": tmp_path / "link"}[kind]
    cfg = config() | nested(key, str(named))
    before = provenance.fingerprint(cfg, "data", [])
    assert provenance.fingerprint(cfg, "data", []) == before
    flip_a_byte(file)
    assert provenance.fingerprint(cfg, "data", []) != before
    assert provenance.input_hashes(cfg, []).keys() >= {f"{key}/weights.bin"}


def test_hash_inputs_takes_files_only_and_nothing_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("words", "train", "store/answers.jsonl", "logs/x"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).mkdir() if name == "train" else Path(name).write_text("x")
    config = {
        "reward": {
            "_target_": "mine.reward",
            "words": "words",
            "log_dir": "logs/",
            "texts": [".", "/", "a\0b", "x" * 9999],
        },
        "data": {"_target_": "r1.data.hub.hub", "split": "train", "question": "why/" * 2000},
        "teacher": {"_target_": "r1.teacher.openai.OpenAI", "store": "store/answers.jsonl", "url": "words"},
    }
    assert hash_inputs(config).keys() == {"reward.words/words"}


@pytest.mark.parametrize("path", [".", "..", "../model", "../model/"])
def test_hash_inputs_of_a_relative_model_folder_sees_a_flipped_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    inside = tmp_path / "model" / "sub"
    inside.mkdir(parents=True)
    weights = tmp_path / "model" / "weights.bin"
    weights.write_bytes(b"0123")
    monkeypatch.chdir(weights.parent if path == "." else inside if path == ".." else inside.parent)
    before = hash_inputs({"model": {"path": path}})
    flip_a_byte(weights)
    after = hash_inputs({"model": {"path": path}})
    assert before.keys() == after.keys() == {"model.path/weights.bin"}
    assert before != after


@pytest.mark.parametrize("base", ["base", "missing", "owner/name", None, 3])
def test_hash_inputs_of_an_adapter_include_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inputs, "_hub_snapshot", lambda name: None)
    for name, text in (("adapter/adapter_config.json", {"base_model_name_or_path": base}), ("base/config.json", {})):
        Path(name).parent.mkdir()
        Path(name).write_text(json.dumps(text))
    hashes = hash_inputs({"model": {"path": "adapter"}})
    of_base = {"model.path/base/config.json"} if base == "base" else set()
    assert hashes.keys() == {"model.path/adapter_config.json"} | of_base
    if of_base:
        flip_a_byte(Path("base/config.json"))
        assert hash_inputs({"model": {"path": "adapter"}}) != hashes


def test_hash_inputs_of_an_adapter_of_itself_end(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    assert len(hash_inputs({"model": {"path": str(tmp_path)}})) == 2


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with a model ``owner/name``, laid out as huggingface_hub does; the commit's folder."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repo, commit = tmp_path / "models--owner--name", "0" * 40
    snapshot = repo / "snapshots" / commit
    for folder in (repo / "refs", repo / "blobs", snapshot):
        folder.mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    add_file(snapshot, "config.json", b"{}", hashlib.sha1(b"blob 2\0{}").hexdigest())
    add_file(snapshot, "model.safetensors", b"weights", hashlib.sha256(b"weights").hexdigest())
    inputs._hub_snapshot.cache_clear()
    return snapshot


def add_file(snapshot: Path, name: str, content: bytes, blob: str) -> None:
    (snapshot / "../../blobs" / blob).write_bytes(content)
    (snapshot / name).symlink_to(f"../../blobs/{blob}")


@pytest.mark.parametrize("key", ["model.path", "teacher.path", "reward.terms.preference.path", "model.tokenizer"])
def test_hash_inputs_of_a_model_on_the_hub_are_its_commit_and_changed_files(hub: Path, key: str) -> None:
    cfg = nested(key, "owner/name")
    assert hash_inputs(cfg) == {f"{key}/commit": hub.name}
    add_file(hub, "tokenizer.json", b"[]", hashlib.sha1(b"blob 2\0[]").hexdigest())
    assert hash_inputs(cfg) == {f"{key}/commit": hub.name}  # the rest of the same commit may come later
    for name in ("model.safetensors", "config.json"):
        flip_a_byte((hub / name).resolve())
        assert f"{key}/{name}" in hash_inputs(cfg)


def test_hash_inputs_of_an_adapter_on_the_hub_include_its_base(hub: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/name"}')
    hashes = hash_inputs({"model": {"path": str(tmp_path / "mine")}})
    assert hashes["model.path/base/commit"] == hub.name


def test_hash_inputs_of_an_unknown_model_are_empty(hub: Path) -> None:
    assert hash_inputs({"model": {"path": "owner/other"}, "teacher": {"path": "no model at all"}}) == {}


@pytest.mark.parametrize("key", ["data.path", "data.val_path", "data.parts.a.path", "data.path.1"])
def test_inputs_have_every_file_of_a_glob(tmp_path: Path, key: str) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(name)
    *above, last = key.split(".")
    value: Any = [str(tmp_path / "a.jsonl"), str(tmp_path / "*.jsonl")] if last == "1" else str(tmp_path / "*.jsonl")
    config: Any = value
    for part in reversed(above if last == "1" else [*above, last]):
        config = {part: config}
    digests = {name: digest for name, digest in hash_inputs(config).items() if name.startswith(f"{key}/")}
    assert digests == {
        f"{key}/{tmp_path}/{name}.jsonl": hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b")
    }


def test_inputs_take_no_question_for_a_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("a")
    monkeypatch.chdir(tmp_path)
    assert hash_inputs({"data": {"instruction": "?", "columns": {"path": "*"}, "train_split": "*"}}) == {}
