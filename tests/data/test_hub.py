"""Datasets on the Hub, a fake one on the loopback: configuration, split, revision, the offline copy, the refusals."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from datasetoptions import PLAIN
from datasets import Dataset
from fakehub import FakeHub, Files, connect
from httpserver import refuse
from templates import chat

from r1.config.check.sources import check_hub_datasets
from r1.core.errors import DATA, UserError
from r1.data.base import Data
from r1.data.dataset import dataset
from r1.data.verifier.exact import exact

CARD = b"""---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train*}
  - {split: test, path: main/test*}
- config_name: hard
  data_files:
  - {split: train, path: hard/train*}
---
"""


def rows(count: int, start: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{n}+1=?", "answer": str(n + 1)} for n in range(start, start + count)]


def parquet(count: int, start: int) -> bytes:
    buffer = io.BytesIO()
    Dataset.from_list(rows(count, start)).to_parquet(buffer)
    return buffer.getvalue()


def files(num_train: int) -> Files:
    return {
        "README.md": CARD,
        "main/train-00000-of-00001.parquet": parquet(num_train, 0),
        "main/test-00000-of-00001.parquet": parquet(5, 1000),
        "hard/train.jsonl": "".join(json.dumps(row) + "\n" for row in rows(7, 2000)).encode(),
    }


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_XET_CACHE", str(tmp_path / "xet"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    datasets.disable_progress_bars()
    with FakeHub() as server:
        connect(monkeypatch, server.url)
        server.datasets = {"owner/sums": {"main": files(20), "v1": files(12)}, "owner/plain": {"main": files(9)}}
        del (
            server.datasets["owner/plain"]["main"]["README.md"],
            server.datasets["owner/plain"]["main"]["hard/train.jsonl"],
        )
        yield server


def read(path: str = "owner/sums", learns: bool = True, **knobs: Any) -> Data:
    """The rows, after the check that precedes the build of a run's components."""
    options = PLAIN | {"path": path, "name": "main", "val_split": "test", "num_val": None} | knobs
    check_hub_datasets({"data": options | {"_target_": "r1.data.dataset.dataset"}})
    return dataset(learns, **options, template=chat(), verifier=exact)


def failure(**knobs: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        read(**knobs)
    assert caught.value.code == DATA
    assert len(str(caught.value).splitlines()) <= 8
    return caught.value


def test_configuration_split_and_revision_choose_the_rows(hub: FakeHub) -> None:
    newest = read()
    assert (len(newest.train), len(newest.val)) == (20, 5)
    assert newest.train[0]["prompt"] == "0+1=?"
    assert len(read(revision="v1").train) == 12
    assert len(read(name="hard", val_split=None, num_val=2).train) == 5
    assert len(read("owner/plain", name=None).train) == 9
    assert len(read(learns=False, val_split=None, train_split="test", num_val=3).val) == 3


def test_new_commit_is_read_unless_the_revision_is_fixed(hub: FakeHub) -> None:
    commit = huggingface_hub.HfApi(hub.url).dataset_info("owner/sums").sha
    hub.datasets["owner/sums"] |= {"main": files(30), "old": files(20)}
    assert len(read().train) == 30
    assert len(read(revision=commit).train) == 20


@pytest.mark.parametrize(
    ("knobs", "key", "words"),
    [
        ({"revision": "v2"}, "data.revision", ["no such revision", "'v2'", "a branch, a tag or a commit"]),
        ({"name": "mian"}, ".name", ["no configuration `mian`", "main, hard", "did you mean `main`"]),
        ({"name": None}, ".name", ["several configurations", "main, hard"]),
        ({"val_split": "tset"}, ".val_split", ["no split `tset`", "did you mean `test`"]),
        ({"path": "owner/smus"}, "data.path", ["no such dataset on the hub", "hf auth login"]),
    ],
)
def test_what_the_hub_does_not_have_is_named(hub: FakeHub, knobs: Any, key: str, words: list[str]) -> None:
    error = failure(**knobs)
    assert error.key.removeprefix("data") == key.removeprefix("data")
    assert [word for word in words if word not in str(error)] == []


@pytest.mark.parametrize("hides_card", [False, True])
@pytest.mark.parametrize("status", [401, 403])
def test_gated_dataset_names_the_page_and_the_login(hub: FakeHub, status: int, hides_card: bool) -> None:
    hub.gated = {"owner/sums": status}
    hub.hides_card = hides_card
    error = failure()
    assert error.message.startswith("the dataset is gated")
    assert error.key == ".path"
    assert f"{hub.url}/datasets/owner/sums" in error.hint
    assert "HF_TOKEN" in error.hint


@pytest.mark.parametrize("has_card", [True, False])
def test_offline_copy_of_a_download_is_read(hub: FakeHub, has_card: bool) -> None:
    path, name = ("owner/sums", "main") if has_card else ("owner/plain", None)
    before = read(path, name=name).train
    huggingface_hub.snapshot_download(path, repo_type="dataset", endpoint=hub.url)  # `hf download`
    hub.stop()
    assert read(path, name=name).train == before
    if has_card:
        assert len(read(name="hard", val_split=None, num_val=2).train) == 5
        assert "no configuration `mian`" in failure(name="mian").message


@pytest.mark.parametrize("status", [None, 429, 502])
def test_hub_that_cannot_be_reached_is_one_error(hub: FakeHub, status: int | None) -> None:
    if status is None:
        hub.stop()
    else:
        hub.responder = refuse(status)
    error = failure()
    assert "the hub cannot be reached" in error.message
    assert error.key == "data.path"


@pytest.mark.parametrize("status", [None, 502])
def test_hub_that_is_lost_after_the_card_is_one_error(hub: FakeHub, status: int | None) -> None:
    huggingface_hub.hf_hub_download("owner/sums", "README.md", repo_type="dataset", endpoint=hub.url)
    if status is None:
        hub.stop()
    else:
        hub.responder = refuse(status)
    error = failure()
    assert "cannot reach the Hugging Face Hub" in error.message
    assert error.key == ".path"
    assert "local copy" in error.hint


def test_file_that_the_hub_cuts_is_one_error(hub: FakeHub) -> None:
    content = hub.datasets["owner/sums"]["main"]
    content["main/train-00000-of-00001.parquet"] = content["main/train-00000-of-00001.parquet"][:-30]
    error = failure()
    assert "not a parquet file" in error.message
    assert error.value == "owner/sums/main/train-00000-of-00001.parquet"


def test_missing_shard_on_the_hub_is_one_error(hub: FakeHub) -> None:
    content = hub.datasets["owner/sums"]["main"]
    content["main/train-00000-of-00003.parquet"] = content.pop("main/train-00000-of-00001.parquet")
    assert "main/train-*: file 00001 of 00003 is not there" in failure().message
