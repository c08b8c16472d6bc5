"""A teacher behind any OpenAI-compatible ``/chat/completions`` endpoint; the standard library is enough.

The key is never stored, logged or shown: the config holds the name of an environment variable. It travels
over https or to this machine only, and follows no redirect.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from http.client import HTTPException
from ipaddress import ip_address
from threading import Event
from typing import Annotated
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from annotated_types import Ge, Gt

from r1.data.base import Row
from r1.errors import MODEL, UserError
from r1.teacher.base import Answer, sample_seed
from r1.teacher.wire import Failure, excerpt, read_answer, read_body, retry_after

PATH = "/chat/completions"
FIRST_WAIT_S = 0.5  # doubled after every failure
NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
AGAIN = {408, 425, 429}  # and 5xx
ADVICE = {
    400: "the endpoint does not take the request: check teacher.model, temperature, max_completion_length",
    401: "the endpoint does not accept the key: check the variable that teacher.api_key_env names",
    402: "the account has no credit left",
    403: "the key may not use this model",
    404: "no such model, or no chat completions at this address: check teacher.url and teacher.model",
}


class OpenAI:
    """Asks ``model`` at ``url``, one request per answer; gives up at the first error that no retry can mend.

    Args:
        url: the base address, e.g. ``https://api.deepseek.com/v1``; https, or http to this machine.
        api_key_env: name of the environment variable that holds the key; null: no key.
        max_completion_length: tokens, sent as ``max_tokens``.
        concurrency: requests in flight at once.
        timeout_s: seconds that one request may take; no wait between two attempts is longer either.
        max_retries: further attempts after 408, 425, 429, 5xx, a timeout, or an answer that cannot be read.
    """

    def __init__(
        self,
        *,
        url: str,
        model: str,
        api_key_env: str | None,
        temperature: Annotated[float, Ge(0)],
        max_completion_length: Annotated[int, Ge(1)],
        concurrency: Annotated[int, Ge(1)],
        timeout_s: Annotated[float, Gt(0)],
        max_retries: Annotated[int, Ge(0)],
    ) -> None:
        self.name, self.endpoint = model, endpoint(url)
        self.api_key_env = _checked_name(api_key_env)
        _key(self.api_key_env)  # an unset variable is found now, not at the first question
        self.temperature, self.max_completion_length = temperature, max_completion_length
        self.concurrency, self.timeout_s, self.max_retries = concurrency, timeout_s, max_retries
        self._opener = _opener(self.endpoint)

    def answer(self, rows: list[Row], num_samples: int, seed: int) -> list[list[Answer]]:
        """Raises: UserError: the endpoint refuses, or fails ``max_retries + 1`` times in a row."""
        stop = Event()
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="teacher")
        try:
            groups = [
                [
                    pool.submit(self._ask, row["prompt"], sample_seed(seed, row["prompt"], k), stop)
                    for k in range(num_samples)
                ]
                for row in rows
            ]
            return _gather(groups)
        finally:
            stop.set()  # wakes the threads that wait for another attempt
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, prompt: str, seed: int, stop: Event) -> Answer:
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.temperature,
            "max_tokens": self.max_completion_length,
            "seed": seed % 2**31,  # some endpoints take 32 bits only
        }
        reason = ""
        for attempt in range(self.max_retries + 1):
            try:
                return read_answer(self._post(json.dumps(body).encode()))
            except Failure as failure:
                reason = str(failure)
                pause = backoff(attempt, failure.retry_after, self.timeout_s, seed)
            if attempt < self.max_retries and stop.wait(pause):
                break
        raise UserError(
            f"the teacher did not answer in {self.max_retries + 1} attempts",
            where="teacher.url",
            given=self.endpoint,
            do=f"the last attempt: {_shown(reason, _key(self.api_key_env))}",
            code=MODEL,
        )

    def _post(self, body: bytes) -> bytes:
        request = Request(self.endpoint, data=body, headers={"Content-Type": "application/json"})
        key = _key(self.api_key_env)
        if key:
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        deadline = time.monotonic() + self.timeout_s
        try:
            with self._opener.open(request, timeout=self.timeout_s) as response:
                return read_body(response, deadline)
        except HTTPError as error:
            with error:
                raise self._refusal(error, key) from None
        except TimeoutError:
            raise Failure(f"no answer within {self.timeout_s:g} s") from None
        except (OSError, HTTPException) as error:  # refused, reset, half a header
            raise Failure(str(error) or type(error).__name__) from None

    def _refusal(self, error: HTTPError, key: str) -> Failure | UserError:
        said = _shown(excerpt(error), key)
        if error.code in AGAIN or error.code >= 500:
            return Failure(f"HTTP {error.code} {said}", retry_after(error.headers))
        advice = ADVICE.get(error.code, "")
        if 300 <= error.code < 400:
            moved = _shown(error.headers.get("Location", "elsewhere"), key)
            advice = f"redirects are not followed: set teacher.url to where it moved ({moved})"
        return UserError(
            f"the teacher refused: HTTP {error.code} {said}".strip(),
            where="teacher",
            given=self.endpoint,
            do=advice,
            code=MODEL,
        )


def endpoint(url: str) -> str:
    """The address that requests go to.

    Raises:
        UserError: the address is neither https nor this machine, or carries credentials.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if parts.username or parts.password:
        do = "put the key in an environment variable and its name in teacher.api_key_env"
        raise UserError("an address must not carry credentials", where="teacher.url", do=do)
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        allowed = "https://..., or http://127.0.0.1:PORT/..."
        raise UserError("questions and keys travel encrypted", where="teacher.url", given=url, allowed=allowed)
    return url.rstrip("/").removesuffix(PATH) + PATH


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _checked_name(name: str | None) -> str | None:
    """Refuse what looks like a key; the value itself is not repeated."""
    if name is not None and not (NAME.fullmatch(name) and ("_" in name or len(name) < 16)):
        raise UserError(
            "this is no name of an environment variable; is it the key itself?",
            where="teacher.api_key_env",
            allowed="a name in capitals, such as OPENAI_API_KEY; the key stays in the environment",
            do="if it is a key that was typed on a command line, revoke it",
        )
    return name


