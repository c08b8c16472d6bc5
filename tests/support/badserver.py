"""An OpenAI-compatible server that misbehaves on purpose."""

from __future__ import annotations

import json
import re
from typing import Any

from httpserver import Handler, HttpServer, Request, Responder


class Server(HttpServer):
    """Answers the first requests by ``script``, one after the other, and all others by ``otherwise``."""

    def __init__(self) -> None:
        super().__init__()
        self.url += "/v1"
        self.script: list[Responder] = []
        self.otherwise: Responder = say

    def answer(self, handler: Handler, request: Request) -> Any:
        answer = self.script[request.index] if request.index < len(self.script) else self.otherwise
        return answer(handler, request.json)


def completion(text: str | None, reason: str | None = "stop", model: str | None = "big", **message: str) -> bytes:
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": reason}
    usage = {"prompt_tokens": 5, "completion_tokens": 7}
    version = {"model": model, "system_fingerprint": "fp_1"} if model else {}
    return json.dumps({"choices": [choice], "usage": usage, **version}).encode()


def say(handler: Handler, body: dict[str, Any]) -> bytes:
    return completion(f"{body['messages'][0]['content']} {body['seed']}")


def solve(handler: Handler, body: dict[str, Any], model: str = "big") -> bytes:
    """The right answer to a sum, in the right format."""
    total = sum(map(int, re.findall(r"\d+", body["messages"][0]["content"])))
    return completion(f"<think> it is {total}.</think>\n<answer>{total}</answer>", model=model)


def half_a_body(handler: Handler, body: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(completion("x")[:20])


def drip(handler: Handler, body: dict[str, Any], status: int = 200) -> None:
    """Send a byte now and then, and never end."""
    handler.send_response(status)
    handler.end_headers()
    while not handler.server.released.wait(0.05):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def drip_an_error(handler: Handler, body: dict[str, Any]) -> None:
    drip(handler, body, 500)
