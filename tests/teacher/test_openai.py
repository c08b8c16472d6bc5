"""The endpoint teacher against a server on this machine that misbehaves on purpose."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from email.message import Message
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from r1.data.base import Row
from r1.errors import CONFIG, MODEL, UserError
from r1.teacher.base import Answer, sample_seed
from r1.teacher.openai import OpenAI, backoff, endpoint
from r1.teacher.wire import MAX_BYTES, Failure, read_answer, retry_after

KEY = "sk-canary-0123456789abcdef"
ROWS: list[Row] = [{"prompt": f"{i}+5=?"} for i in range(4)]
Reply = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.seen)
            self.server.seen.append((self.path, self.headers, body, time.monotonic()))
        script = self.server.script
        (script[number] if number < len(script) else self.server.otherwise)(self, body)

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Follows ``script`` reply by reply, then says ``otherwise``; keeps what it was asked."""

    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Reply] = []
        self.otherwise: Reply = say
        self.seen: list[tuple[str, Message, dict[str, Any], float]] = []
        self.lock, self.released = threading.Lock(), threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that has hung up is part of the test

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


def completion(text: str | None, reason: str | None = "stop", **message: str) -> bytes:
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": reason}
    usage = {"prompt_tokens": 5, "completion_tokens": 7}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


def say(handler: Handler, body: dict[str, Any]) -> None:
    handler.send(200, completion(f"{body['messages'][0]['content']} {body['seed']}"))


def refuse(status: int, message: str = "no", **headers: str) -> Reply:
    error = json.dumps({"error": {"message": message}}).encode()
    return lambda handler, body: handler.send(status, error, **headers)


def garbage(text: bytes) -> Reply:
    return lambda handler, body: handler.send(200, text)


