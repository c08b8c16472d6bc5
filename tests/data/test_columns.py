"""The columns that r1 reads: their types, the error of a wrong one, and that the docs have the same table."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1.core.errors import DATA, UserError
from r1.core.paths import CONF
from r1.data.columns import COLUMNS, INTERNAL, RESERVED, check_row, is_text

ROW = {"prompt": "1+1=?"}
MESSAGES = [{"role": "user", "content": "1+1=?"}, {"role": "assistant", "content": "2"}]


def error_of(row: dict[str, Any], **knobs: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        check_row(row, "rows.jsonl:7", "data.path", **knobs)
    assert caught.value.code == DATA
    assert caught.value.message.startswith("rows.jsonl:7: ")
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("prompt", ["?", "日本", MESSAGES[:1]]),
        ("answer", ["2", 2, 2.5, 10**400, None]),
        ("completion", ["<answer>2</answer>", "", None]),
        ("messages", [MESSAGES, None]),
        ("system", ["Be short.", "", None]),
        ("tools", [[{"type": "function"}], [], None]),
        ("chat_template_kwargs", [{"enable_thinking": False}, {}, None]),
        ("chosen", ["2", MESSAGES[1:], None]),
        ("rejected", ["3", MESSAGES[1:], None]),
        ("pass_rate", [0, 0.5, 1, None]),
        ("weight", [2, -0.5, None]),
        ("terms", [[], ["format"], None]),
        ("rendered", ["User: ?", None]),
        ("instructed", ["?", MESSAGES[:1], None]),
        ("private_question", [True, False, None]),
        ("part", ["maths", None]),
        ("level", [object(), math.nan]),  # not a column that r1 reads
    ],
)
def test_check_row_accepts_the_type_of_each_column(name: str, values: list[Any]) -> None:
    for value in values:
        check_row(ROW | {name: value}, "rows.jsonl:7", "data.path")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("prompt", [None, "", " \n", 5, ["?"], MESSAGES, b"?"]),
        ("answer", ["", " ", True, math.nan, math.inf, [2], {"value": 2}]),
        ("completion", [["2"], 2, 2.5, True, {"text": "2"}, MESSAGES, "2\ud83d"]),
        ("messages", ["2", MESSAGES[:1], MESSAGES[1:], [], {"role": "user"}, [{"role": "user"}]]),
        ("system", [["Be short."], 2, MESSAGES, "\ud83d"]),
        ("tools", ["[]", ["add"], {"type": "function"}]),
        ("chat_template_kwargs", ["{}", [], True, [{"enable_thinking": False}]]),
        ("chosen", [MESSAGES, ["2"], 2]),
        ("rejected", [MESSAGES, 3, {"role": "assistant"}]),
        ("pass_rate", ["0.5", "", -0.1, 1.5, 10**400, True, math.nan, [0.5]]),
        ("weight", ["2", "heavy", True, [2], math.inf]),
        ("terms", ["format", "[format]", [1], [None], {"format": 1}, ("format",), ["\udc00"]]),
        ("rendered", [1, ["User: ?"]]),
        ("instructed", [1, MESSAGES]),
        ("private_question", ["true", 1, [True]]),
        ("part", [1, ["maths"]]),
    ],
)
def test_check_row_rejects_every_other_type(name: str, values: list[Any]) -> None:
    for value in values:
        error = error_of(ROW | {name: value})
        assert f"`{name}` holds no {COLUMNS[name].type}" in error.message
        assert error.key == "data.path"


def test_a_row_needs_a_prompt() -> None:
    assert "`prompt` holds no text" in error_of({"answer": "2"}).message


def test_every_column_is_tested_above() -> None:
    parametrized = test_check_row_rejects_every_other_type.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert [name for name, _ in parametrized] == list(COLUMNS)


def test_a_mapped_column_is_named_by_its_key_and_may_not_be_empty() -> None:
    mapped = {"prompt": "question", "completion": "text"}
    error = error_of(ROW | {"completion": None}, mapped=mapped)
    assert (error.key, error.message) == (".columns.completion", "rows.jsonl:7: the column `text` holds no text")
    assert error_of(ROW | {"completion": " "}, mapped=mapped).key == ".columns.completion"
    assert error_of({"prompt": 3}, mapped=mapped).key == ".columns.prompt"


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_reserved_name_is_refused(name: str) -> None:
    error = error_of(ROW | {name: None})
    assert f"column name is reserved: `{name}`" in error.message
    assert "rename" in error.hint


@pytest.mark.parametrize("name", sorted(INTERNAL))
def test_an_internal_name_is_refused_where_it_is_forbidden(name: str) -> None:
    value = True if name == "private_question" else "x"
    assert name in error_of(ROW | {name: value}, forbidden=INTERNAL).message
    check_row(ROW | {name: value}, "training row 1", "data")


def test_messages_and_half_pairs_have_a_hint_of_their_own() -> None:
    assert "no common start" in error_of(ROW | {"chosen": MESSAGES}).hint
    assert "surrogate" in error_of({"prompt": "\ud83d"}).hint
    assert "on_bad_row" in error_of(ROW | {"chosen": 2}).hint


@given(st.text() | st.text(st.characters(categories=["Cs", "Lu"])))
def test_text_is_what_utf8_can_encode(text: str) -> None:
    assert is_text(text) == (text.encode(errors="ignore").decode() == text)


def test_the_docs_have_the_table_of_columns() -> None:
    page = (CONF.parent / "docs" / "data.md").read_text()
    for name, column in COLUMNS.items():
        null = "" if column.required else ", or null"
        assert f"| `{name}` | {column.type}{null} | {column.read_by} |" in page
    assert all(f"`{name}`" in page for name in RESERVED)
