"""The endpoint teacher against a local server that misbehaves on purpose."""

from __future__ import annotations

import math
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
from replies import NO_KNOBS, ask_all, replies

from r1.core.errors import CONFIG, MODEL, Interrupted, UserError
from r1.data.base import Row
from r1.rollout.base import no_op
from r1.teacher.api.openai_response import MAX_BYTES, MAX_TOKENS, read_answer, retry_after
from r1.teacher.base import Answer, Reply, content_key, questions, sample_seed
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
    **others: Any,
) -> OpenAI:
    knobs = {**NO_KNOBS, "temperature": 0.6, "requests_per_minute": None, "tokens_per_minute": None, **others}
    return OpenAI(
        url=url,
        model="big",
        api_key_env=api_key_env,
        max_completion_length=32,
        concurrency=concurrency,
        timeout_s=timeout_s,
        max_retries=max_retries,
        max_failures=max_failures,
        **knobs,
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


def test_answers_are_in_order_and_each_request_has_its_own_seed(server: Server) -> None:
    answers = ask_all(teacher(server.url), ROWS, 2, seed=3)
    expected = [[f"{p} {sample_seed(3, p, k) % 2**31}" for k in (0, 1)] for p in (row["prompt"] for row in ROWS)]
    assert [[answer.text for answer in group] for group in answers] == expected
    assert answers[0][0] == Answer(expected[0][0], "stop", 5, 7, model="big", system_fingerprint="fp_1")
    assert answers == ask_all(teacher(server.url, concurrency=1), ROWS, 2, seed=3)
    request, body = server.requests[0], server.requests[0].json
    assert (request.path, request.headers["Authorization"]) == ("/v1/chat/completions", None)
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("big", 0.6, 32)
    assert body["messages"][0]["role"] == "user"


def test_request_has_the_knobs_that_are_set_and_no_other(server: Server) -> None:
    ask_all(teacher(server.url), ROWS[:1], 1, seed=0)
    knobs = {
        "top_p": 0.95,
        "top_k": 0,
        "stop": ["Q:"],
        "extra_body": {"reasoning_effort": "high"},
        "system": "Be brief.",
    }
    ask_all(teacher(server.url, temperature=None, **knobs), ROWS[:1], 1, seed=0)
    plain, full = (request.json for request in server.requests)
    assert plain.keys() == {"model", "messages", "temperature", "max_tokens", "seed"}
    assert full.keys() == plain.keys() - {"temperature"} | {"top_p", "top_k", "stop", "reasoning_effort"}
    assert (full["top_k"], full["stop"], full["reasoning_effort"]) == (0, ["Q:"], "high")
    assert full["messages"] == [{"role": "system", "content": "Be brief."}, *plain["messages"]]


def test_system_message_of_a_row_wins_over_the_teachers(server: Server) -> None:
    ask_all(teacher(server.url, system="Be brief."), [{"prompt": "1+1=?", "system": "Be long."}], 1, seed=0)
    assert [m["content"] for m in server.requests[0].json["messages"]] == ["Be long.", "1+1=?"]


@pytest.mark.parametrize(
    ("name", "hint"), [("top_p", "teacher.top_p"), ("max_tokens", "teacher.max_completion_length"), ("n", "one answer")]
)
def test_extra_body_does_not_set_what_has_a_knob_or_changes_the_reply(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"r1 sets the field `{name}`") as caught:
        teacher("http://127.0.0.1:9/v1", extra_body={name: 2})
    assert caught.value.key == f".extra_body.{name}"
    assert hint in caught.value.hint


def test_knobs_are_part_of_an_answers_key_and_those_that_are_not_set_are_not() -> None:
    def key(**knobs: Any) -> str:
        return content_key(teacher("http://127.0.0.1:9/v1", **knobs).identity(ROWS[0]))

    changes: list[dict[str, Any]] = [
        {},
        {"temperature": 0.0},
        {"temperature": None},
        {"top_p": 1.0},
        {"top_k": 0},
        {"stop": ["x"]},
        {"system": "Be brief."},
        {"extra_body": {"reasoning_effort": "high"}},
        {"extra_body": {"api_key": "sk-one"}},
        {"extra_body": {"api_key": "sk-two"}},
    ]
    assert len({key(**knobs) for knobs in changes}) == len(changes)
    before = {"teacher": "openai", "url": "http://127.0.0.1:9/v1/chat/completions", "model": "big", "temperature": 0.6}
    assert key() == content_key(before | {"max_tokens": 32, "question": ROWS[0]["prompt"]})


def test_concurrency_bounds_requests_in_flight(server: Server) -> None:
    in_flight, most = [0], [0]

    def slow(handler: Handler, body: dict[str, Any]) -> Any:
        with server.lock:
            in_flight[0] += 1
            most[0] = max(most[0], in_flight[0])
        time.sleep(0.03)
        with server.lock:
            in_flight[0] -= 1
        return say(handler, body)

    server.otherwise = slow
    ask_all(teacher(server.url, concurrency=3), ROWS, 3, seed=0)
    assert 2 <= most[0] <= 3


def test_no_questions_send_no_requests() -> None:
    unreachable = teacher("http://127.0.0.1:9/v1")
    assert ask_all(unreachable, [], 2, seed=0) == []
    assert ask_all(unreachable, ROWS[:2], 0, seed=0) == [[], []]


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
def test_transient_failure_is_retried_with_the_same_seed(server: Server, failure: Responder) -> None:
    server.script = [failure, failure]
    (answers,) = ask_all(teacher(server.url), ROWS[:1], 1, seed=0)
    assert answers[0].text.startswith("0+5=? ")
    assert len(server.requests) == 3
    assert len({request.json["seed"] for request in server.requests}) == 1


def test_max_retries_bounds_attempts(server: Server) -> None:
    server.otherwise = refuse(503, "overloaded")
    error = refused(server, max_retries=2)
    assert "3 attempts" in error.message
    assert "HTTP 503 overloaded" in error.hint
    assert len(server.requests) == 3


def test_retry_after_header_delays_the_next_attempt(server: Server) -> None:
    server.script = [refuse(429, Retry_After="0.4"), refuse(503, Retry_After="0.4")]
    ask_all(teacher(server.url), ROWS[:1], 1, seed=0)
    first, second, third = (request.time for request in server.requests)
    assert min(second - first, third - second) >= 0.4


def test_retry_wait_is_at_most_timeout_s(server: Server) -> None:
    server.script = [refuse(429, Retry_After="3600")]
    started = time.monotonic()
    ask_all(teacher(server.url, timeout_s=0.3), ROWS[:1], 1, seed=0)
    assert 0.3 <= time.monotonic() - started < 5


@pytest.mark.parametrize("stuck", [hang, drip, drip_an_error])
def test_hanging_server_times_out_over_the_total_request(server: Server, stuck: Responder) -> None:
    server.otherwise = stuck
    started = time.monotonic()
    error = refused(server, timeout_s=0.2, max_retries=1)
    assert "no answer within 0.2 s" in error.hint
    assert time.monotonic() - started < 5
    assert len(server.requests) == 2


def test_closed_port_is_reported(server: Server) -> None:
    server.server_close()
    assert "refused" in refused(server).hint


def collect_until_error(
    openai: OpenAI, num_samples: int, check_for_stop: Callable[[], None] = no_op
) -> tuple[list[Reply], Exception]:
    """The replies to four questions, and the error after them."""
    received = []
    try:
        for batch in openai.answer(questions(ROWS, num_samples, seed=0), check_for_stop):
            received += batch
    except (UserError, Interrupted) as error:
        return received, error
    raise AssertionError("no error")


def failure_kinds(server: Server, **knobs: Any) -> list[list[str]]:
    """Kinds of failures of four questions, none of which is an error."""
    received = replies(teacher(server.url, max_failures=4, **knobs), questions(ROWS, 1, seed=0))
    assert [reply.answer for reply in received] == [None] * 4
    return [[failure.kind for failure in reply.failures] for reply in received]


def test_failures_up_to_max_failures_are_replies_without_answer(server: Server) -> None:
    server.otherwise = refuse(503)
    assert failure_kinds(server, max_retries=1) == [["http_503", "http_503"]] * 4
    assert len(server.requests) == 8
    server.otherwise = refuse(400, "too long")
    assert failure_kinds(server, max_retries=1) == [["http_400"]] * 4
    server.otherwise = reply_with(b"")
    assert failure_kinds(server, max_retries=0) == [["unreadable"]] * 4
    server.otherwise = hang_up
    assert failure_kinds(server, max_retries=0) == [["network"]] * 4
    server.otherwise = hang
    assert failure_kinds(server, max_retries=0, timeout_s=0.1) == [["timeout"]] * 4


def test_one_failure_more_than_max_failures_is_an_error(server: Server) -> None:
    server.script = [say, refuse(400), refuse(400), say, refuse(400, "the third")]
    received, error = collect_until_error(teacher(server.url, concurrency=1, max_failures=2), 3)
    assert [reply.answer is None for reply in received] == [False, True, True, False, True]
    assert isinstance(error, UserError)
    assert error.message == "the teacher refused: HTTP 400 the third"
    assert error.expected == "teacher.max_failures=2 questions without an answer"


@pytest.mark.parametrize("status", [401, 402, 403, 404, 302])
def test_fatal_status_is_an_error_despite_max_failures(server: Server, status: int) -> None:
    server.script = [say, refuse(status)]
    received, error = collect_until_error(teacher(server.url, concurrency=1, max_failures=99), 1)
    assert f"HTTP {status}" in str(error)
    assert [reply.answer is None for reply in received] == [False, True]
    assert len(server.requests) == 2


def test_answers_in_flight_are_yielded_after_a_fatal_error(server: Server) -> None:
    def slow(handler: Handler, body: dict[str, Any]) -> Any:
        time.sleep(0.1)
        return say(handler, body)

    server.script = [slow, hang, refuse(401)]
    server.otherwise = say
    received, error = collect_until_error(teacher(server.url, concurrency=3), 1)
    assert "HTTP 401" in str(error)
    assert sum(reply.answer is not None for reply in received) == 1
    assert len(server.requests) == 3


def test_stop_yields_answers_of_the_grace_period_and_sends_nothing_more(server: Server) -> None:
    def slow(handler: Handler, body: dict[str, Any]) -> Any:
        time.sleep(0.15)
        return say(handler, body)

    def check_for_stop() -> None:
        if len(server.requests) == 3:
            raise Interrupted(15)

    server.script = [hang, slow, hang]
    started = time.monotonic()
    received, error = collect_until_error(teacher(server.url, concurrency=3, timeout_s=60), 2, check_for_stop)
    assert isinstance(error, Interrupted)
    assert time.monotonic() - started < 1
    assert [reply.question.row for reply in received if reply.answer] == [reply.question.row for reply in received]
    assert len(received) == 1
    server.released.set()
    time.sleep(0.1)
    assert len(server.requests) == 3  # no request after the end


def test_threads_are_daemons(server: Server) -> None:
    server.otherwise = hang
    arriving = teacher(server.url).answer(questions(ROWS, 1, seed=0), lambda: raise_if(len(server.requests) == 4))
    with pytest.raises(Interrupted):
        next(arriving)
    alive = [thread for thread in threading.enumerate() if thread.name == "teacher"]
    assert len(alive) == 4
    assert all(thread.daemon for thread in alive)


def raise_if(condition: bool) -> None:
    if condition:
        raise Interrupted(15)


def test_requests_per_minute_spaces_requests(server: Server) -> None:
    ask_all(teacher(server.url, concurrency=8, requests_per_minute=1200), ROWS, 2, seed=0)  # one every 50 ms
    times = sorted(request.time for request in server.requests)
    assert len(times) == 8
    assert times[-1] - times[0] >= 7 * 0.05 - 0.02
    assert all(b - a > 0.02 for a, b in pairwise(times))


def test_tokens_per_minute_delays_requests(server: Server) -> None:
    ask_all(teacher(server.url, concurrency=1, tokens_per_minute=7200), ROWS, 1, seed=0)  # 12 tokens every 100 ms
    times = [request.time for request in server.requests]
    assert all(b - a >= 0.1 for a, b in pairwise(times))
    server.otherwise = reply_with(completion("x" * 43).replace(b'"usage"', b'"nothing"'))  # estimate: (5 + 43) / 4
    server.requests.clear()
    ask_all(teacher(server.url, concurrency=1, tokens_per_minute=7200), ROWS[:2], 1, seed=0)
    first, second = (request.time for request in server.requests)
    assert second - first >= 0.1


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
def test_permanent_failure_stops_all_requests_at_once(server: Server, status: int) -> None:
    server.otherwise = refuse(status, "no such thing")
    with pytest.raises(UserError, match=f"HTTP {status} no such thing") as caught:
        ask_all(teacher(server.url, concurrency=2), ROWS * 20, 1, seed=0)
    assert caught.value.code == MODEL
    time.sleep(0.05)
    assert len(server.requests) <= 6  # of 80


def test_fatal_error_does_not_wait_for_slow_or_delayed_requests(server: Server) -> None:
    server.script = [hang, refuse(503, Retry_After="1"), refuse(401)]
    started = time.monotonic()
    with pytest.raises(UserError, match="HTTP 401"):
        ask_all(teacher(server.url, concurrency=3, timeout_s=5), ROWS[:3], 1, seed=0)
    assert time.monotonic() - started < 1
    server.released.set()
    time.sleep(1.1)
    assert len(server.requests) == 3  # no retry after the end


def test_key_is_sent_in_the_header_only(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY + "\n")
    openai = teacher(server.url, api_key_env="TEACHER_KEY")
    ask_all(openai, ROWS[:1], 1, seed=0)
    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(vars(openai))


def test_key_in_an_answer_is_redacted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    server.otherwise = reply_with(completion(f"your key is {KEY}", KEY, model=KEY))
    ((answer,),) = ask_all(teacher(server.url, api_key_env="TEACHER_KEY"), ROWS[:1], 1, seed=0)
    assert answer == Answer("your key is ***", "***", 5, 7, model="***", system_fingerprint="fp_1")


@pytest.mark.parametrize("reply", [refuse(401, f"bad key {KEY}"), reply_with(KEY.encode()), refuse(500, KEY)])
def test_key_in_an_error_is_redacted(server: Server, monkeypatch: pytest.MonkeyPatch, reply: Responder) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    server.otherwise = reply
    error = refused(server, api_key_env="TEACHER_KEY", max_retries=0)
    assert KEY not in str(error)
    assert "***" in str(error)


def test_error_text_is_one_short_line_without_control_characters(server: Server) -> None:
    server.otherwise = refuse(400, "a\x1b[2Jb\nc" + "x" * 2000)
    error = refused(server)
    assert "\x1b" not in str(error)
    assert "a [2Jb c" in error.message
    assert len(error.message) < 400


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(server: Server, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with Server() as other:
        server.otherwise = refuse(status, Location=other.url)
        error = refused(server, api_key_env="TEACHER_KEY")
        assert other.url in error.message
        assert "redirects are not followed" in error.hint
        assert other.requests == []
    assert len(server.requests) == 1


def test_http_requests_ignore_proxies(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert len(ask_all(teacher(server.url), ROWS[:1], 1, seed=0)[0]) == 1


@pytest.mark.parametrize("key", [KEY, "hf_abcdefghijklmnopqrst", "AKIAIOSFODNN7EXAMPLE", "MY KEY", "", "A" * 40])
def test_key_in_the_config_is_rejected_and_not_repeated(key: str) -> None:
    with pytest.raises(UserError, match="is it the key itself") as caught:
        teacher("http://127.0.0.1:9/v1", api_key_env=key)
    assert not key or key not in str(caught.value)
    assert caught.value.code == CONFIG


@pytest.mark.parametrize("value", ["", "  ", "two words", "naïve"])
def test_variable_without_usable_key_is_rejected_at_construction(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
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
def test_endpoint_appends_the_path_once(url: str, address: str) -> None:
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
def test_endpoint_rejects_unencrypted_or_malformed_addresses(url: str) -> None:
    with pytest.raises(UserError, match=r"teacher\.url"):
        endpoint(url)


def test_credentials_in_an_address_are_rejected_and_not_repeated() -> None:
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
def test_read_answer_merges_reasoning_and_content(body: bytes, text: str, reason: str) -> None:
    assert read_answer(body) == Answer(text, reason, 5, 7, model="big", system_fingerprint="fp_1")


@pytest.mark.parametrize("usage", ["{}", "null", "[]", '{"prompt_tokens": null}'])
def test_read_answer_without_usage_counts_zero_tokens(usage: str) -> None:
    body = '{"choices": [{"message": {"content": "8"}}], "usage": ' + usage + "}"
    assert read_answer(body.encode()) == Answer("8", "unknown", prompt_tokens=0, completion_tokens=0)


def test_read_answer_replaces_half_of_a_surrogate_pair() -> None:
    assert read_answer(completion("a\ud800b")).text == "a?b"


@pytest.mark.parametrize(
    "usage", ["Infinity", "-Infinity", "NaN", "1e308", "1" + "0" * 400, "-3", "true", '"7"', '"many"', "[1]", "{}"]
)
def test_read_answer_with_impossible_usage_counts_zero_tokens(usage: str) -> None:
    body = '{"choices": [{"message": {"content": "8"}}], "usage": {"prompt_tokens": ' + usage + "}}"
    assert read_answer(body.encode()) == Answer("8", "unknown", prompt_tokens=0, completion_tokens=0)


def test_ignored_token_count_is_printed_once(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    lie = completion("8").replace(b'"prompt_tokens": 5', b'"prompt_tokens": 1e308')
    server.otherwise = reply_with(lie)
    ask_all(teacher(server.url), ROWS[:2], 1, seed=0)
    lines = " ".join("".join(capsys.readouterr()).split())
    assert lines.count("prompt_tokens=1e+308 is no number of tokens from 0 to 10,000,000; it counts as unknown") == 1


def test_token_limit_waits_no_longer_than_an_answers_length_allows(server: Server) -> None:
    lie = completion("x" * 43).replace(b'"prompt_tokens": 5', b'"prompt_tokens": %d' % MAX_TOKENS)
    server.otherwise = reply_with(lie)
    started = time.monotonic()  # at most 4 * (5 + 43) + 32 tokens: 0.13 s instead of 100
    ask_all(teacher(server.url, concurrency=1, tokens_per_minute=100_000), ROWS[:2], 1, seed=0)
    assert time.monotonic() - started < 5


def test_first_failure_of_a_kind_is_printed_at_once(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.script = [refuse(503, "overloaded"), refuse(503), refuse(429, "slow down")]
    ask_all(teacher(server.url, max_retries=5), ROWS[:1], 1, seed=0)
    lines = " ".join("".join(capsys.readouterr()).split())
    assert lines.count("HTTP 503") == lines.count("HTTP 429") == 1
    assert "HTTP 503 overloaded; at most 5 more attempts" in lines


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("soon", 0.0),
        ("", 0.0),
        ("-3", 0.0),
        ("3 days", 0.0),
        ("1" * 400, math.inf),
        ("Fri, 31 Dec 99999 23:59:59 GMT", 0.0),
    ],
)
def test_retry_after_parses_seconds(value: str, seconds: float) -> None:
    headers = Message()
    headers["Retry-After"] = value
    assert retry_after(headers) == seconds


def test_retry_after_parses_a_date() -> None:
    headers = Message()
    headers["Retry-After"] = formatdate(time.time() + 60, usegmt=True)
    assert 50 < retry_after(headers) <= 60


def test_backoff_doubles_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r1.teacher.openai.FIRST_WAIT_S", 0.5)
    for attempt, low in enumerate((0.25, 0.5, 1.0, 2.0)):
        waits = {backoff(attempt, 0.0, 100.0, seed) for seed in range(50)}
        assert low <= min(waits) < max(waits) <= 2 * low
    assert backoff(0, 7.0, 100.0, 0) == 7.0
    assert backoff(0, 700.0, 100.0, 0) == 100.0
    assert backoff(10_000, 0.0, 100.0, 0) == 100.0


def test_body_longer_than_max_bytes_fails(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_BYTES > 1 << 24
    monkeypatch.setattr("r1.teacher.openai.MAX_BYTES", 1000)
    server.otherwise = reply_with(b"x" * 200_000)
    assert "more than 1000 bytes" in refused(server, max_retries=0).hint
