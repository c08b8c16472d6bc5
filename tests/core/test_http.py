"""One deadline for a request, against servers that send something now and then for ever."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException

import pytest

from r1.core.http import Exchange, connection_to

Talk = Callable[[socket.socket, threading.Event], None]
START = b"HTTP/1.1 200 OK\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"


def repeat(start: bytes, unit: bytes, seconds: float = 0.02) -> Talk:
    """Sends ``start``, then ``unit`` again and again, a byte at a time or, without a pause, at once."""

    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(start)
        position = 0
        while not over.wait(seconds):
            connection.sendall(unit[position : position + 1] if seconds else unit * 10)
            position = (position + 1) % len(unit)

    return talk


DRIPS = {
    "nothing": repeat(b"", b"\r"),
    "status line": repeat(b"", b"HTTP/1.1 200 " + b"x" * 100),
    "header": repeat(START, b"X-A: a\r\n"),
    "one long header": repeat(START + b"X-A: ", b"a"),
    "continue": repeat(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.0),
    "slow continue": repeat(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers of continue": repeat(b"HTTP/1.1 100 Continue\r\n", b"X-A: a\r\n"),
    "chunk size": repeat(CHUNKED, b"0"),
    "chunk extension": repeat(CHUNKED + b"1;", b"a"),
    "chunks": repeat(CHUNKED, b"1\r\n \r\n"),
    "trailers": repeat(CHUNKED + b"2\r\n{}\r\n0\r\n", b"X: y\r\n"),
    "fast trailers": repeat(CHUNKED + b"2\r\n{}\r\n0\r\n", b"X: y\r\n", 0.0),
    "body": repeat(START + b"Content-Length: 100000\r\n\r\n", b" "),
    "body without end": repeat(START + b"\r\n", b" "),
    "body of an error": repeat(b"HTTP/1.1 500 No\r\nContent-Length: 100000\r\n\r\n", b" "),
}


@contextmanager
def server(talk: Talk) -> Iterator[str]:
    over = threading.Event()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=answer, args=(connection,), daemon=True))
            threads[-1].start()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            talk(connection, over)

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(5)


@pytest.mark.parametrize("drip", DRIPS)
def test_request_ends_at_its_deadline_whatever_the_server_sends(drip: str) -> None:
    with server(DRIPS[drip]) as url:
        started = time.monotonic()
        with pytest.raises((TimeoutError, HTTPException)):
            Exchange(url, max_bytes=1 << 20).run("POST", b"{}", {}, 0.3)
        assert time.monotonic() - started < 1.5
        ended = time.monotonic() + 5
        while any(thread.name == "http" for thread in threading.enumerate()):  # no thread and no socket stays behind
            assert time.monotonic() < ended
            time.sleep(0.01)


HANDSHAKE = b"\x16\x03\x03\x40\x00"  # a TLS record of 16,384 bytes, of which few ever come


@pytest.mark.parametrize("talk", [repeat(HANDSHAKE, b"\x02"), repeat(b"", b"\x16")], ids=["record", "header"])
def test_request_ends_at_its_deadline_in_a_tls_handshake(talk: Talk) -> None:
    with server(talk) as url:
        started = time.monotonic()
        with pytest.raises((OSError, HTTPException)):
            Exchange(url.replace("http:", "https:"), max_bytes=1 << 20).run("POST", b"{}", {}, 0.3)
        assert time.monotonic() - started < 1.5


@pytest.mark.parametrize(
    "talk",
    [
        *(DRIPS["nothing"], DRIPS["status line"], DRIPS["header"], repeat(b"", b"HTTP/1.1 100 Continue\r\n\r\n")),
        *(DRIPS["one long header"], repeat(b"HTTP/1.1 407 No\r\n", b"X-A: a\r\n")),
        repeat(START + b"\r\n" + HANDSHAKE, b"\x02"),  # the handshake with the host, behind the proxy
    ],
)
def test_request_ends_at_its_deadline_in_a_proxys_connect(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(talk) as proxy:
        monkeypatch.setenv("https_proxy", proxy)
        monkeypatch.setenv("no_proxy", "")
        started = time.monotonic()
        with pytest.raises((OSError, HTTPException)):
            Exchange("https://api.test/v1", max_bytes=1 << 20, proxies=True).run("POST", b"{}", {}, 0.3)
        assert time.monotonic() - started < 1.5


def test_response_has_status_headers_and_body_of_at_most_max_bytes() -> None:
    def answer(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 404 No\r\nRetry-After: 3\r\nContent-Length: 5\r\n\r\nhello")

    with server(answer) as url:
        response = Exchange(url, max_bytes=3).run("GET", None, {}, 5.0)
    assert (response.status, response.headers["Retry-After"], response.body) == (404, "3", b"hell")


@pytest.mark.parametrize(
    "text", [b"HTTP/1.1 abc\r\n\r\n", b"\x00" * 100, CHUNKED + b"-5\r\n", CHUNKED + b"zz\r\n", b"x" * 70_000]
)
def test_malformed_response_raises_no_other_error(text: bytes) -> None:
    with server(lambda connection, over: connection.sendall(text)) as url, pytest.raises((OSError, HTTPException)):
        Exchange(url, max_bytes=3).run("GET", None, {}, 5.0)


def test_close_ends_a_request_from_another_thread() -> None:
    with server(DRIPS["nothing"]) as url:
        exchange = Exchange(url, max_bytes=3)
        threading.Timer(0.2, exchange.close).start()
        started = time.monotonic()
        with pytest.raises((OSError, HTTPException)):
            exchange.run("GET", None, {}, 20.0)
        assert time.monotonic() - started < 5


def test_connection_takes_the_proxy_of_the_environment_for_https_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:a%40b@127.0.0.1:3128")
    monkeypatch.setenv("no_proxy", "inside.test")
    connection, target = connection_to("https://api.test:8443/v1/chat?x=1", proxies=True)
    assert (connection.host, connection.port, target) == ("127.0.0.1", 3128, "/v1/chat?x=1")
    assert connection._tunnel_host == "api.test"  # type: ignore[attr-defined]
    assert connection._tunnel_headers["Proxy-Authorization"] == "Basic bWU6YUBi"  # type: ignore[attr-defined]
    for url in ("http://127.0.0.1:1/", "https://inside.test/"):
        assert connection_to(url, proxies=True)[0].host == url.split("/")[2].split(":")[0]
    assert connection_to("https://api.test/", proxies=False)[0].host == "api.test"
