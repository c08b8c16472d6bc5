"""The endpoint teacher against a server on this machine that misbehaves on purpose."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from email.message import Message
from email.utils import formatdate
from itertools import pairwise
from typing import Any

import pytest
from badserver import Server, completion, drip, drip_an_error, half_a_body, say
from httpserver import Handler, Responder, hang, hang_up, refuse, reply_with
from replies import ask_all, replies

from r1.core.errors import CONFIG, MODEL, Interrupted, UserError
from r1.data.base import Row
from r1.rollout.base import no_op
from r1.teacher.api.openai_response import MAX_BYTES, read_answer, retry_after
from r1.teacher.base import Answer, Failure, Reply, questions, sample_seed
from r1.teacher.openai import OpenAI, backoff, endpoint

KEY = "sk-canary-0123456789abcdef"
ROWS: list[Row] = [{"prompt": f"{i}+5=?"} for i in range(4)]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def teacher(
    url: str,
    *,
    api_key_env: str | None = None,
    concurrency: int = 4,
    timeout_s: float = 5.0,
    max_retries: int = 2,
    max_failures: int = 0,
    **rates: int | None,
) -> OpenAI:
    return OpenAI(
        url=url,
        model="big",
        api_key_env=api_key_env,
        temperature=0.6,
        max_completion_length=32,
        concurrency=concurrency,
        timeout_s=timeout_s,
        max_retries=max_retries,
        max_failures=max_failures,
        requests_per_minute=rates.get("requests_per_minute"),
        tokens_per_minute=rates.get("tokens_per_minute"),
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r1.teacher.openai.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("r1.teacher.openai.GRACE_S", 0.2)


def refused(server: Server, **knobs: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        ask_all(teacher(server.url, **knobs), ROWS[:1], 1, seed=0)
    assert caught.value.code == MODEL
    return caught.value


def test_answers_come_in_order_and_each_request_has_its_own_seed(server: Server) -> None:
    answers = ask_all(teacher(server.url), ROWS, 2, seed=3)
    expected = [[f"{p} {sample_seed(3, p, k) % 2**31}" for k in (0, 1)] for p in (row["prompt"] for row in ROWS)]
    assert [[answer.text for answer in group] for group in answers] == expected
    assert answers[0][0] == Answer(expected[0][0], "stop", 5, 7, model="big", system_fingerprint="fp_1")
    assert answers == ask_all(teacher(server.url, concurrency=1), ROWS, 2, seed=3)
    request, body = server.requests[0], server.requests[0].json
    assert (request.path, request.headers["Authorization"]) == ("/v1/chat/completions", None)
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("big", 0.6, 32)
    assert body["messages"][0]["role"] == "user"


def test_concurrency_bounds_the_requests_in_flight(server: Server) -> None:
    flying, most = [0], [0]

    def slow(handler: Handler, body: dict[str, Any]) -> Any:
        with server.lock:
            flying[0] += 1
            most[0] = max(most[0], flying[0])
        time.sleep(0.03)
        with server.lock:
            flying[0] -= 1
        return say(handler, body)

    server.otherwise = slow
    ask_all(teacher(server.url, concurrency=3), ROWS, 3, seed=0)
    assert 2 <= most[0] <= 3


def test_nothing_to_ask() -> None:
    nobody = teacher("http://127.0.0.1:9/v1")
    assert ask_all(nobody, [], 2, seed=0) == []
    assert ask_all(nobody, ROWS[:2], 0, seed=0) == [[], []]


@pytest.mark.parametrize(
    "failure",
    [
        refuse(429),
        refuse(500),
        refuse(503),
        refuse(408),
        reply_with(b"<html>busy</html>"),
        reply_with(b""),
        reply_with(b"[" * 200_000),
        reply_with(b'{"choices": []}'),
        reply_with(b'{"choices": [{"message": {"content": 5}}]}'),
        half_a_body,
        hang_up,
    ],
)
def test_what_may_pass_is_tried_again(server: Server, failure: Responder) -> None:
    server.script = [failure, failure]
    (answers,) = ask_all(teacher(server.url), ROWS[:1], 1, seed=0)
    assert answers[0].text.startswith("0+5=? ")
    assert len(server.requests) == 3
    assert len({request.json["seed"] for request in server.requests}) == 1


def test_retries_are_bounded(server: Server) -> None:
    server.otherwise = refuse(503, "overloaded")
    error = refused(server, max_retries=2)
    assert "3 attempts" in error.message
    assert "HTTP 503 overloaded" in error.hint
    assert len(server.requests) == 3


def test_retry_after_is_honoured(server: Server) -> None:
    server.script = [refuse(429, Retry_After="0.4"), refuse(503, Retry_After="0.4")]
    ask_all(teacher(server.url), ROWS[:1], 1, seed=0)
    first, second, third = (request.time for request in server.requests)
    assert min(second - first, third - second) >= 0.4


def test_no_wait_is_longer_than_the_time_limit(server: Server) -> None:
    server.script = [refuse(429, Retry_After="3600")]
    started = time.monotonic()
    ask_all(teacher(server.url, timeout_s=0.3), ROWS[:1], 1, seed=0)
    assert 0.3 <= time.monotonic() - started < 5


@pytest.mark.parametrize("stuck", [hang, drip, drip_an_error])
def test_a_server_that_hangs_is_given_up(server: Server, stuck: Responder) -> None:
    server.otherwise = stuck
    started = time.monotonic()
    error = refused(server, timeout_s=0.2, max_retries=1)
    assert ("HTTP 500" if stuck is drip_an_error else "no answer within 0.2 s") in error.hint
    assert time.monotonic() - started < 5
    assert len(server.requests) == 2


def test_a_closed_port(server: Server) -> None:
    server.server_close()
    assert "refused" in refused(server).hint


def broken_off(asked: OpenAI, num_samples: int, poll: Callable[[], None] = no_op) -> tuple[list[Reply], Exception]:
    """What four questions got before the asking ended with an error."""
    got = []
    try:
        for batch in asked.answer(questions(ROWS, num_samples, seed=0), poll):
            got += batch
    except (UserError, Interrupted) as error:
        return got, error
    raise AssertionError("nothing went wrong")


def unanswered(server: Server, **knobs: Any) -> list[list[str]]:
    """Kinds of failures of four questions, none of which ended the asking."""
    got = replies(teacher(server.url, max_failures=4, **knobs), questions(ROWS, 1, seed=0))
    assert [reply.answer for reply in got] == [None] * 4
    return [[failure.kind for failure in reply.failures] for reply in got]


def test_questions_without_an_answer_may_be_left_out(server: Server) -> None:
    server.otherwise = refuse(503)
    assert unanswered(server, max_retries=1) == [["http_503", "http_503"]] * 4
    assert len(server.requests) == 8
    server.otherwise = refuse(400, "too long")
    assert unanswered(server, max_retries=1) == [["http_400"]] * 4
    server.otherwise = reply_with(b"")
    assert unanswered(server, max_retries=0) == [["unreadable"]] * 4
    server.otherwise = hang_up
    assert unanswered(server, max_retries=0) == [["network"]] * 4
    server.otherwise = hang
    assert unanswered(server, max_retries=0, timeout_s=0.1) == [["timeout"]] * 4


def test_one_failure_too_many_ends_the_asking(server: Server) -> None:
    server.script = [say, refuse(400), refuse(400), say, refuse(400, "the third")]
    got, error = broken_off(teacher(server.url, concurrency=1, max_failures=2), 3)
    assert [reply.answer is None for reply in got] == [False, True, True, False, True]
    assert isinstance(error, UserError)
    assert error.message == "the teacher refused: HTTP 400 the third"
    assert error.expected == "teacher.max_failures=2 questions without an answer"


@pytest.mark.parametrize("status", [401, 402, 403, 404, 302])
def test_what_every_question_would_meet_ends_the_asking_whatever_may_fail(server: Server, status: int) -> None:
    server.script = [say, refuse(status)]
    got, error = broken_off(teacher(server.url, concurrency=1, max_failures=99), 1)
    assert f"HTTP {status}" in str(error)
    assert [reply.answer is None for reply in got] == [False, True]
    assert len(server.requests) == 2


def test_answers_in_flight_are_handed_over_when_another_is_refused(server: Server) -> None:
    def slow(handler: Handler, body: dict[str, Any]) -> Any:
        time.sleep(0.1)
        return say(handler, body)

    server.script = [slow, hang, refuse(401)]
    server.otherwise = say
    got, error = broken_off(teacher(server.url, concurrency=3), 1)
    assert "HTTP 401" in str(error)
    assert sum(reply.answer is not None for reply in got) == 1
    assert len(server.requests) == 3


def test_a_stop_takes_what_arrives_within_the_grace_and_leaves(server: Server) -> None:
    def slow(handler: Handler, body: dict[str, Any]) -> Any:
        time.sleep(0.15)
        return say(handler, body)

    def poll() -> None:
        if len(server.requests) == 3:
            raise Interrupted(15)

    server.script = [hang, slow, hang]
    started = time.monotonic()
    got, error = broken_off(teacher(server.url, concurrency=3, timeout_s=60), 2, poll)
    assert isinstance(error, Interrupted)
    assert time.monotonic() - started < 1
    assert [reply.question.row for reply in got if reply.answer] == [reply.question.row for reply in got]
    assert len(got) == 1
    server.released.set()
    time.sleep(0.1)
    assert len(server.requests) == 3  # nothing is asked behind its back


def test_no_thread_keeps_the_process_alive(server: Server) -> None:
    server.otherwise = hang
    arriving = teacher(server.url).answer(questions(ROWS, 1, seed=0), lambda: stop_when(len(server.requests) == 4))
    with pytest.raises(Interrupted):
        next(arriving)
    left = [thread for thread in threading.enumerate() if thread.name == "teacher"]
    assert len(left) == 4
    assert all(thread.daemon for thread in left)


def stop_when(now: bool) -> None:
    if now:
        raise Interrupted(15)


def test_requests_per_minute(server: Server) -> None:
    ask_all(teacher(server.url, concurrency=8, requests_per_minute=1200), ROWS, 2, seed=0)  # one every 50 ms
    times = sorted(request.time for request in server.requests)
    assert len(times) == 8
    assert times[-1] - times[0] >= 7 * 0.05 - 0.02
    assert all(b - a > 0.02 for a, b in pairwise(times))


def test_tokens_per_minute(server: Server) -> None:
    ask_all(teacher(server.url, concurrency=1, tokens_per_minute=7200), ROWS, 1, seed=0)  # 12 tokens every 100 ms
    times = [request.time for request in server.requests]
    assert all(b - a >= 0.1 for a, b in pairwise(times))
    server.otherwise = reply_with(completion("x" * 43).replace(b'"usage"', b'"nothing"'))  # (5 + 43) / 4 are guessed
    server.requests.clear()
    ask_all(teacher(server.url, concurrency=1, tokens_per_minute=7200), ROWS[:2], 1, seed=0)
    first, second = (request.time for request in server.requests)
    assert second - first >= 0.1


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
def test_what_no_retry_can_mend_stops_everything_at_once(server: Server, status: int) -> None:
    server.otherwise = refuse(status, "no such thing")
    with pytest.raises(UserError, match=f"HTTP {status} no such thing") as caught:
        ask_all(teacher(server.url, concurrency=2), ROWS * 20, 1, seed=0)
    assert caught.value.code == MODEL
    time.sleep(0.05)
    assert len(server.requests) <= 6  # of 80


def test_the_first_refusal_does_not_wait_for_slow_or_waiting_requests(server: Server) -> None:
    server.script = [hang, refuse(503, Retry_After="1"), refuse(401)]
    started = time.monotonic()
    with pytest.raises(UserError, match="HTTP 401"):
        ask_all(teacher(server.url, concurrency=3, timeout_s=5), ROWS[:3], 1, seed=0)
    assert time.monotonic() - started < 1
    server.released.set()
    time.sleep(1.1)
    assert len(server.requests) == 3  # nor does anybody try again behind its back


def test_the_key_travels_in_the_header_and_nowhere_else(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY + "\n")
    asked = teacher(server.url, api_key_env="TEACHER_KEY")
    ask_all(asked, ROWS[:1], 1, seed=0)
    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(vars(asked))


def test_an_answer_that_repeats_the_key_does_not_hold_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    server.otherwise = reply_with(completion(f"your key is {KEY}", KEY, model=KEY))
    ((answer,),) = ask_all(teacher(server.url, api_key_env="TEACHER_KEY"), ROWS[:1], 1, seed=0)
    assert answer == Answer("your key is ***", "***", 5, 7, model="***", system_fingerprint="fp_1")


@pytest.mark.parametrize("reply", [refuse(401, f"bad key {KEY}"), reply_with(KEY.encode()), refuse(500, KEY)])
def test_an_endpoint_that_echoes_the_key_cannot_make_it_show(
    server: Server, monkeypatch: pytest.MonkeyPatch, reply: Responder
) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    server.otherwise = reply
    error = refused(server, api_key_env="TEACHER_KEY", max_retries=0)
    assert KEY not in str(error)
    assert "***" in str(error)


def test_text_from_outside_cannot_drive_the_terminal(server: Server) -> None:
    server.otherwise = refuse(400, "a\x1b[2Jb\nc" + "x" * 2000)
    error = refused(server)
    assert "\x1b" not in str(error)
    assert "a [2Jb c" in error.message
    assert len(error.message) < 400


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(server: Server, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with Server() as other:
        server.otherwise = refuse(status, Location=other.url)
        error = refused(server, api_key_env="TEACHER_KEY")
        assert other.url in error.message
        assert "redirects are not followed" in error.hint
        assert other.requests == []
    assert len(server.requests) == 1


def test_a_plain_request_ignores_proxies(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert len(ask_all(teacher(server.url), ROWS[:1], 1, seed=0)[0]) == 1


@pytest.mark.parametrize("key", [KEY, "hf_abcdefghijklmnopqrst", "AKIAIOSFODNN7EXAMPLE", "MY KEY", "", "A" * 40])
def test_a_key_in_the_config_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(UserError, match="is it the key itself") as caught:
        teacher("http://127.0.0.1:9/v1", api_key_env=key)
    assert not key or key not in str(caught.value)
    assert caught.value.code == CONFIG


@pytest.mark.parametrize("value", ["", "  ", "two words", "naïve"])
def test_a_variable_without_a_usable_key_is_found_at_once(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TEACHER_KEY", value)
    with pytest.raises(UserError, match="holds no key") as caught:
        teacher("http://127.0.0.1:9/v1", api_key_env="TEACHER_KEY")
    assert caught.value.value == "TEACHER_KEY"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://api.deepseek.com/v1", "https://api.deepseek.com/v1/chat/completions"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1/chat/completions"),
        ("http://[::1]:8000/v1/chat/completions", "http://[::1]:8000/v1/chat/completions"),
    ],
)
def test_addresses(url: str, address: str) -> None:
    assert endpoint(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "http://api.deepseek.com/v1",
        "http://10.0.0.1/v1",
        "http://localhost.evil.com/v1",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "api.deepseek.com/v1",
        "https://",
        "https://[bad/v1",
        "https://host:port/v1",
        "",
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(UserError, match=r"teacher\.url"):
        endpoint(url)


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match="credentials") as caught:
        endpoint("https://me:hunter2@host/v1")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "text", "reason"),
    [
        (completion("8"), "8", "stop"),
        (completion("cut", "length"), "cut", "length"),
        (completion(None, "content_filter"), "", "content_filter"),
        (completion("8", None), "8", "unknown"),
        (completion("8", reasoning_content="3 plus 5"), "<think>3 plus 5</think>\n8", "stop"),
        (completion("8", reasoning="3 plus 5"), "<think>3 plus 5</think>\n8", "stop"),
        (completion("", "length", reasoning_content="3 plus"), "<think>3 plus", "length"),
    ],
)
def test_replies(body: bytes, text: str, reason: str) -> None:
    assert read_answer(body) == Answer(text, reason, 5, 7, model="big", system_fingerprint="fp_1")


@pytest.mark.parametrize("usage", ["{}", "null", "[]", '{"prompt_tokens": null}'])
def test_a_reply_without_usage(usage: str) -> None:
    body = '{"choices": [{"message": {"content": "8"}}], "usage": ' + usage + "}"
    assert read_answer(body.encode()) == Answer("8", "unknown", prompt_tokens=0, completion_tokens=0)


def test_half_a_surrogate_pair_is_no_text() -> None:
    assert read_answer(completion("a\ud800b")).text == "a?b"


@pytest.mark.parametrize("usage", ["Infinity", '"many"', "[1]"])
def test_a_reply_with_senseless_usage_is_no_reply(usage: str) -> None:
    body = '{"choices": [{"message": {"content": "8"}}], "usage": {"prompt_tokens": ' + usage + "}}"
    with pytest.raises(Failure, match="no chat completion"):
        read_answer(body.encode())


@pytest.mark.parametrize(
    ("value", "seconds"), [("3", 3.0), ("0.5", 0.5), ("soon", 0.0), ("", 0.0), ("-3", 0.0), ("3 days", 0.0)]
)
def test_retry_after_values(value: str, seconds: float) -> None:
    headers = Message()
    headers["Retry-After"] = value
    assert retry_after(headers) == seconds


def test_retry_after_a_date() -> None:
    headers = Message()
    headers["Retry-After"] = formatdate(time.time() + 60, usegmt=True)
    assert 50 < retry_after(headers) <= 60


def test_backoff_doubles_within_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r1.teacher.openai.FIRST_WAIT_S", 0.5)
    for attempt, low in enumerate((0.25, 0.5, 1.0, 2.0)):
        waits = {backoff(attempt, 0.0, 100.0, seed) for seed in range(50)}
        assert low <= min(waits) < max(waits) <= 2 * low
    assert backoff(0, 7.0, 100.0, 0) == 7.0
    assert backoff(0, 700.0, 100.0, 0) == 100.0
    assert backoff(10_000, 0.0, 100.0, 0) == 100.0


def test_a_body_without_end_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_BYTES > 1 << 24
    monkeypatch.setattr("r1.teacher.api.openai_response.MAX_BYTES", 1000)
    server.otherwise = reply_with(b"x" * 200_000)
    assert "more than 1000 bytes" in refused(server, max_retries=0).hint
