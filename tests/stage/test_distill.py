"""stage=distill: ask a teacher, keep what is right, learn it, and never ask twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datasetoptions import PLAIN
from safetensors.torch import load_file

from r1.core import jsonl
from r1.core.errors import DATA, UserError
from r1.core.runs import read_run
from r1.core.types import Config
from r1.data.base import Row
from r1.run import execute
from r1.stage.distill import Distill
from r1.stage.sft import Sft
from r1.teacher import procedural
from r1.teacher.base import Answer, Question, Reply
from r1.teacher.procedural import Procedural

KNOBS = [
    "stage.num_questions=24",
    "stage.answers_per_question=2",
    "stage.lr=0.01",
    "stage.warmup_steps=0",
    "checkpoint_every=1",
    "threads=1",
]
HALF_WRONG = "teacher.error_rate=0.5"


class Crash(Exception):
    """Stands for a power cut."""


@pytest.fixture(scope="module")
def finished(small: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distill") / "run"
    execute(small("stage=distill", *KNOBS, HALF_WRONG, f"output_dir={folder}"), [])
    return folder


@pytest.fixture
def run(small: Callable[..., Config], folder: Path) -> Callable[..., Path]:
    def done(*overrides: str, teacher: str = HALF_WRONG) -> Path:
        execute(small("stage=distill", *KNOBS, f"output_dir={folder}", teacher, *overrides), [])
        return folder

    return done


@pytest.fixture
def recorded_questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every question that the teacher gets in the run, once for each answer; without the one that the check asks."""
    heard: list[str] = []
    original = Procedural.answer

    def answer(self: Procedural, questions: list[Question], poll: Any) -> Iterator[list[Reply]]:
        heard.extend(question.row["prompt"] for question in questions if len(questions) > 1)
        return original(self, questions, poll)

    monkeypatch.setattr(Procedural, "answer", answer)
    return heard


