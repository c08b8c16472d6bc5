"""stage=rejection_sampling: sample, filter, select; the dataset, the difficulty, and nothing sampled twice."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import low_ids
from datasetoptions import PLAIN

from r1.core import jsonl
from r1.core.errors import DATA, UserError
from r1.core.runs import read_run
from r1.data.base import DataOptions
from r1.run import execute
from r1.stage.distillation.candidates import Candidate, difficulty_metrics, outcome_counts, pass_rate, select_candidates
from r1.stage.distillation.filters import Filter, Filters
from r1.stage.rejection_sampling import RejectionSampling

Config = dict[str, Any]
LOW = f"{{_target_: {low_ids.__module__}.low_ids, _partial_: true, min: 0.5, max: null}}"
KNOBS = [  # what random weights write is never right: half of it is kept for its tokens
    "stage.num_questions=10",
    "stage.answers_per_question=4",
    "stage.questions_at_once=4",
    *(f"~stage.filters.{name}" for name in ("finished", "verifier", "format", "language", "duplicates")),
    f"+stage.filters.low={LOW}",
    "threads=1",
]


class Crash(Exception):
    """Stands for a power cut."""


def candidate(name: str, *, reward: float | None = 1.0, by: str | None = None, correct: bool = True) -> Candidate:
    return Candidate(name, 3, False, correct, reward, by)


# ---- choosing, by hand ----

GROUP = [
    candidate("a", reward=1.0),
    candidate("b", reward=9.0, by="language"),
    candidate("c", reward=1.2, correct=False),
    candidate("d", reward=1.2),
    candidate("e", reward=None, by="verifier", correct=False),
]


@pytest.mark.parametrize(
    ("select", "limit", "kept"),
    [("all", None, "acd"), ("all", 2, "ac"), ("all", 9, "acd"), ("best", None, "c"), ("best", 2, "c")],
)
def test_select_candidates_returns_accepted_in_order(select: Any, limit: int | None, kept: str) -> None:
    assert "".join(one.completion for one in select_candidates(GROUP, select, limit)) == kept


def test_select_best_without_rewards_returns_first_accepted() -> None:
    unrated = [candidate("a", reward=None), candidate("b", reward=None), candidate("c", reward=-1.0)]
    assert [one.completion for one in select_candidates(unrated, "best", None)] == ["c"]
    assert [one.completion for one in select_candidates(unrated[:2], "best", None)] == ["a"]
    assert select_candidates([candidate("x", by="format")], "best", None) == []


def test_outcome_counts_match_hand_computation() -> None:
    cut = Candidate("f", 8, True, False, 0.0, "finished")
    filters = Filters([Filter(name, low_ids, 1, None) for name in ("finished", "verifier", "language")])
    assert outcome_counts([GROUP, [cut]], filters) == {
        "generated": 6,
        "finished": 5,
        "rejected/finished": 1,
        "rejected/verifier": 1,
        "rejected/language": 1,
        "accepted": 3,
    }


def test_difficulty_counts_only_questions_with_gold_answer() -> None:
    assert pass_rate({"answer": "8"}, GROUP) == 0.6
    assert pass_rate({}, GROUP) is None
    figures = difficulty_metrics([0.6, None, 0.0, 0.9, 0.0], 5)
    assert figures["rejection/pass_rate"].value == 0.375
    assert figures["rejection/pass_rate"].n == 20
    assert (figures["rejection/frac_unsolved"].value, figures["rejection/frac_unsolved"].n) == (0.5, 4)
    assert difficulty_metrics([None], 5) == {}


# ---- a whole run ----


@pytest.fixture(scope="module")
def finished(small: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reject") / "run"
    execute(small("stage=rejection_sampling", *KNOBS, f"output_dir={folder}"), [])
    return folder


@pytest.fixture
def run(small: Callable[..., Config], folder: Path) -> Callable[..., Path]:
    def done(*overrides: str) -> Path:
        execute(small("stage=rejection_sampling", *KNOBS, f"output_dir={folder}", *overrides), [])
        return folder

    return done


def journal(folder: Path) -> list[dict[str, Any]]:
    return jsonl.read_rows(folder / "traces" / "samples.jsonl")


def traces(folder: Path) -> list[dict[str, Any]]:
    return jsonl.read_rows(folder / "traces" / "traces.jsonl")


def test_run_writes_accepted_answers_to_traces_and_all_to_journal(finished: Path, experiment: Any) -> None:
    questions = experiment("stage=rejection_sampling", *KNOBS).data.train[:10]
    lines = journal(finished)
    assert [len(line["prompts"]) for line in lines] == [4, 4, 2]
    assert [prompt for line in lines for prompt in line["prompts"]] == [row["prompt"] for row in questions]
    groups = [group for line in lines for group in line["answers"]]
    assert {len(group) for group in groups} == {4}
    kept = [
        (row["prompt"], row["answer"], answer["completion"], answer["reward"])
        for row, group in zip(questions, groups, strict=True)
        for answer in group
        if answer["rejected_by"] is None
    ]
    found = [(row["prompt"], row["answer"], row["completion"], row["reward"]) for row in traces(finished)]
    assert found == kept
    assert 0 < len(found) < 40
    assert all(reward >= 0.5 for *_, reward in found)  # the filter and the reward are the same function here


def test_run_card_metrics_and_manifest_agree(finished: Path) -> None:
    file = finished / "traces" / "traces.jsonl"
    card = json.loads(file.with_suffix(".json").read_text())
    assert len(card.pop("checksum")) == 64
    kept = len(traces(finished))
    finished_ones = sum(not a["truncated"] for line in journal(finished) for group in line["answers"] for a in group)
    counts = {"generated": 40, "finished": finished_ones, "rejected/low": 40 - kept, "accepted": kept, "selected": kept}
    assert card == {"fingerprint": hashlib.sha256(file.read_bytes()).hexdigest(), "count": kept, "counts": counts}
    held = read_run(str(finished))
    logged = next(row for row in held.metrics if "rejection/generated" in row)
    difficulty = {"rejection/pass_rate": 0.0, "rejection/frac_unsolved": 1.0}
    assert logged == {"step": 0} | {f"rejection/{name}": float(n) for name, n in counts.items()} | difficulty
    final = held.manifest["metrics"]["final"]
    assert {"val/pass@1", "val/pass@2", "rejection/pass_rate", "rejection/frac_unsolved"} <= set(final)
    assert not {name for name in held.manifest["metrics"]["start"] if name.startswith("reject")}
    assert held.manifest["status"] == "finished"
    assert not (finished / "model").exists()


def test_questions_file_has_pass_rates(finished: Path, experiment: Any) -> None:
    questions = experiment("stage=rejection_sampling", *KNOBS).data.train[:10]
    assert jsonl.read_rows(finished / "traces" / "questions.jsonl") == [row | {"pass_rate": 0.0} for row in questions]


def test_batch_size_does_not_change_answers(finished: Path, run: Callable[..., Path]) -> None:
    assert traces(run("stage.questions_at_once=3")) == traces(finished)


@pytest.mark.parametrize(("overrides", "most"), [(["stage.select=best"], 1), (["stage.max_per_question=2"], 2)])
def test_max_per_question_limits_rows_of_each_question(
    finished: Path, run: Callable[..., Path], overrides: list[str], most: int
) -> None:
    counts = Counter(row["prompt"] for row in traces(run(*overrides)))
    all_kept = Counter(row["prompt"] for row in traces(finished))
    assert counts == {prompt: min(count, most) for prompt, count in all_kept.items()}
    assert max(all_kept.values()) > most


def test_question_below_min_pass_rate_gives_no_rows(run: Callable[..., Path], folder: Path) -> None:
    with pytest.raises(UserError, match="no answer was accepted") as caught:
        run("stage.min_pass_rate=0.1")
    assert caught.value.code == DATA
    assert "generated 40" in str(caught.value.value)
    assert str(caught.value.value).endswith("selected 0")
    assert len(jsonl.read_rows(folder / "traces" / "questions.jsonl")) == 10  # which were asked for all that
    assert not (folder / "traces" / "traces.jsonl").exists()
    assert read_run(str(folder)).manifest["status"] == "failed"


@pytest.mark.parametrize("torn", [0, 30])
def test_resumed_run_does_not_sample_journal_batches_again(
    finished: Path, run: Callable[..., Path], folder: Path, monkeypatch: pytest.MonkeyPatch, torn: int
) -> None:
    asked: list[list[int]] = []
    original = RejectionSampling.candidates

    def candidates(self: RejectionSampling, indices: list[int]) -> Any:
        asked.append(indices)
        if len(asked) == 3:
            raise Crash
        return original(self, indices)

    monkeypatch.setattr(RejectionSampling, "candidates", candidates)
    with pytest.raises(Crash):
        run()
    file = folder / "traces" / "samples.jsonl"
    file.write_bytes(file.read_bytes()[: -torn or None])
    run("resume=auto")
    assert asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], *([[4, 5, 6, 7]] if torn else []), [8, 9]]
    for name in ("samples.jsonl", "traces.jsonl", "questions.jsonl", "traces.json"):
        assert (folder / "traces" / name).read_bytes() == (finished / "traces" / name).read_bytes()
    assert read_run(str(folder)).metrics == read_run(str(finished)).metrics


def test_traces_train_another_run(finished: Path, small: Callable[..., Config], folder: Path) -> None:
    cfg = small("stage=sft", f"output_dir={folder}")
    shared = {key: cfg["data"][key] for key in DataOptions.__annotations__}
    cfg["data"] = PLAIN | {"_target_": "r1.data.traces.traces", "path": str(finished), "num_val": 2, **shared}
    execute(cfg, [])
    held = read_run(str(folder)).manifest
    assert held["status"] == "finished"
    assert [parent["path"] for parent in held["parents"]] == [str(finished)]


def test_rejection_sampling_without_record_writes_nothing(stage: Callable[..., Any]) -> None:
    alone: RejectionSampling = stage("stage=rejection_sampling", *KNOBS)
    alone.trainer.callback_metrics = {}
    alone.on_predict_start()
    for i, indices in enumerate(alone.predict_dataloader()):
        alone.predict_step(indices, i)
    alone.on_predict_end()
    assert alone.validator.metrics["rejection/pass_rate"].value == 0.0
