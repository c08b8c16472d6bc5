"""The parser: it never raises, never guesses, and stays linear."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1.data.completion import TAGS, boxed, normalise, parse

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


@pytest.mark.parametrize("token", ["x", "word ", " " * 16, "数"])
def test_completion_of_65536_tokens_keeps_its_answer(token: str) -> None:
    assert parse(token * 65_536 + "<answer>8</answer>").answer == "8"
    assert parse(f"<think>{token * 65_536}</think>so \\boxed{{8}}").answer == "8"


SYSTEM = r"\left\{\begin{array}{l}x=1\\y=2\end{array}\right."


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed 5", "5"),
        (r"so \boxed5.", "5"),
        (r"so $\boxed 42$.", "42"),
        (r"so \(\boxed 42\)", "42"),
        (r"so \boxed x^2", "x^2"),
        (r"so $\boxed {5}$.", "5"),
        (r"so \fbox{5}", "5"),
        (r"so \boxed{\fbox{5}}", "5"),
        (rf"so \boxed{{{SYSTEM}}}", SYSTEM),
        (r"so \boxed{[0,1\}}", r"[0,1\}"),
        (r"so \boxed{\{1,2\}}", r"\{1,2\}"),
        (r"so \boxed{1\\}", "1\\\\"),  # a line break, then the box's own brace
        (r"so \boxed{5", None),
        (r"so \boxed", None),
        (r"so \boxedminus 5", None),
        (r"$\boxed{1}$ and $\boxed{-2}$", "1, -2"),
        (r"\boxed{2}, \boxed{3}, \boxed{2}", "3, 2"),
        (r"\boxed{2}, so \boxed{3}", "3"),
    ],
)
def test_boxed_reads_every_form_of_a_box(text: str, content: str | None) -> None:
    assert boxed(text) == content


@given(completions)
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
def test_parse_reads_a_formatted_completion(thinking: str, answer: str) -> None:
    parsed = parse(f"<think>{thinking}</think><answer>{answer}</answer>")
    assert (parsed.thinking, parsed.answer, parsed.strict) == (thinking, answer.strip(), True)


@given(words, st.sampled_from([*TAGS, "x"]), st.booleans())
def test_text_around_the_strict_form_is_not_strict(thinking: str, extra: str, before: bool) -> None:
    good = f"<think>{thinking}</think><answer>1</answer>"
    assert not parse(extra + good if before else good + extra).strict


@given(st.text())
def test_normalise_is_idempotent(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


@given(st.recursive(words, lambda inner: inner.map(lambda text: "{" + text + "}"), max_leaves=4))
def test_boxed_keeps_balanced_braces(content: str) -> None:
    assert boxed(f"so \\boxed{{1}}; no: \\boxed{{{content}}}.") == content


@pytest.mark.parametrize(
    "piece", [*TAGS, "\\boxed{", "<think>a</think>", "{", "<answer>\\boxed{", "﷽", "\\boxed{1}", "\\boxed "]
)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    text = "<answer>" + piece * (300_000 // len(piece)) + "</answer>"
    start = time.perf_counter()
    parse(text)
    parse("\\boxed{" + text)
    parse(text.replace("answer>", ""))
    assert time.perf_counter() - start < 3