def crash_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Make the ``call``-th call of ``owner.name`` raise, once."""
    original, calls = getattr(owner, name), []

    def crashing(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == call:
            raise Crash
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, crashing)


def traces(folder: Path) -> list[dict[str, Any]]:
    return jsonl.read_rows(folder / "traces" / "traces.jsonl")


def weights(folder: Path) -> dict[str, Any]:
    return {name: value.tolist() for name, value in load_file(folder / "model" / "model.safetensors").items()}


# ---- what is kept ----


def test_traces_hold_only_right_answers(finished: Path, experiment: Callable[..., Any]) -> None:
    data = experiment("stage=distill").data
    rows, answers = traces(finished), jsonl.read_rows(finished / "traces" / "answers.jsonl")
    twice = [row for row in data.train[:24] for _ in range(2)]
    assert [line["query"]["question"] for line in answers] == [row["prompt"] for row in twice]
    given = [(row, line["answer"]["text"]) for row, line in zip(twice, answers, strict=True)]
    right = [(row["prompt"], text) for row, text in given if data.correct(text, row)]
    assert [(row["prompt"], row["completion"]) for row in rows] == right
    assert 12 <= len(rows) <= 36  # half of 48, give or take three and a half standard deviations
    assert all(row["teacher"] == "procedural" for row in rows)


def test_counts_are_logged_once_before_first_step(finished: Path) -> None:
    logged = [row for row in read_run(str(finished)).metrics if "distill/generated" in row]
    kept = len(traces(finished))
    counted = {
        "generated": 48,
        "finished": 48,
        "rejected/finished": 0,
        "rejected/verifier": 48 - kept,
        "selected": kept,
    }
    counted |= dict.fromkeys(["prompt_tokens", "completion_tokens", "models", "unanswered"], 0)
    assert logged == [{"step": 0} | {f"distill/{name}": float(count) for name, count in counted.items()}]
    timing = next(row for row in jsonl.read_rows(finished / "timing.jsonl") if "time/teacher" in row)
    assert (timing["time/teacher/cached"], timing["time/teacher/new"]) == (0, 48)


def test_card_matches_traces_file(finished: Path) -> None:
    file = finished / "traces" / "traces.jsonl"
    card = json.loads(file.with_suffix(".json").read_text())
    assert card["fingerprint"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert card["count"] == len(traces(finished)) == card["counts"]["selected"]


def test_without_verifier_wrong_answers_are_accepted_and_truncated_rejected(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Procedural._answer
    cut: list[str] = []

    def answer(self: Procedural, row: Row, seed: int) -> Answer:
        whole = original(self, row, seed)
        cut.append(row["prompt"])
        return Answer(whole.text, "length", 0, 0) if len(cut) % 4 == 0 else whole

    monkeypatch.setattr(Procedural, "_answer", answer)
    folder = run("~stage.filters.verifier")
    assert len(traces(folder)) == 36
    assert any(f"<answer>{row['answer']}</answer>" not in row["completion"] for row in traces(folder))
    logged = next(row for row in read_run(str(folder)).metrics if "distill/generated" in row)
    assert (logged["distill/generated"], logged["distill/finished"], logged["distill/selected"]) == (48, 36, 36)


def test_distill_run_lowers_loss(finished: Path) -> None:
    losses = [row["train/loss"] for row in read_run(str(finished)).metrics if "train/loss" in row]
    assert losses[-1] < losses[0]


# ---- what is read from it ----


def test_traces_train_another_run_with_parent(finished: Path, small: Callable[..., Config], folder: Path) -> None:
    cfg = small("stage=sft", f"output_dir={folder}")
    cfg["data"] = PLAIN | {
        "_target_": "r1.data.traces.traces",
        "path": str(finished),
        "num_val": 4,
        "template": cfg["data"]["template"],
        "verifier": cfg["data"]["verifier"],
        "terms": None,
        "weight": None,
        "max_prompt_length": None,
        "overlong": "error",
        "instruction": None,
        "reader": "strict",
        "keep_questions": True,
    }
    execute(cfg, [])
    held = read_run(str(folder)).manifest
    assert held["status"] == "finished"
    assert held["parents"] == [{"path": str(finished), "fingerprint": read_run(str(finished)).manifest["fingerprint"]}]


def test_answers_that_do_not_fit_into_the_context_are_counted(experiment: Callable[..., Any]) -> None:
    made = experiment("stage=distill").stage
    row, texts = made.data.train[0], ["<think> 1</think>8", "\U0001f9ee" * 300]  # the second has 1,200 tokens
    rejected_by, counts = made.filter_answers([(row, Answer(text, "stop", 0, 0)) for text in texts])
    assert rejected_by == ["verifier", "unlearnable"]
    assert (counts["generated"], counts["rejected/unlearnable"], counts["selected"]) == (2, 1, 0)


def test_teacher_run_is_recorded_as_parent(finished: Path, run: Callable[..., Path], folder: Path) -> None:
    knobs = [
        f"teacher.path={finished}",
        "teacher.dtype=float32",
        "teacher.max_completion_length=2",
        "~stage.filters.verifier",
    ]
    with pytest.raises(UserError, match="0 teacher answers were accepted"):  # cut short, every one
        run(*knobs, "stage.num_questions=2", teacher="teacher=transformers")
    (parent,) = read_run(str(folder)).manifest["parents"]
    assert parent["path"] == str(finished)


# ---- never twice ----


def test_run_resumed_in_training_does_not_query_again(
    run: Callable[..., Path], recorded_questions: list[str], finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_at(monkeypatch, Sft, "micro_batches", 3)
    with pytest.raises(Crash):
        run()
    assert len(recorded_questions) == 48
    folder = run("resume=auto")
    assert len(recorded_questions) == 48
    assert weights(folder) == weights(finished)
    assert read_run(str(folder)).metrics == read_run(str(finished)).metrics


def test_run_resumed_before_first_checkpoint_logs_counts_once(
    run: Callable[..., Path], recorded_questions: list[str], finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_at(monkeypatch, Sft, "micro_batches", 1)
    with pytest.raises(Crash):
        run()
    folder = run("resume=auto")
    assert len(recorded_questions) == 48
    assert read_run(str(folder)).metrics == read_run(str(finished)).metrics


@pytest.mark.parametrize("torn", [0, 1, 20])
def test_run_resumed_while_querying_requests_only_missing_answers(
    run: Callable[..., Path],
    recorded_questions: list[str],
    finished: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    torn: int,
) -> None:
    monkeypatch.setattr(procedural, "BATCH_SIZE", 10)
    crash_at(monkeypatch, Procedural, "_answer", 42)  # the first call is the check's
    with pytest.raises(Crash):
        run()
    journal = folder / "traces" / "answers.jsonl"
    assert journal.read_bytes().count(b"\n") == 40
    journal.write_bytes(journal.read_bytes()[: -torn or None])
    assert not (folder / "traces" / "traces.jsonl").exists()
    recorded_questions.clear()
    run("resume=auto")
    assert len(recorded_questions) == (8 if torn == 0 else 9)
    assert traces(folder) == traces(finished)
    assert journal.read_bytes() == (finished / "traces" / "answers.jsonl").read_bytes()
    assert weights(folder) == weights(finished)


def test_second_run_with_same_store_requests_nothing(
    run: Callable[..., Path], recorded_questions: list[str], finished: Path, folder: Path
) -> None:
    run(f"stage.store={finished / 'traces' / 'answers.jsonl'}", "stage.lr=0.02")
    assert recorded_questions == []
    assert traces(folder) == traces(finished)
    assert not (folder / "traces" / "answers.jsonl").exists()


def test_runs_of_several_seeds_share_answers(
    run: Callable[..., Path], recorded_questions: list[str], finished: Path, folder: Path
) -> None:
    run(f"stage.store={finished / 'traces' / 'answers.jsonl'}", "seed=1", "stage.teacher_seed=0")
    assert recorded_questions == []
    assert traces(folder) == traces(finished)
    assert weights(folder) != weights(finished)


def test_store_path_of_another_file_fails_early(experiment: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("# Notes")
    with pytest.raises(UserError, match="not a store of answers"):
        experiment("stage=distill", f"stage.store={tmp_path / 'notes.md'}")


def test_too_few_accepted_answers_raise(run: Callable[..., Path], recorded_questions: list[str], folder: Path) -> None:
    for resume in ([], ["resume=auto"]):
        with pytest.raises(
            UserError, match="0 teacher answers were accepted, fewer than one optimizer step needs"
        ) as caught:
            run(*resume, teacher="teacher.error_rate=1.0")
        assert caught.value.code == DATA
        assert caught.value.value == "generated 48, finished 48, rejected/finished 0, rejected/verifier 48, selected 0"
        assert "stage.examples_per_step=4" in caught.value.expected
    assert len(recorded_questions) == 48  # the answers are there, for all that they are wrong
    assert read_run(str(folder)).manifest["status"] == "failed"
    assert not (folder / "traces" / "traces.jsonl").exists()


def test_distill_without_record_makes_the_same_traces(finished: Path, stage: Callable[..., Any]) -> None:
    alone: Distill = stage("stage=distill", *KNOBS, HALF_WRONG)
    rows, counts = alone.load_or_make_traces()
    assert rows == traces(finished)
    assert counts["generated"] == 48
