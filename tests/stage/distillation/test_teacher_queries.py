"""Asking a teacher behind an endpoint: nothing is asked for twice, nothing is lost, nothing is another model's."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from badserver import Server, completion, half_a_body, solve
from forkserver import ForkServer, knobs, log
from httpserver import Handler, Responder, hang, hang_up, refuse, reply_with
from killpoints import Point
from replies import NO_KNOBS

from r1.core import jsonl
from r1.core.errors import MODEL, UserError
from r1.core.runs import read_run
from r1.data.base import Row
from r1.rollout.base import no_op
from r1.stage.distillation.answer_cache import AnswerCache
from r1.stage.distillation.teacher_queries import ModelChange, TeacherAnswers, query_teacher
from r1.teacher.base import questions
from r1.teacher.openai import OpenAI

KEY = "sk-canary-0123456789abcdef"
ROWS: list[Row] = [{"prompt": f"{i}+5=?"} for i in range(6)]
TEACHER: dict[str, Any] = NO_KNOBS | {
    "model": "big",
    "api_key_env": None,
    "temperature": 0.6,
    "max_completion_length": 32,
    "concurrency": 3,
    "requests_per_minute": None,
    "tokens_per_minute": None,
    "timeout_s": 0.5,
    "max_retries": 0,
    "max_failures": 0,
}


@pytest.fixture
def endpoint() -> Iterator[Server]:
    with Server() as running:
        running.otherwise = solve
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r1.teacher.openai.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("r1.teacher.openai.GRACE_S", 0.2)


def query(
    endpoint: Server,
    file: Path,
    rows: list[Row] = ROWS,
    model_change: ModelChange = "stop",
    seed: int = 0,
    **knobs: Any,
) -> TeacherAnswers:
    teacher = OpenAI(url=endpoint.url, **TEACHER | knobs)
    with AnswerCache(file, "stage.store", no_op) as store:
        return query_teacher(teacher, questions(rows, 2, seed), store, no_op, model_change)


def requests(endpoint: Server) -> Counter[tuple[str, int]]:
    """How often each answer was asked for since the last look."""
    counted = Counter(
        (body["messages"][0]["content"], body["seed"]) for body in (request.json for request in endpoint.requests)
    )
    endpoint.requests.clear()
    return counted


def answered(file: Path) -> list[tuple[str, int]]:
    """The answers that the store holds, as the endpoint knows them."""
    rows = jsonl.read_rows(file) if file.exists() else []
    return [(row["query"]["question"], row["query"]["seed"] % 2**31) for row in rows if row["answer"]]


# ---- never twice, never lost ----


def test_second_run_reuses_all_answers(endpoint: Server, file: Path) -> None:
    first = query(endpoint, file)
    assert set(requests(endpoint).values()) == {1}
    assert [row for row, _ in first.pairs] == [row for row in ROWS for _ in range(2)]
    assert first.counts == {"prompt_tokens": 60, "completion_tokens": 84, "models": 1, "unanswered": 0}
    assert (first.timing["time/teacher/cached"], first.timing["time/teacher/new"]) == (0, 12)
    second = query(endpoint, file)
    assert requests(endpoint) == {}
    assert (second.pairs, second.counts) == (first.pairs, first.counts)
    assert (second.timing["time/teacher/cached"], second.timing["time/teacher/new"]) == (12, 0)


def test_pairs_do_not_depend_on_order_of_arrival(endpoint: Server, file: Path, tmp_path: Path) -> None:
    def late(handler: Handler, body: dict[str, Any]) -> Any:
        endpoint.released.wait(0.1)
        return solve(handler, body)

    in_order = query(endpoint, tmp_path / "other", concurrency=1)
    endpoint.requests.clear()
    endpoint.script = [late, solve, late, solve]
    assert query(endpoint, file).pairs == in_order.pairs
    assert [row["key"] for row in jsonl.read_rows(file)] != [row["key"] for row in jsonl.read_rows(tmp_path / "other")]


def test_other_experiment_requests_only_new_questions(endpoint: Server, file: Path) -> None:
    query(endpoint, file, ROWS[:4])
    old = requests(endpoint)
    query(endpoint, file, ROWS[2:])
    new = requests(endpoint)
    assert (len(old), len(new)) == (8, 4)
    assert not old.keys() & new.keys()


def test_repeated_question_is_requested_once(endpoint: Server, file: Path) -> None:
    found = query(endpoint, file, [*ROWS, *ROWS])
    assert set(requests(endpoint).values()) == {1}
    assert found.pairs[:12] == found.pairs[12:]
    assert found.counts["completion_tokens"] == 84


@pytest.mark.parametrize(
    "other",
    [
        {"temperature": 0.7},
        {"top_p": 0.9},
        {"system": "Be brief."},
        {"extra_body": {"reasoning_effort": "high"}},
        {"max_completion_length": 33},
        {"model": "bigger"},
        {"seed": 1},
    ],
)
def test_changed_sampling_or_model_is_requested_again(endpoint: Server, file: Path, other: dict[str, Any]) -> None:
    query(endpoint, file)
    requests(endpoint)
    query(endpoint, file, model_change="accept", **other)
    assert requests(endpoint).total() == 12
    assert len(answered(file)) == 24


def test_other_endpoint_is_requested_again(endpoint: Server, file: Path) -> None:
    query(endpoint, file)
    with Server() as other:
        other.otherwise = solve
        query(other, file)
        assert requests(other).total() == 12


@pytest.mark.parametrize("harmless", [{"concurrency": 1}, {"max_retries": 3}, {"requests_per_minute": 100_000}])
def test_transport_settings_do_not_change_cache_key(endpoint: Server, file: Path, harmless: dict[str, Any]) -> None:
    query(endpoint, file)
    requests(endpoint)
    query(endpoint, file, **harmless)
    assert requests(endpoint) == {}


def test_concurrent_runs_request_each_answer_once(endpoint: Server, file: Path) -> None:
    found: list[TeacherAnswers] = []
    both = [threading.Thread(target=lambda: found.append(query(endpoint, file))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert found[0].pairs == found[1].pairs
    assert (set(requests(endpoint).values()), len(answered(file))) == ({1}, 12)


def test_truncated_store_requests_only_missing_answers(endpoint: Server, file: Path) -> None:
    whole = query(endpoint, file, ROWS[:3])
    lines, places = file.read_bytes(), random.Random(0)
    for _ in range(25):
        cut = places.randrange(len(lines) + 1)
        file.write_bytes(lines[:cut])
        requests(endpoint)
        assert query(endpoint, file, ROWS[:3]).pairs == whole.pairs
        assert requests(endpoint).total() == 6 - lines[:cut].count(b"\n")
        assert len(answered(file)) == len(set(answered(file))) == 6


# ---- faults ----

FAULTS: dict[str, Responder] = {
    "http_400": refuse(400),
    "http_401": refuse(401),
    "http_402": refuse(402),
    "http_404": refuse(404),
    "http_422": refuse(422),
    "http_429": refuse(429, Retry_After="0.01"),
    "http_500": refuse(500),
    "http_503": refuse(503),
    "http_302": refuse(302, Location="http://127.0.0.1:9/"),
    "unreadable": reply_with(b'{"choices": []}'),
    "network": hang_up,
    "timeout": hang,
}


@pytest.mark.parametrize("kind", FAULTS)
def test_failed_request_keeps_answers_and_is_retried_by_next_run(
    endpoint: Server, file: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    endpoint.script = [solve, solve, solve, FAULTS[kind]]
    with pytest.raises(UserError) as caught:
        query(endpoint, file, concurrency=1)
    assert caught.value.code == MODEL
    assert f"1 without an answer ({kind} 1)" in capsys.readouterr().err
    paid = answered(file)
    assert len(paid) >= 3
    refused = [row for row in jsonl.read_rows(file) if row["answer"] is None]
    assert [[failure["kind"] for failure in row["failures"]] for row in refused] == [[kind]]
    requests(endpoint)
    endpoint.script = []
    whole = query(endpoint, file, timeout_s=30.0)
    assert not requests(endpoint).keys() & set(paid)
    assert len(whole.pairs) == len(answered(file)) == 12


def test_tolerated_failures_are_left_out_and_counted(endpoint: Server, file: Path) -> None:
    endpoint.script = [solve, refuse(400), half_a_body, solve, refuse(400)]
    found = query(endpoint, file, concurrency=1, max_failures=3)
    assert len(found.pairs) == 9
    expected = {"models": 1, "unanswered": 3, "unanswered/http_400": 2, "unanswered/unreadable": 1}
    assert found.counts == {"prompt_tokens": 45, "completion_tokens": 63, **expected}
    requests(endpoint)
    endpoint.script = []
    assert len(query(endpoint, file, timeout_s=30.0).pairs) == 12  # the next run asks for them again
    assert requests(endpoint).total() == 3


def test_retries_are_counted_and_stored_with_answer(
    endpoint: Server, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.script = [refuse(429), refuse(503, "busy"), solve]
    found = query(endpoint, file, concurrency=1, max_retries=2)
    assert {name: n for name, n in found.timing.items() if "retried" in name} == {
        "time/teacher/retried/http_429": 1,
        "time/teacher/retried/http_503": 1,
    }
    assert jsonl.read_rows(file)[0]["failures"][1] == {"kind": "http_503", "said": "HTTP 503 busy"}
    said = capsys.readouterr().err
    assert "r1  12 of 12 answers: 0 from the store, 12 new" in said
    assert "60 tokens in, 84 out; 2 attempts repeated (http_429 1, http_503 1)" in said


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_truncated_answer_is_stored(endpoint: Server, file: Path, reason: str) -> None:
    endpoint.otherwise = reply_with(completion("a bit", reason))
    found = query(endpoint, file)
    assert {(answer.text, answer.finish_reason) for _, answer in found.pairs} == {("a bit", reason)}
    requests(endpoint)
    query(endpoint, file)
    assert requests(endpoint) == {}


def test_api_key_is_not_written_or_printed(
    endpoint: Server, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    endpoint.script = [reply_with(completion(f"hello {KEY}", model=KEY)), refuse(400, f"no {KEY}"), refuse(401, KEY)]
    with pytest.raises(UserError) as caught:
        query(endpoint, file, api_key_env="TEACHER_KEY", concurrency=1, max_failures=9)
    assert len(jsonl.read_rows(file)) == 3
    assert "hello ***" in file.read_text()
    assert KEY not in file.read_text() + str(caught.value) + capsys.readouterr().err


def test_secret_in_extra_body_is_sent_and_not_written(endpoint: Server, file: Path) -> None:
    query(endpoint, file, extra_body={"api_key": KEY, "top_logprobs": 2})
    assert {request.json["api_key"] for request in endpoint.requests} == {KEY}
    assert KEY not in file.read_text()
    assert jsonl.read_rows(file)[0]["query"]["extra_body"] == {"api_key": "<redacted>", "top_logprobs": 2}


# ---- a changed model ----


def test_reported_model_name_is_printed_and_stored(
    endpoint: Server, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.otherwise = partial(solve, model="big-2026-11-24")
    assert query(endpoint, file).counts["models"] == 1
    assert "note: the model `big-2026-11-24` answers requests for `big`" in capsys.readouterr().err
    told = {(row["answer"]["model"], row["answer"]["system_fingerprint"]) for row in jsonl.read_rows(file)}
    assert told == {("big-2026-11-24", "fp_1")}


def test_model_change_stops_run_and_keeps_answers(endpoint: Server, file: Path) -> None:
    endpoint.script = [solve, solve]
    endpoint.otherwise = partial(solve, model="small")
    with pytest.raises(UserError, match="`small` answers now, `big` did before") as caught:
        query(endpoint, file, concurrency=1)
    assert (caught.value.key, caught.value.code) == ("teacher.model", MODEL)
    assert f"stage.model_change=accept stage.store={file}" in caught.value.hint
    paid, _ = answered(file), requests(endpoint)
    with pytest.raises(UserError, match="`small` answers now"):
        query(endpoint, file)
    assert requests(endpoint) == {}  # known from the store
    both = query(endpoint, file, model_change="accept")
    assert (len(both.pairs), both.counts["models"]) == (12, 2)
    assert not requests(endpoint).keys() & set(paid)


# ---- kills ----


def overrides(endpoint: Server, store: Path) -> list[str]:
    """A run that asks for 48 answers, four at a time."""
    teacher = ["teacher=openai", f"teacher.url={endpoint.url}", "teacher.model=big", "teacher.concurrency=4"]
    return knobs("distill", *teacher, "stage.lr=0.01", f"stage.store={store}")


MOMENTS = [("r1.teacher.openai:read_answer", "before", 8), ("r1.teacher.openai:read_answer", "after", 8)]
MOMENTS += [
    ("r1.stage.distillation.answer_cache:AnswerCache.add", when, 2) for when in ("before", "torn", "after")
]  # the last: of at most so many calls


def test_killed_run_does_not_request_stored_answers_again(server: ForkServer, endpoint: Server, tmp_path: Path) -> None:
    kill_while_asking(server, endpoint, tmp_path, num_trials=1, num_kills=2)


@pytest.mark.long
def test_runs_killed_forty_times_do_not_request_stored_answers_again(
    server: ForkServer, endpoint: Server, tmp_path: Path
) -> None:
    kill_while_asking(server, endpoint, tmp_path, num_trials=10, num_kills=4)


def kill_while_asking(server: ForkServer, endpoint: Server, base: Path, num_trials: int, num_kills: int) -> None:
    """Each run is killed some way into the asking, and goes on to the end of one that nobody touched."""

    def slowly(handler: Handler, body: dict[str, Any]) -> Any:
        endpoint.released.wait(0.03 * random.random())
        return solve(handler, body)

    endpoint.otherwise = slowly
    whole, moments = base / "whole", random.Random(0)
    assert server.run(overrides(endpoint, base / "whole.jsonl"), whole).code == 0, log(whole)
    wanted = requests(endpoint)
    for trial in range(num_trials):
        store, folder = base / f"{trial}.jsonl", base / f"run{trial}"
        for life in range(num_kills + 1):
            place, when, most = moments.choice(MOMENTS)
            point = Point(place, when, moments.randint(1, most)) if life < num_kills else None
            paid = set(answered(store))
            ended = server.run(overrides(endpoint, store), folder, point, resume=life > 0)
            assert ended.code == (-9 if point else 0), log(folder)
            again = requests(endpoint)
            print(f"  {len(paid)} in the store, {again.total()} asked for; then {point}")
            assert not again.keys() & paid
            in_flight = 4 if point else 0
            assert len(set(answered(store)) - paid) >= again.total() - in_flight
        assert sorted(answered(store)) == sorted(wanted)
        assert (folder / "traces/traces.jsonl").read_bytes() == (whole / "traces/traces.jsonl").read_bytes()
        assert (folder / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()
        assert read_run(str(folder)).metrics == read_run(str(whole)).metrics


def test_command_stops_promptly_with_requests_in_flight(endpoint: Server, tmp_path: Path) -> None:
    endpoint.script = [solve] * 5
    endpoint.otherwise = hang
    folder, store = tmp_path / "run", tmp_path / "answers.jsonl"
    command = [sys.executable, "-m", "r1.run", *overrides(endpoint, store), f"output_dir={folder}"]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while len(endpoint.requests) < 9:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        signalled = time.time()
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 143, said
    assert read_run(str(folder)).manifest["status"] == "interrupted"
    assert (folder / "manifest.json").stat().st_mtime - signalled < 4  # two for what is in flight
    assert len(answered(store)) == 5
