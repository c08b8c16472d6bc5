"""Chat templates that loop, fill the memory or recurse end with an error, and the next one is rendered as always."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from templates import SPECIALS, TEMPLATES, TOKENIZERS, TemplateDay, tokenizer_of

from r1.core.errors import MODEL, UserError
from r1.model import chat
from r1.model.chat import TemplateRefused, render, render_batch, render_chat, render_job, template_inputs

MESSAGES = [{"role": "user", "content": "3+5=?"}, {"role": "assistant", "content": "8"}]
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
ENDLESS = {
    "loop": LOOP,
    "recursive macros": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "power": "{{ (9 ** 9) ** (9 ** 9) }}",
    "loop for one role": "{% for m in messages %}{% if m.role == 'assistant' %}" + LOOP + "{% endif %}{% endfor %}",
    "loop in a filter": "{{ range(99999) | list | map('string') | sort(attribute='x') | length }}" * 500,
}
HUGE = {
    "text": "{{ 'a' * 10 ** 10 }}",
    "width": "{{ 'a'.center(10 ** 10) }}",
    "format": "{{ '%99999999999d' | format(1) }}",
    "doubling": "{% set n = namespace(s='ab') %}{% for a in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "list": "{{ ([messages] * 10 ** 9) | length }}",
}
REFUSING = {
    "own error": ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    "nesting": ("{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}", "recursion"),
    "macro": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "long text": ("{{ 'a' * 4_000_000 }}", "more than"),
    "unclosed": ("{% for m in messages %}", "Unexpected end"),
    "sandbox": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
}


@pytest.fixture(scope="module")
def core() -> Any:
    return TOKENIZERS["byte_level"](SPECIALS)


@pytest.fixture(autouse=True)
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "RENDER_SECONDS", 0.5)


def rendered(core: Any, template: str) -> str:
    return render_chat(tokenizer_of(core, template), MESSAGES, add_generation_prompt=False)


@pytest.mark.parametrize("kind", [*ENDLESS, *HUGE])
def test_template_without_bounds_ends_with_an_error(core: Any, kind: str) -> None:
    rendered(core, TEMPLATES["zephyr"])  # the process has started
    started = time.monotonic()
    with pytest.raises(UserError, match=r"does not end|ended its process|refuses the messages") as caught:
        rendered(core, (ENDLESS | HUGE)[kind])
    assert time.monotonic() - started < 5
    assert caught.value.code == MODEL
    assert "8" in rendered(core, TEMPLATES["zephyr"])


def test_texts_that_are_rendered_at_once_are_those_of_single_calls(core: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_of(core, TEMPLATES["zephyr"])
    talks = [[{"role": "user", "content": f"{n}+5=?"}] for n in range(5)]
    alone = [render_chat(tokenizer, talk, add_generation_prompt=True) for talk in talks]
    jobs = [render_job(template_inputs(tokenizer, True), talk) for talk in talks]
    calls = []
    original = chat._run
    monkeypatch.setattr(chat, "_run", lambda jobs: calls.append(len(jobs)) or original(jobs))
    render_batch([*jobs, *jobs])
    assert [render_chat(tokenizer, talk, add_generation_prompt=True) for talk in talks] == alone
    assert calls == [5]
    assert render_chat(tokenizer, talks[0], add_generation_prompt=False) != alone[0]
    assert calls == [5, 1]


@pytest.mark.parametrize("change", [{"name": "Ann"}, {"content": ["a", "b"]}, {"tool_calls": [{"n": True}]}])
def test_messages_with_more_than_text_have_jobs_of_their_own(core: Any, change: dict[str, Any]) -> None:
    frame = template_inputs(tokenizer_of(core, "{{ messages | tojson }}"), False)
    message = MESSAGES[0] | change
    assert json.loads(render(render_job(frame, [message])).text) == [message]
    assert render_job(frame, [message]) != render_job(frame, MESSAGES[:1])


def test_conversation_that_does_not_end_is_found_among_those_rendered_at_once(core: Any) -> None:
    tokenizer = tokenizer_of(core, ENDLESS["loop for one role"] + "{{ messages[0].content }}")
    jobs = [render_job(template_inputs(tokenizer, False), talk) for talk in (MESSAGES[:1], MESSAGES)]
    render_batch(jobs)
    assert render_chat(tokenizer, MESSAGES[:1], add_generation_prompt=False) == "3+5=?"
    with pytest.raises(UserError, match="does not end"):
        render_chat(tokenizer, MESSAGES, add_generation_prompt=False)


@pytest.mark.parametrize("kind", REFUSING)
def test_template_that_raises_is_an_error_with_its_message(core: Any, kind: str) -> None:
    template, reason = REFUSING[kind]
    with pytest.raises(TemplateRefused, match=reason):
        rendered(core, template)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("opened", [False, True])
def test_render_chat_writes_the_text_of_transformers(
    core: Any, name: str, opened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", TemplateDay)
    tokenizer, variables = tokenizer_of(core, TEMPLATES[name]), {"enable_thinking": False}
    messages = [{"role": "user", "content": "é\ud800\u2028 {{ x }}"}, MESSAGES[1]]
    text = render_chat(tokenizer, messages, add_generation_prompt=opened, variables=variables)
    assert text == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opened, **variables)


def test_long_question_is_rendered_in_linear_time(core: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "RENDER_SECONDS", 20.0)
    question, started = "12+é\n" * 1_000_000, time.process_time()
    tokenizer = tokenizer_of(core, TEMPLATES["zephyr"])
    text = render_chat(tokenizer, [{"role": "user", "content": question}], add_generation_prompt=True)
    assert question.strip() in text
    assert time.process_time() - started < 5
