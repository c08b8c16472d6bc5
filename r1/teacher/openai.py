"""A teacher behind any OpenAI-compatible ``/chat/completions`` endpoint.

Own HTTP code (r1/core/http.py) rather than httpx, for two reasons: one deadline bounds the total request, however
slowly the server sends bytes; and the API key, which the config knows only by the name of an environment variable, can
appear in no log or error, follows no redirect, and leaves this machine over https only.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from http.client import HTTPException
from ipaddress import ip_address
from threading import Event, Lock
from typing import Annotated, Any, Unpack
from urllib.parse import urlsplit

from annotated_types import Ge, Interval, MinLen

from r1.core.console import console, status_line, strip_control_chars
from r1.core.errors import MODEL, UserError
from r1.core.http import MAX_TIMEOUT_S, Exchange, HttpResponse
from r1.core.secrets import redact
from r1.data.base import Row
from r1.data.conversation import messages_of, with_system
from r1.rollout.base import SamplingChanges, check_stop_list
from r1.teacher.api.openai_response import MAX_BYTES, error_message, read_answer, retry_after
from r1.teacher.api.rate_limiter import RateLimiter
from r1.teacher.api.request_pool import RequestPool
from r1.teacher.base import Answer, Failure, Question, Reply, question_identity, set_values

PATH = "/chat/completions"
FIRST_WAIT_S = 0.5  # before the first retry; doubled for every further one
GRACE_S = 2.0  # for the answers in flight after an error
ENV_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
RETRY_STATUS = {408, 425, 429}  # and 5xx
MAX_MESSAGE_CHARS = 300
HINTS = {
    300: "redirects are not followed: set teacher.url to where it moved",
    400: "the endpoint does not take the request: check teacher.model, its sampling, extra_body, max_completion_length",
    401: "the endpoint does not accept the key: check the variable that teacher.api_key_env names",
    402: "the account has no credit left",
    403: "the key may not use this model",
    404: "no such model, or no chat completions at this address: check teacher.url and teacher.model",
}
OWN_FIELDS = {  # of a request -> what sets it; the last ones would change the form of the reply
    **{name: f"teacher.{name}" for name in ("model", *SamplingChanges.__annotations__)},
    "max_tokens": "teacher.max_completion_length",
    "messages": "the question, after teacher.system",
    "tools": "the row's tools",
    "seed": "the run's seed",
    **dict.fromkeys(("n", "best_of", "stream", "stream_options"), "one answer in one reply"),
}
FATAL_STATUS = {*range(300, 400), 401, 402, 403, 404}


class OpenAI:
    """Sends one request per answer to ``model`` at ``url``.

    A question gets no answer if its request is refused (4xx), or fails ``max_retries + 1`` times in a row. An error
    that every other question would get too (the key, the credit, the address) is raised at once.

    Args:
        url: the base address, e.g. ``https://api.deepseek.com/v1``; https, or http to this machine.
        api_key_env: name of the environment variable that holds the key; null: no key.
        max_completion_length: tokens, sent as ``max_tokens``.
        system: a system message before a question that has none; null: none.
        extra_body: further fields of a request, e.g. ``{reasoning_effort: high}``.
        concurrency: requests in flight at once.
        requests_per_minute: attempts, evenly spaced; null: no limit.
        tokens_per_minute: of questions and answers, counted as the answers arrive; null: no limit.
        timeout_s: seconds that one request may take; also the longest wait before a retry.
        max_retries: further attempts after 408, 425, 429, 5xx, a timeout, or an unreadable answer.
        max_failures: questions that may get no answer; one more is an error.
        sampling: as in ``conf/rollout/_base.yaml``; null: not sent, so that the endpoint's own value counts.

    Raises:
        UserError: the address, the key, a stop text or a field of ``extra_body`` is not usable.
    """

    def __init__(
        self,
        *,
        url: str,
        model: str,
        api_key_env: str | None,
        max_completion_length: Annotated[int, Ge(1)],
        system: Annotated[str, MinLen(1)] | None,
        extra_body: dict[str, Any] | None,
        concurrency: Annotated[int, Ge(1)],
        requests_per_minute: Annotated[int, Ge(1)] | None,
        tokens_per_minute: Annotated[int, Ge(1)] | None,
        timeout_s: Annotated[float, Interval(gt=0, le=MAX_TIMEOUT_S)],
        max_retries: Annotated[int, Ge(0)],
        max_failures: Annotated[int, Ge(0)],
        **sampling: Unpack[SamplingChanges],
    ) -> None:
        self.name, self.endpoint = model, endpoint(url)
        self.api_key_env = check_env_name(api_key_env)
        api_key(self.api_key_env)  # raises now if the variable is not set, not at the first question
        self.max_completion_length, self.sampling = max_completion_length, set_values(**sampling)
        check_stop_list(sampling["stop"] or [])
        self.system, self.extra_body = system, check_extra_body(extra_body or {})
        self.concurrency, self.timeout_s = concurrency, timeout_s
        self.max_retries, self.max_failures = max_retries, max_failures
        self._requests, self._tokens = RateLimiter(requests_per_minute), RateLimiter(tokens_per_minute)
        self._reported, self._lock = set[str](), Lock()

    def identity(self, row: Row) -> dict[str, Any]:
        knobs = self.sampling | set_values(system=self.system, extra_body=self.extra_body)
        knobs["max_tokens"] = self.max_completion_length
        return {"teacher": "openai", "url": self.endpoint, "model": self.name} | knobs | question_identity(row)

    def answer(self, questions: Sequence[Question], check_for_stop: Callable[[], None]) -> Generator[list[Reply]]:
        """Raises: UserError: a failure was fatal, or more than ``max_failures`` questions got no answer."""
        with RequestPool(self._send, questions, self.concurrency, self.max_failures) as pool:
            try:
                for replies in pool.replies(check_for_stop):
                    yield replies
                    if pool.fatal_reply:
                        raise self._error(pool.fatal_reply.failures)
            except Exception:
                yield from pool.drain(GRACE_S)  # these answers are paid for
                raise

    def _send(self, question: Question, stopping: Event) -> Reply | None:
        """All attempts for one question. Returns None if ``stopping`` was set before it was answered."""
        failures: list[Failure] = []
        while not failures or (failures[-1].retryable and len(failures) <= self.max_retries):
            if failures:
                stopping.wait(backoff(len(failures) - 1, failures[-1].retry_after, self.timeout_s, question.seed))
            self._requests.wait(1, stopping)
            self._tokens.wait(0, stopping)
            if stopping.is_set():
                return None
            try:
                return Reply(question, self._attempt(question), tuple(failures))
            except Failure as failure:
                failures.append(failure)
                self._report(failure)
        return Reply(question, None, tuple(failures))

    def _report(self, failure: Failure) -> None:
        retries = f"; at most {self.max_retries} more attempts" * (failure.retryable and self.max_retries > 0)
        self._warn_once(failure.kind, f"{failure.message}{retries}")

    def _warn_once(self, kind: str, message: str) -> None:
        """Print the first warning of each kind at once: the retries may take minutes."""
        with self._lock:
            is_first = kind not in self._reported
            self._reported.add(kind)
        if is_first:
            console.print(status_line(f"warning: {self.endpoint}: {message}"))

    def _attempt(self, question: Question) -> Answer:
        messages, key = with_system(messages_of(question.row), self.system), api_key(self.api_key_env)
        body = {
            "model": self.name,
            "messages": messages,
            "max_tokens": self.max_completion_length,
            "seed": question.seed % 2**31,  # some endpoints take 32 bits only
            **self.sampling,
            **set_values(tools=question.row.get("tools")),
            **self.extra_body,
        }
        try:
            reply = self._post(json.dumps(body).encode(), key)
            answer = read_answer(reply, lambda text: self._warn_once("usage", printable(text, key)))
        except Failure as failure:
            failure.message = printable(failure.message, key)
            raise
        num_chars = sum(len(message["content"]) for message in messages) + len(answer.text)
        num_tokens = answer.prompt_tokens + answer.completion_tokens or num_chars // 4  # about 4 characters per token
        self._tokens.reserve(min(num_tokens, 4 * num_chars + self.max_completion_length))  # an endpoint may lie
        return replace(
            answer,
            text=redact_key(key, answer.text),
            finish_reason=redact_key(key, answer.finish_reason),
            model=redact_key(key, answer.model),
            system_fingerprint=redact_key(key, answer.system_fingerprint),
        )

    def _post(self, body: bytes, key: str) -> bytes:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        try:
            exchange = Exchange(self.endpoint, max_bytes=MAX_BYTES, proxies=True)
            response = exchange.run("POST", body, headers, self.timeout_s)
        except TimeoutError:
            raise Failure("timeout", f"no answer within {self.timeout_s:g} s") from None
        except (OSError, HTTPException) as error:  # refused, reset, malformed header
            raise Failure("network", str(error) or type(error).__name__) from None
        if not 200 <= response.status < 300:
            raise http_failure(response)
        if len(response.body) > MAX_BYTES:
            raise Failure("unreadable", f"a body of more than {MAX_BYTES} bytes")
        return response.body

    def _error(self, failures: Sequence[Failure]) -> UserError:
        last = failures[-1]
        if last.retryable:
            message = f"the teacher did not answer in {len(failures)} attempts"
            hint = f"the last attempt: {last.message}"
        else:
            status = int(last.kind.removeprefix("http_"))
            message, hint = f"the teacher refused: {last.message}", HINTS.get(status if status >= 400 else 300, "")
        expected = f"teacher.max_failures={self.max_failures} questions without an answer"
        return UserError(message, key="teacher", value=self.endpoint, expected=expected, hint=hint, code=MODEL)


def http_failure(response: HttpResponse) -> Failure:
    status = response.status
    message = response.headers.get("Location", "") if status < 400 else error_message(response.body)
    return Failure(
        f"http_{status}",
        f"HTTP {status} {message}".strip(),
        retry_after=retry_after(response.headers),
        retryable=status in RETRY_STATUS or status >= 500,
        fatal=status in FATAL_STATUS,
    )


def endpoint(url: str) -> str:
    """The address of chat completions below the base address ``url``.

    Raises:
        UserError: the address is neither https nor this machine, or contains credentials.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if parts.username or parts.password:
        hint = "put the key in an environment variable and its name in teacher.api_key_env"
        raise UserError("an address must not contain credentials", key="teacher.url", hint=hint)
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        expected = "https://..., or http://127.0.0.1:PORT/..."
        raise UserError("questions and keys are sent encrypted only", key="teacher.url", value=url, expected=expected)
    return url.rstrip("/").removesuffix(PATH) + PATH


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_env_name(name: str | None) -> str | None:
    """Reject a value that looks like a key; the error does not repeat it."""
    if name is not None and not (ENV_NAME.fullmatch(name) and ("_" in name or len(name) < 16)):
        raise UserError(
            "this is no name of an environment variable; is it the key itself?",
            key="teacher.api_key_env",
            expected="a name in capitals, such as OPENAI_API_KEY; the key stays in the environment",
            hint="revoke a key that was typed on a command line",
        )
    return name


