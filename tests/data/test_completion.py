"""The parser: it never raises, never guesses, and stays linear."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1.data.completion import MAX_CHARS, TAGS, boxed, normalise, parse

PIECES = [
    *TAGS,
    "\\boxed{",
    "{",
    "}",
    "5",
    "42",
    "\\frac",
    " ",
    "\n",
    "because",
    "\u200b",
    "²",
    "<",
    "think>",
]
completions = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=16).map("".join))
words = st.text(alphabet="abc 0123456789+-=\n", min_size=1).filter(str.strip)

GOOD = "<think>3 plus 5 is 8</think>\n<answer>8</answer>"


def test_strict_completion() -> None:
    parsed = parse(GOOD)
    assert (parsed.thinking, parsed.answer, parsed.strict, parsed.tags) == ("3 plus 5 is 8", "8", True, 4)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("8", None),
        ("", None),
        ("<answer>8</answer>", "8"),
        ("<answer> 8 </answer> so 9", "8"),
        ("<answer>8</answer><answer>8</answer>", None),
        ("<answer>8</answer> or <answer>9</answer>", None),
        ("<answer>8", None),
        ("8</answer>", None),
        ("</answer>8<answer>", None),
        ("<answer> \n</answer>", None),
        ("<answer>\u200b</answer>", None),
        ("<answer><think>8</think></answer>", None),
        ("<think>so <answer>8</answer> maybe</think>", None),
        ("<think>no<answer>8</think></answer>", None),
        ("<think>3 plus 5 is 8 <answer>8</answer>", "8"),
        ("<answer>\\boxed{8}</answer>", "8"),
        ("so \\boxed{7}, no, \\boxed{8}", "8"),
        ("so \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("so \\boxed{8", None),
        ("so \\boxed{}", None),
        ("\\boxed{8} <answer>", None),
        ("<think>\\boxed{8}</think> done", None),
        ("<think>maybe \\boxed{8}", None),
        ("<think>a</think>\\boxed{7}<think>\\boxed{8}", None),
        ("<think>maybe \\boxed{7}</think> \\boxed{8}", "8"),
        ("<answer>\uff14\uff12</answer>", "42"),
        ("<answer>\u22125</answer>", "-5"),
        ("<answer>4\u200b2</answer>", "42"),
        ("<answer>5²</answer>", "5²"),
        ("<answer>3½</answer>", "3½"),
    ],
)
def test_one_answer_or_none(text: str, answer: str | None) -> None:
    assert parse(text).answer == answer


@pytest.mark.parametrize(
    "text",
    [
        GOOD + " bye",
        "hi " + GOOD,
        GOOD + GOOD,
        "<think></think><answer>8</answer>",
        "<think>a</think><answer> </answer>",
        "<think>a</think> so <answer>8</answer>",
        "<answer>8</answer><think>a</think>",
        "<think>a<answer>8</answer></think>",
        "<think>a</think><answer>8",
        "<think>a</think><think>b</think><answer>8</answer>",
        "<think>a</think>8",
    ],
)
def test_not_strict(text: str) -> None:
    assert parse(GOOD).strict
    assert not parse(text).strict


def test_thinking_that_never_closes_runs_to_the_end() -> None:
    assert parse("<think>and so on").thinking == "and so on"
    assert parse("no tags").thinking is None
    assert parse("<think>one</think><think>two</think>").thinking == "one"


def test_text_beyond_the_limit_is_not_read() -> None:
    assert parse("x" * (MAX_CHARS - 18) + "<answer>8</answer>").answer == "8"
    assert parse("x" * MAX_CHARS + "<answer>8</answer>").answer is None


@given(completions)
@settings(deadline=None)
def test_parse_of_any_text_keeps_its_invariants(text: str) -> None:
    parsed = parse(text)
    assert 0 <= parsed.tags <= 4
    assert parsed.answer is None or parsed.answer == parsed.answer.strip() != ""
    if parsed.strict:
        assert parsed.tags == 4
        assert parsed.thinking
        assert parsed.thinking.strip()
        assert text.strip().startswith("<think>")
        assert text.strip().endswith("</answer>")
    if text.count("<answer>") > 1 or text.count("</answer>") > 1:
        assert parsed.answer is None
        assert not parsed.strict


@given(words, words)
@settings(deadline=None)
def test_parse_reads_a_formatted_completion(thinking: str, answer: str) -> None:
    parsed = parse(f"<think>{thinking}</think><answer>{answer}</answer>")
    assert (parsed.thinking, parsed.answer, parsed.strict) == (thinking, answer.strip(), True)


@given(words, st.sampled_from([*TAGS, "x"]), st.booleans())
@settings(deadline=None)
def test_text_around_the_strict_form_is_not_strict(thinking: str, extra: str, before: bool) -> None:
    good = f"<think>{thinking}</think><answer>1</answer>"
    assert not parse(extra + good if before else good + extra).strict


@given(st.text())
@settings(deadline=None)
def test_normalise_is_idempotent(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


@given(st.recursive(words, lambda inner: inner.map(lambda text: "{" + text + "}"), max_leaves=4))
@settings(deadline=None)
def test_boxed_keeps_balanced_braces(content: str) -> None:
    assert boxed(f"so \\boxed{{1}} or \\boxed{{{content}}}.") == content


@pytest.mark.parametrize("piece", [*TAGS, "\\boxed{", "<think>a</think>", "{", "<answer>\\boxed{", "﷽"])
def test_hostile_text_takes_linear_time(piece: str) -> None:
    text = "<answer>" + piece * (MAX_CHARS // len(piece)) + "</answer>"
    start = time.perf_counter()
    parse(text[: MAX_CHARS - 9] + "</answer>")
    parse("\\boxed{" + text)
    assert time.perf_counter() - start < 3