def half_a_body(handler: Handler, body: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(completion("x")[:20])


def hang_up(handler: Handler, body: dict[str, Any]) -> None:
    handler.connection.close()


def hang(handler: Handler, body: dict[str, Any]) -> None:
    handler.server.released.wait(10)


def drip(handler: Handler, body: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.released.wait(0.05):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def teacher(
    url: str,
    *,
    api_key_env: str | None = None,
    concurrency: int = 4,
    timeout_s: float = 5.0,
    max_retries: int = 2,
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
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r1.teacher.openai.FIRST_WAIT_S", 0.01)


def refused(server: Server, **knobs: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        teacher(server.url, **knobs).answer(ROWS[:1], 1, seed=0)
    assert caught.value.code == MODEL
    return caught.value


def test_answers_come_in_order_and_each_request_has_its_own_seed(server: Server) -> None:
    answers = teacher(server.url).answer(ROWS, 2, seed=3)
    expected = [[f"{p} {sample_seed(3, p, k) % 2**31}" for k in (0, 1)] for p in (row["prompt"] for row in ROWS)]
    assert [[answer.text for answer in group] for group in answers] == expected
    assert answers[0][0] == Answer(expected[0][0], "stop", prompt_tokens=5, completion_tokens=7)
    assert answers == teacher(server.url, concurrency=1).answer(ROWS, 2, seed=3)
    path, headers, body, _ = server.seen[0]
    assert (path, headers["Authorization"]) == ("/v1/chat/completions", None)
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("big", 0.6, 32)
    assert body["messages"][0]["role"] == "user"


def test_concurrency_bounds_the_requests_in_flight(server: Server) -> None:
    flying, most = [0], [0]

    def slow(handler: Handler, body: dict[str, Any]) -> None:
        with server.lock:
            flying[0] += 1
            most[0] = max(most[0], flying[0])
        time.sleep(0.03)
        with server.lock:
            flying[0] -= 1
        say(handler, body)

    server.otherwise = slow
    teacher(server.url, concurrency=3).answer(ROWS, 3, seed=0)
    assert 2 <= most[0] <= 3


def test_nothing_to_ask() -> None:
    nobody = teacher("http://127.0.0.1:9/v1")
    assert nobody.answer([], 2, seed=0) == []
    assert nobody.answer(ROWS[:2], 0, seed=0) == [[], []]


@pytest.mark.parametrize(
    "failure",
    [
        refuse(429),
        refuse(500),
        refuse(503),
        refuse(408),
        garbage(b"<html>busy</html>"),
        garbage(b""),
        garbage(b"[" * 200_000),
        garbage(b'{"choices": []}'),
        garbage(b'{"choices": [{"message": {"content": 5}}]}'),
        half_a_body,
        hang_up,
    ],
)
def test_what_may_pass_is_tried_again(server: Server, failure: Reply) -> None:
    server.script = [failure, failure]
    (answers,) = teacher(server.url).answer(ROWS[:1], 1, seed=0)
    assert answers[0].text.startswith("0+5=? ")
    assert len(server.seen) == 3
    assert len({body["seed"] for _, _, body, _ in server.seen}) == 1


def test_retries_are_bounded(server: Server) -> None:
    server.otherwise = refuse(503, "overloaded")
    error = refused(server, max_retries=2)
    assert "3 attempts" in error.what
    assert "HTTP 503 overloaded" in error.do
    assert len(server.seen) == 3


def test_retry_after_is_honoured(server: Server) -> None:
    server.script = [refuse(429, Retry_After="0.4"), refuse(503, Retry_After="0.4")]
    teacher(server.url).answer(ROWS[:1], 1, seed=0)
    first, second, third = (when for *_, when in server.seen)
    assert min(second - first, third - second) >= 0.4


def test_no_wait_is_longer_than_the_time_limit(server: Server) -> None:
    server.script = [refuse(429, Retry_After="3600")]
    started = time.monotonic()
    teacher(server.url, timeout_s=0.3).answer(ROWS[:1], 1, seed=0)
    assert 0.3 <= time.monotonic() - started < 5


@pytest.mark.parametrize("stuck", [hang, drip])
def test_a_server_that_hangs_is_given_up(server: Server, stuck: Reply) -> None:
    server.otherwise = stuck
    started = time.monotonic()
    error = refused(server, timeout_s=0.2, max_retries=1)
    assert "no answer within 0.2 s" in error.do
    assert time.monotonic() - started < 5
    assert len(server.seen) == 2


def test_a_closed_port(server: Server) -> None:
    server.server_close()
    assert "refused" in refused(server).do


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
def test_what_no_retry_can_mend_stops_everything_at_once(server: Server, status: int) -> None:
    server.otherwise = refuse(status, "no such thing")
    with pytest.raises(UserError, match=f"HTTP {status} no such thing") as caught:
        teacher(server.url, concurrency=2).answer(ROWS * 20, 1, seed=0)
    assert caught.value.code == MODEL
    time.sleep(0.05)
    assert len(server.seen) <= 6  # of 80


def test_the_first_refusal_does_not_wait_for_slow_or_waiting_requests(server: Server) -> None:
    server.script = [hang, refuse(503, Retry_After="1"), refuse(401)]
    started = time.monotonic()
    with pytest.raises(UserError, match="HTTP 401"):
        teacher(server.url, concurrency=3, timeout_s=5).answer(ROWS[:3], 1, seed=0)
    assert time.monotonic() - started < 1
    server.released.set()
    time.sleep(1.1)
    assert len(server.seen) == 3  # nor does anybody try again behind its back


def test_the_key_travels_in_the_header_and_nowhere_else(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY + "\n")
    asked = teacher(server.url, api_key_env="TEACHER_KEY")
    asked.answer(ROWS[:1], 1, seed=0)
    assert server.seen[0][1]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(vars(asked))


@pytest.mark.parametrize("reply", [refuse(401, f"bad key {KEY}"), garbage(KEY.encode()), refuse(500, KEY)])
def test_an_endpoint_that_echoes_the_key_cannot_make_it_show(
    server: Server, monkeypatch: pytest.MonkeyPatch, reply: Reply
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
    assert "a [2Jb c" in error.what
    assert len(error.what) < 400


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(server: Server, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with Server() as other:
        server.otherwise = refuse(status, Location=other.url)
        error = refused(server, api_key_env="TEACHER_KEY")
        assert other.url in error.do
        assert other.seen == []
    assert len(server.seen) == 1


def test_a_plain_request_ignores_proxies(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert len(teacher(server.url).answer(ROWS[:1], 1, seed=0)[0]) == 1


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
    assert caught.value.given == "TEACHER_KEY"


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
    assert read_answer(body) == Answer(text, reason, prompt_tokens=5, completion_tokens=7)


@pytest.mark.parametrize("usage", ["{}", "null", "[]", '{"prompt_tokens": null}'])
def test_a_reply_without_usage(usage: str) -> None:
    body = '{"choices": [{"message": {"content": "8"}}], "usage": ' + usage + "}"
    assert read_answer(body.encode()) == Answer("8", "unknown", prompt_tokens=0, completion_tokens=0)


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
    monkeypatch.setattr("r1.teacher.wire.MAX_BYTES", 1000)
    server.otherwise = garbage(b"x" * 200_000)
    assert "more than 1000 bytes" in refused(server, max_retries=0).do
