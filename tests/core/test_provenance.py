"""What a fingerprint covers, what code.diff holds, and which runs a run comes from."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from r1.core import provenance
from r1.core.types import Config

NESTED = st.recursive(
    st.integers() | st.text(),
    lambda inner: st.dictionaries(st.text("abc", min_size=1), inner, min_size=1),
    max_leaves=8,
)
TREES = st.dictionaries(st.text("abc", min_size=1), NESTED)


@pytest.fixture
def fresh_hash() -> Iterator[None]:
    """Let the code's hash be worked out anew, and forget it afterwards."""
    provenance.code_hash.cache_clear()
    yield
    provenance.code_hash.cache_clear()


# ---- the fingerprint ----


def test_fingerprint_changes_with_every_key_that_decides_the_result(config: Callable[..., Config]) -> None:
    cfg = config()
    before = provenance.fingerprint(cfg, "data", [])
    assert provenance.fingerprint(config(), "data", []) == before
    for key in cfg.keys() - {"extensions", *provenance.NOT_IN_FINGERPRINT, *provenance.PIPELINE_KEYS}:
        assert provenance.fingerprint(cfg | {key: "changed"}, "data", []) != before, key
    assert provenance.fingerprint(config("stage.lr=1.0e-5"), "data", []) != before


@pytest.mark.parametrize(
    "override", ["output_dir=elsewhere", "name=other", "logger=tensorboard", "resume=auto", "checkpoint_every=7"]
)
def test_fingerprint_does_not_depend_on_output_and_logging(config: Callable[..., Config], override: str) -> None:
    assert provenance.fingerprint(config(override), "data", []) == provenance.fingerprint(config(), "data", [])