def check_extra_body(fields: dict[str, Any]) -> dict[str, Any]:
    """Raises: UserError: a field has a knob of its own, or changes the form of the reply."""
    for name in fields:
        if name in OWN_FIELDS:
            message, hint = f"r1 sets the field `{name}` of a request itself", f"leave it out: {OWN_FIELDS[name]}"
            raise UserError(message, key=f".extra_body.{name}", value=fields[name], hint=hint)
    return fields


def api_key(name: str | None) -> str:
    """The key in the environment variable ``name``; empty without a name.

    Raises:
        UserError: the variable holds no usable key.
    """
    key = os.environ.get(name, "").strip() if name else ""
    if name and not (key.isascii() and key.isprintable() and key and " " not in key):
        hint = f"export {name}=..."
        raise UserError("this environment variable holds no key", key="teacher.api_key_env", value=name, hint=hint)
    return key


def backoff(attempt: int, minimum: float, limit: float, seed: int) -> float:
    """Seconds until the next attempt: doubling with jitter, between ``minimum`` and ``limit``."""
    jitter = random.Random(f"{seed}/{attempt}").uniform(0.5, 1.0)
    return min(limit, max(minimum, FIRST_WAIT_S * 2.0 ** min(attempt, 20) * jitter))


def printable(text: str, key: str) -> str:
    """Text of the endpoint for a terminal: without secrets and control characters, on one line, short."""
    return strip_control_chars(redact(redact_key(key, text)))[:MAX_MESSAGE_CHARS]


def redact_key(key: str, text: str) -> str:
    return text.replace(key, "***") if key else text
