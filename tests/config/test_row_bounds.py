"""Rows that are taken to fit unrendered do fit, under every template; and most rows are taken so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from templates import SPECIALS, TEMPLATES, TOKENIZERS, tokenizer_of
from transformers import PreTrainedTokenizerFast

from r1.config.row_bounds import RowBounds, is_copied, string_constants
from r1.core.errors import UserError
from r1.data.base import Data, Row
from r1.data.template.chat import Chat
from r1.model.tokens import tokenize

PIECES = ["a", "7", " ", "\n", "\u00e9", "\ufdfa", "<think>", "</think>", "user", "[INST]", "<|im_end|>", "\ue000"]
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join)
LOOKS_AT_TEXT = (
    "{% for m in messages %}{% if 'secret' in m.content %}{{ raise_exception('no secrets') }}{% endif %}"
    "{{ m.role + ': ' + m.content + ('. ' + m.content if m.content.startswith('echo') else '') + '\n' }}{% endfor %}"
)
DOUBLES = "{% for m in messages %}{{ m.content + m.content }}{% endfor %}"


def same_text(answer: str, row: Row) -> bool:
    return bool(answer == row["answer"])


def make_data(**options: Any) -> Data:
    knobs = {"system": None, "prefill": "", "chat_template": None, "chat_template_kwargs": None} | options
    return Data(train=[], val=[], template=Chat(**knobs), verifier=same_text)  # type: ignore[arg-type]


def make_bounds(tokenizer: PreTrainedTokenizerFast, limit: float, *columns: str, data: Data | None = None) -> RowBounds:
    data = data or make_data()

    def texts(row: Row) -> Iterator[tuple[str, float]]:
        yield data.prompt_text(tokenizer, row), limit
        if columns:
            yield data.learned(tokenizer, row).text, limit

    return RowBounds(data, tokenizer, columns, texts)


def is_too_long(bounds: RowBounds, row: Row) -> bool:
    return any(len(tokenize(bounds.tokenizer, text)) > limit for text, limit in bounds.texts(row))


ROWS = st.fixed_dictionaries({"prompt": TEXTS, "completion": TEXTS, "answer": st.just("1")})
TALKS = st.lists(TEXTS, min_size=2, max_size=4).map(
    lambda texts: {
        "prompt": texts[0],
        "answer": "1",
        "messages": [
            {"role": role, "content": text}
            for role, text in zip(("user", "assistant", "user", "assistant"), texts, strict=False)
        ],
    }
)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(TEMPLATES)),
    st.sampled_from(sorted(TOKENIZERS)),
    st.lists(st.one_of(ROWS, TALKS), min_size=3, max_size=5),
    st.integers(10, 60),
)
def test_row_that_fits_unrendered_has_no_text_above_its_limit(
    template: str, kind: str, rows: list[Row], limit: int
) -> None:
    bounds = make_bounds(tokenizer_of(TOKENIZERS[kind](SPECIALS), TEMPLATES[template]), limit, "completion")
    for row in rows * 4:
        try:
            too_long = is_too_long(bounds, row)
        except UserError:
            too_long = True
        assert not (bounds.fits(row) and too_long)


@pytest.mark.parametrize("template", ["chatml", "qwen3", "llama3", "deepseek_r1_old"])
def test_of_rows_of_one_kind_few_are_rendered(template: str) -> None:
    tokenizer = tokenizer_of(TOKENIZERS["byte_level"](SPECIALS), TEMPLATES.get(template, TEMPLATES["phi3"]))
    bounds = make_bounds(tokenizer, 400, "completion")
    rows = [{"prompt": f"{i}+1=?", "answer": "1", "completion": f"is {i + 1}"} for i in range(50)]
    assert [bounds.fits(row) for row in rows].count(False) == 1
    long = {"prompt": "1+1=?", "answer": "1", "completion": "a" * 800}
    assert not bounds.fits(long)
    assert is_too_long(bounds, long)


def test_text_with_a_constant_of_the_template_is_of_another_kind() -> None:
    tokenizer = tokenizer_of(TOKENIZERS["byte_level"](SPECIALS), LOOKS_AT_TEXT)
    bounds = make_bounds(tokenizer, 1000)
    plain, echo, secret = ({"prompt": f"{word} me", "answer": "1"} for word in ("tell", "echo", "secret"))
    assert [bounds.fits(plain) for _ in range(4)] == [False, True, True, True]
    assert not any(bounds.fits(row) for row in [echo, secret] * 20)  # the echo has its text twice, the secret none


def test_rows_fit_where_nothing_has_a_limit() -> None:
    """Recurrent models have no longest context, and their stages no text to check."""
    tokenizer = tokenizer_of(next(iter(TOKENIZERS.values()))(SPECIALS), next(iter(TEMPLATES.values())))
    bounds = RowBounds(make_data(), tokenizer, (), lambda row: iter(()))
    assert any(bounds.fits({"prompt": "a", "answer": "1"}) for _ in range(50))


def test_row_of_more_than_plain_texts_is_rendered() -> None:
    tokenizer = tokenizer_of(TOKENIZERS["byte_level"](SPECIALS), TEMPLATES["phi3"])
    bounds = make_bounds(tokenizer, 1000, "completion")
    row = {"prompt": "1+1=?", "answer": "2", "completion": "2"}
    question = [{"role": "user", "content": "1+1=?", "name": "Ann"}]
    odd: list[Row] = [
        row | {"tools": [{"name": "add"}]},
        row | {"rendered": "1+1="},
        row | {"prompt": question},
        row | {"completion": "2<|im_end|>"},
    ]
    assert not any(bounds.fits(one) for one in odd * 20)
    assert [bounds.fits(row) for _ in range(4)] == [False, True, True, True]


def test_text_that_is_written_twice_is_not_copied() -> None:
    assert is_copied("a b", "a \ue000b")
    assert not is_copied("a b b", "a \ue000b \ue000b")
    assert not is_copied("a b", "a \ue000c")
    tokenizer = tokenizer_of(TOKENIZERS["byte_level"](SPECIALS), DOUBLES)
    bounds = make_bounds(tokenizer, 1000)
    assert not any(bounds.fits({"prompt": "a b", "answer": "1"}) for _ in range(20))


def test_constants_are_those_of_expressions_as_jinja_reads_them() -> None:
    template = "don't {% if m == 'it\\'s' or m == \"a\\nb\" %}{{ '\\n' + ' ' + '<x>' }}{% generation %}{% endif %}"
    assert string_constants(template) == ["<x>", "a\nb", "it's"]