def test_fingerprint_changes_with_data_parents_and_code(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, parent = config(), {"path": "a", "fingerprint": "x"}
    seen = {
        provenance.fingerprint(cfg, "data", []),
        provenance.fingerprint(cfg, "other data", []),
        provenance.fingerprint(cfg, "data", [parent]),
        provenance.fingerprint(cfg, "data", [parent | {"fingerprint": "y"}]),
    }
    moved = provenance.fingerprint(cfg, "data", [parent | {"path": "b"}])
    assert moved in seen
    monkeypatch.setattr(provenance, "code_hash", lambda *extensions: "another code")
    assert provenance.fingerprint(cfg, "data", []) not in seen
    assert len(seen) == 4


def test_fingerprint_changes_with_the_content_of_a_chat_template(config: Callable[..., Config], tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    cfg = config(f"data.template.chat_template={file}")
    file.write_text("a")
    before = provenance.fingerprint(cfg, "data", [])
    assert provenance.fingerprint(cfg, "data", []) == before
    file.write_text("b")
    assert provenance.fingerprint(cfg, "data", []) != before


def test_fingerprint_identifies_parents_by_content_not_path(config: Callable[..., Config], tmp_path: Path) -> None:
    def fingerprint_at(folder: str, fingerprint: str = "x", data: str = "rows", tail: str = "") -> str:
        cfg = config("data=traces", f"data.path={tmp_path}/{folder}{tail}", f"model.path={tmp_path}/{folder}")
        return provenance.fingerprint(cfg, data, [{"path": str(tmp_path / folder), "fingerprint": fingerprint}])

    assert fingerprint_at("here") == fingerprint_at("there")
    assert fingerprint_at("here") == fingerprint_at("here", data="other rows"), (
        "they come from the parent, which decides them"
    )
    assert fingerprint_at("here") != fingerprint_at("here", "y")
    assert fingerprint_at("here") != fingerprint_at("here", tail="/traces")


def test_fingerprint_hashes_other_files_of_a_parents_data(tmp_path: Path) -> None:
    (tmp_path / "general.jsonl").write_text("1")
    parts = {"kept": {"path": f"{tmp_path}/run"}, "general": {"path": f"{tmp_path}/general.jsonl"}}
    cfg = {"extensions": [], "data": parts}
    parents = [{"path": f"{tmp_path}/run", "fingerprint": "x"}]
    before = provenance.fingerprint(cfg, "", parents)
    (tmp_path / "general.jsonl").write_text("2")
    assert provenance.fingerprint(cfg, "", parents) != before


@pytest.mark.usefixtures("fresh_hash")
@pytest.mark.parametrize(
    ("extension", "file"),
    [
        ("mine", "mine/words.txt"),
        ("mine", "mine/deep/table.bin"),
        ("mine.rewards", "mine/words.txt"),
        ("mine", "mine/linked/words.txt"),
        ("single", "words.txt"),
        ("single", "tables/words.json"),
    ],
)
def test_code_hash_covers_an_extensions_files_of_any_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str, file: str
) -> None:
    for name in ("mine/__init__.py", "mine/rewards.py", "elsewhere/words.txt", file):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("mine/linked"):
            (tmp_path / "mine" / "linked").rmdir()
            (tmp_path / "mine" / "linked").symlink_to(tmp_path / "elsewhere")
        (tmp_path / name).write_text("")
    (tmp_path / "single.py").write_text("OPEN = ['words.txt', 'tables/words.json', 'not there', '']\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = provenance.code_hash(extension)
    (tmp_path / file).write_text("b")
    provenance.code_hash.cache_clear()
    assert provenance.code_hash(extension) != before


def test_find_parents_includes_planned_runs(tmp_path: Path) -> None:
    paths = provenance.input_paths(
        {"model": {"path": f"{tmp_path}/a/best", "tokenizer": None}, "teacher": {"path": "r1:tiny"}}
    )
    assert paths == {"model.path": f"{tmp_path}/a/best", "teacher.path": "r1:tiny"}
    expected = [{"path": f"{tmp_path}/a", "fingerprint": "x"}]
    assert provenance.find_parents(paths.values(), {f"{tmp_path}/a": "x"}) == expected
    assert provenance.find_parents(paths.values()) == []


@pytest.mark.usefixtures("fresh_hash")
@pytest.mark.parametrize("file", ["mine.py", "mine/__init__.py", "mine/deep/rewards.py"])
def test_code_hash_covers_extensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    source = tmp_path / file
    source.parent.mkdir(parents=True, exist_ok=True)
    if source.parent != tmp_path:
        (tmp_path / "mine" / "__init__.py").touch()
    source.write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = provenance.code_hash("mine")
    assert before != provenance.code_hash()
    source.write_text("x = 2\n")
    provenance.code_hash.cache_clear()
    assert provenance.code_hash("mine") != before


def test_rows_hash_sees_every_value() -> None:
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2"}]
    hashes = {
        provenance.rows_hash(rows, []),
        provenance.rows_hash([], rows),
        provenance.rows_hash(rows[:1], rows[1:]),
        provenance.rows_hash(rows[::-1], []),
        provenance.rows_hash([rows[0], rows[1] | {"answer": "3"}], []),
    }
    assert len(hashes) == 5
    assert provenance.rows_hash([{"answer": "1", "prompt": "a"}, rows[1]], []) in hashes  # the order of keys is nothing


@settings(max_examples=40)
@given(TREES)
def test_differences_of_equal_configs_are_empty(tree: dict[str, Any]) -> None:
    assert provenance.differences(tree, tree) == []
    changed = tree | {"new": 1}
    assert provenance.differences(tree, changed) == [("new", "-", 1)]


def test_differences_name_the_leaves() -> None:
    then, now = {"stage": {"lr": 1, "mu": 2}, "seed": 0}, {"stage": {"lr": 3, "mu": 2}, "name": "x"}
    assert provenance.differences(then, now) == [("name", "-", "x"), ("seed", 0, "-"), ("stage.lr", 1, 3)]


def test_environment_changes_lists_code_packages_and_hardware(config: Callable[..., Config]) -> None:
    now = provenance.environment(config("threads=3"))
    assert provenance.environment_changes(now, now) == []
    then = json.loads(json.dumps(now))
    then["packages"]["torch"] = "1.0"
    then["hardware"]["threads"] = 4
    then["code"] = ""
    assert provenance.environment_changes(then, now) == [
        "the code has changed since",
        f"torch was 1.0 and is {now['packages']['torch']}",
        "threads was 4 and is 3",
    ]


# ---- code.diff ----


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with one commit, in r1's place."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "r1").mkdir()
    (tmp_path / "r1" / "a.py").write_text("old = 1\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for args in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["config", "color.ui", "always"]):
        subprocess.run([*git, *args], check=True, capture_output=True)
    return tmp_path


def test_diff_of_a_clean_tree_is_empty(repository: Path) -> None:
    assert provenance.git_state()["dirty"] is False
    assert len(provenance.git_state()["commit"]) == 40
    assert provenance.working_tree_diff() == ""


def test_code_diff_rebuilds_the_tree(repository: Path) -> None:
    (repository / "r1" / "a.py").write_text("new = 2\n")
    (repository / "r1" / "b c.py").write_text("added = 3\n")
    (repository / "r1" / "note.txt").write_text("no source\n")
    assert provenance.git_state()["dirty"] is True
    diff = provenance.working_tree_diff()
    assert "no source" not in diff
    assert "\x1b" not in diff
    (repository / "r1" / "b c.py").unlink()
    subprocess.run(["git", "-C", str(repository), "checkout", "-q", "."], check=True)
    subprocess.run(["git", "-C", str(repository), "apply"], input=diff.encode(), check=True)
    assert (repository / "r1" / "a.py").read_text() == "new = 2\n"
    assert (repository / "r1" / "b c.py").read_text() == "added = 3\n"


def test_diff_accepts_text_that_is_not_utf8(repository: Path) -> None:
    (repository / "r1" / "a.py").write_bytes("# café\n".encode("latin-1"))
    assert "caf" in provenance.working_tree_diff()


def test_git_state_without_git_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_state() == {"commit": None, "dirty": False}
    assert provenance.working_tree_diff() == ""
    monkeypatch.setenv("PATH", "")
    assert provenance.git_state() == {"commit": None, "dirty": False}


# ---- lineage ----


@pytest.mark.parametrize("inside", [".", "model", "traces", "traces/traces.jsonl"])
def test_find_parents_from_paths_in_a_record(tmp_path: Path, inside: str) -> None:
    (tmp_path / "manifest.json").write_text('{"fingerprint": "f"}')
    runs = provenance.find_parents([str(tmp_path / inside)])
    assert runs == [{"path": str(tmp_path), "fingerprint": "f"}]


@pytest.mark.parametrize("text", ['{"name": "a browser extension"}', '["fingerprint"]', "{", '{"fingerprint": ""}'])
def test_find_parents_ignores_foreign_manifests(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    assert provenance.find_parents([str(tmp_path / "data.jsonl")]) == []


def test_find_parents_ignores_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert provenance.find_parents(["Qwen/Qwen2.5-0.5B", "r1:tiny"]) == []


def test_write_sources_writes_the_config_unchanged(config: Callable[..., Config], tmp_path: Path) -> None:
    cfg = config("stage.lr=1.0e-6", "name='等等'")
    provenance.write_sources(tmp_path, cfg, ["stage.lr=1.0e-6", "name=等等"])
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml")) == cfg
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "overrides.yaml")) == ["stage.lr=1.0e-6", "name=等等"]
