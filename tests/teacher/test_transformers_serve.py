"""The endpoint teacher against an independent server: ``transformers serve`` with the shipped model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from replies import NO_KNOBS
from rolloutsupport import at

from r1.core.model_paths import resolve_model_path
from r1.data.base import Row
from r1.rollout.base import no_op
from r1.stage.distillation.answer_cache import AnswerCache
from r1.stage.distillation.teacher_queries import TeacherAnswers, query_teacher
from r1.teacher.base import Teacher, questions
from r1.teacher.openai import OpenAI
from r1.teacher.transformers import Transformers

pytestmark = pytest.mark.long
PATH, LENGTH = resolve_model_path("r1:tiny"), 64
ROWS: list[Row] = [{"prompt": f"{i}+5+{9 - i}=?"} for i in range(8)]
LONGEST_S = 60.0


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    program = Path(sys.executable).with_name("transformers")
    command = [str(program), "serve", PATH, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with log.open("w") as out:
        environ = os.environ | {"HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environ)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + LONGEST_S
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            with urlopen(address, timeout=1):
                return
        except OSError:
            time.sleep(0.2)


def query(teacher: Teacher, file: Path) -> TeacherAnswers:
    with AnswerCache(file, "stage.store", no_op) as cache:
        return query_teacher(teacher, questions(ROWS, 1, seed=0), cache, no_op, "stop")


def test_served_answers_equal_those_of_the_model_in_this_process(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Greedy: the server samples only where the model's own generation config does."""
    endpoint = OpenAI(
        url=url,
        model=PATH,
        api_key_env=None,
        **{**NO_KNOBS, "temperature": 0.0},
        max_completion_length=LENGTH,
        concurrency=4,
        requests_per_minute=None,
        tokens_per_minute=None,
        timeout_s=30.0,
        max_retries=0,
        max_failures=0,
    )
    knobs = {"dtype": "float32", "max_completion_length": LENGTH, "system": None, "chat_template_kwargs": None}
    here = Transformers(path=PATH, batch_size=8, **knobs, **at(0.0))
    served, expected = query(endpoint, tmp_path / "answers"), query(here, tmp_path / "here")
    answers = [(a.text, a.finish_reason, a.prompt_tokens, a.completion_tokens) for _, a in served.pairs]
    assert answers == [(a.text, a.finish_reason, a.prompt_tokens, a.completion_tokens) for _, a in expected.pairs]
    assert len({text for text, *_ in answers}) > 1
    assert {answer.model for _, answer in served.pairs} == {f"{PATH}@main"}
    assert f"`{PATH}` was asked for, and `{PATH}@main` says that it answers" in capsys.readouterr().err
    again = query(endpoint, tmp_path / "answers")
    assert (again.pairs, again.timing["time/teacher/new"]) == (served.pairs, 0)