def _key(name: str | None) -> str:
    key = os.environ.get(name, "").strip() if name else ""
    if name and not (key.isascii() and key.isprintable() and key and " " not in key):
        do = f"export {name}=..."
        raise UserError("this environment variable holds no key", where="teacher.api_key_env", given=name, do=do)
    return key


def _opener(address: str) -> OpenerDirector:
    """No redirects, and the environment's proxies for https only: plain text stays on this machine."""
    opener = OpenerDirector()
    plain = address.startswith("http:")
    transport = [HTTPHandler()] if plain else [HTTPSHandler(), ProxyHandler()]
    for handler in (*transport, HTTPDefaultErrorHandler(), HTTPErrorProcessor()):
        opener.add_handler(handler)
    return opener


def _gather(groups: list[list[Future[Answer]]]) -> list[list[Answer]]:
    """All results, or at once the first error that any of them met."""
    done, _ = wait([future for group in groups for future in group], return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()
    return [[future.result() for future in group] for group in groups]


def backoff(attempt: int, asked: float, limit: float, seed: int) -> float:
    """Seconds until the next attempt: doubling with jitter, at least what was asked, at most ``limit``."""
    jitter = random.Random(f"{seed}/{attempt}").uniform(0.5, 1.0)
    return min(limit, max(asked, FIRST_WAIT_S * 2.0 ** min(attempt, 20) * jitter))


def _shown(text: str, key: str) -> str:
    """Text from outside, fit for a terminal: without the key, on one line, printable, short."""
    hidden = text.replace(key, "***") if key else text
    return "".join(c if c.isprintable() else " " for c in hidden)[:300]
