"""The terms that ask a model: what they ask, how often, and what becomes of failures."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch
from rolloutsupport import at

from r1.config.build import rewards
from r1.config.check.config import check_schema
from r1.core.errors import MODEL, REWARD, UserError
from r1.data.base import as_verifier
from r1.reward import scorer
from r1.reward.initial_policy import InitialPolicy
from r1.reward.terms.judge import Judge
from r1.reward.terms.self_judge import SelfJudge
from r1.rollout.transformers import Transformers
from r1.teacher.base import Answer, Question, Reply

Config = dict[str, Any]
KNOBS: Config = {"rubric": "Is it kind?", "low": 0, "high": 10, "thinking": False, "max_chars": 500, "seed": 0}


class Fake:
    """A teacher that gives an answer as many points as it has letters; ``broken`` ones make the whole call fail."""

    name = "fake"

    def __init__(self, broken: str = "") -> None:
        self.broken, self.calls = broken, []  # type: ignore[var-annotated]

    def answer(self, questions: Sequence[Question], check_for_stop: Callable[[], None]) -> Generator[list[Reply]]:
        quoted = [question.row["prompt"].split("\n[answer ")[1].split("\n")[1] for question in questions]
        self.calls.append(quoted)
        if self.broken and any(self.broken in text for text in quoted):
            raise UserError("no answer", key="teacher.url", hint="wait", code=MODEL)
        for question, text in zip(questions, quoted, strict=True):
            yield [Reply(question, Answer(self.reply(text), "stop", 0, 0))]

    def reply(self, text: str) -> str:
        return "I cannot say" if "?" in text else f"<score>{len(text)}</score>"


def judge(teacher: Any, max_errors: int = 2, **knobs: Any) -> Judge:
    return Judge(teacher=teacher, max_errors=max_errors, **KNOBS | knobs)


def test_each_answer_is_judged_once_without_its_thinking() -> None:
    fake = Fake()
    term = judge(fake)
    texts = ["<think>long</think>abc", "abc", "abcde", "<think>only"]
    assert term(["q"] * 4, texts) == [0.3, 0.3, 0.5, 0.0]
    assert fake.calls == [["abc", "abcde"]]
    assert term(["q", "q", "other"], ["abc", "ab", "abc"]) == [0.3, 0.2, 0.3]
    assert fake.calls[1:] == [["ab", "abc"]]  # another question is another answer
    assert judge(fake, thinking=True)(["q"], ["<think>a</think>b"]) == [None]  # 17 letters: off the scale


def test_replies_without_a_score_are_none_and_counted_each_time() -> None:
    fake = Fake()
    term = judge(fake)
    for _ in range(2):
        assert term(["q", "q", "q"], ["what?", "what?", "ab"]) == [None, None, 0.2]
        assert term.pop_error_counts() == {"parse_failures": 2, "errors": 0}  # the same from the cache
    assert term.pop_error_counts() == {"parse_failures": 0, "errors": 0}
    assert len(fake.calls) == 1


def test_judge_failure_affects_one_answer_and_is_not_cached() -> None:
    fake = Fake(broken="bad")
    term = judge(fake)
    assert term(["q"] * 3, ["ab", "bad", "abc"]) == [0.2, None, 0.3]
    assert term.pop_error_counts() == {"parse_failures": 0, "errors": 1}
    fake.broken = ""
    assert term(["q"] * 2, ["bad", "ab"]) == [0.3, 0.2]
    assert fake.calls == [["ab", "bad", "abc"], ["ab"], ["bad"], ["abc"], ["bad"]]


def test_too_many_failures_in_a_row_end_the_run_with_the_reason() -> None:
    term = judge(Fake(broken="b"), max_errors=2)
    assert term(["q"] * 3, ["b", "bb", "a"]) == [None, None, 0.1]
    with pytest.raises(UserError, match="failed on 3 answers in a row: no answer") as caught:
        term(["q"] * 4, ["bbb", "bbbb", "bbbbb", "a"])
    assert (caught.value.key, caught.value.hint, caught.value.code) == (
        ".teacher.url",
        "wait",
        REWARD,
    )


def test_score_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "CACHE_SIZE", 2)
    fake = Fake()
    term = judge(fake)
    term(["q"] * 3, ["a", "ab", "abc"])
    term(["q"] * 2, ["abc", "a"])
    assert fake.calls == [["a", "ab", "abc"], ["a"]]


def test_a_scale_without_two_scores_is_refused() -> None:
    with pytest.raises(UserError, match="needs two different scores"):
        judge(Fake(), low=5, high=5)


# ---- a real endpoint, as a user composes it ----


class Endpoint(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = body["messages"][0]["content"]
        self.server.asked.append(asked)  # type: ignore[attr-defined]
        status = 500 if "\nbroken\n" in asked else 200
        reply = {"choices": [{"message": {"content": "fine <score>8</score>"}, "finish_reason": "stop"}]}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        server.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_endpoint_judges_only_rows_with_that_term(config: Callable[..., Config], endpoint: ThreadingHTTPServer) -> None:
    cfg = config(
        "+reward/terms@reward.terms.kind=judge",
        f"reward.terms.kind.teacher.url=http://127.0.0.1:{endpoint.server_address[1]}/v1",
        "reward.terms.kind.teacher.max_retries=0",
    )
    check_schema(cfg)
    reward = rewards(cfg)
    rows = [{"answer": "3"}, {"terms": ["kind"]}, {"terms": ["kind"]}]
    texts = ["<answer>3</answer>", "hello", "broken"]
    scores = reward.score(["q"] * 3, texts, rows, as_verifier(lambda a, row: a == row["answer"]), [[1]] * 3, 9)
    assert scores.total[0] == pytest.approx(1.0 + 0.8)
    assert scores.total[1] == pytest.approx(0.8)
    assert scores.total[2] != scores.total[2]  # NaN: nothing could score it
    assert reward.pop_error_counts() == {"scorer/kind_parse_failures": 0, "scorer/kind_errors": 1}
    assert all("hello" not in asked or "[answer " in asked for asked in endpoint.asked)  # type: ignore[attr-defined]


# ---- the policy as its own judge ----


def self_judge(**variables: Any) -> SelfJudge:
    engine = Transformers(**at(1.0), max_completion_length=6, batch_size=4, async_steps=0)
    return SelfJudge(engine=engine, chat_template_kwargs=variables, **KNOBS)


def test_frozen_policy_is_unchanged_by_training(stage: Callable[..., Any]) -> None:
    made = stage("stage=grpo", "+reward/terms@reward.terms.self=self_judge")
    frozen = made.sampler.initial_policy
    before = frozen.answer(self_judge().engine, ["a", "b"], [1, 2], {})
    with torch.no_grad():
        for parameter in made.policy.parameters():
            parameter.zero_()
    assert frozen.answer(self_judge().engine, ["a", "b"], [1, 2], {}) == before
    assert frozen.answer(self_judge().engine, ["b"], [2], {}) == before[1:]  # whatever the batch
    assert not any(p.requires_grad for p in frozen.model.parameters())
    assert not any("frozen" in name for name, _ in made.named_parameters())
    assert stage("stage=grpo").sampler.initial_policy is None  # no term asks for it


def test_the_policy_judges_by_the_same_rubric() -> None:
    class Scripted(InitialPolicy):
        def __init__(self) -> None:
            self.asked: list[tuple[str, int]] = []

        def answer(self, engine: Any, prompts: Any, seeds: Any, variables: Any) -> list[str]:
            assert variables == {"enable_thinking": False}
            self.asked += zip(prompts, seeds, strict=True)
            return ["<score>5</score>" if "good" in prompt else "well" for prompt in prompts]

    term, frozen = self_judge(enable_thinking=False), Scripted()
    assert term(["q"] * 3, ["good", "bad", "good"], frozen) == [0.5, None, 0.5]
    assert term.pop_error_counts() == {"parse_failures": 1}
    assert frozen.asked[0][0] == judge(Fake()).rubric.prompt("q", "good")
    assert len({seed for _, seed in frozen.asked}) == 2
