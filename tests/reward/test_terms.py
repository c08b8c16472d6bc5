"""The reward terms against numbers worked out by hand, and against what must hold for every completion."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1.core.errors import UserError
from r1.data.base import Row, as_verifier
from r1.data.completion import TAGS
from r1.data.text import language_share
from r1.reward.terms.accuracy import accuracy
from r1.reward.terms.duplicates import duplicates
from r1.reward.terms.finished import finished
from r1.reward.terms.format import format as format_term
from r1.reward.terms.language import language
from r1.reward.terms.length import length
from r1.reward.terms.num_tokens import num_tokens
from r1.reward.terms.repetition import repetition

GOOD = "<think>3 plus 5 is 8</think>\n<answer>8</answer>"
completions = st.one_of(
    st.text(), st.lists(st.sampled_from([*TAGS, "a", "八", " ", "\n", "8"]), max_size=12).map("".join)
)


@as_verifier
def equal(answer: str, row: Row) -> bool:
    return bool(answer == row["answer"])


def think(text: str) -> str:
    return f"<think>{text}</think><answer>1</answer>"


def test_accuracy() -> None:
    texts = [GOOD, GOOD, "8", "<answer>8</answer>", "<answer>8</answer><answer>8</answer>"]
    rows: list[Row] = [{"answer": a} for a in ("8", "9", "8", "8", "8")]
    assert accuracy([""] * 5, texts, equal, rows) == [1.0, 0.0, 0.0, 1.0, 0.0]


def test_accuracy_without_an_answer_skips_the_verifier() -> None:
    @as_verifier
    def verifier(answer: str, row: Row) -> bool:
        raise AssertionError(answer)

    assert accuracy([""], ["no answer"], verifier, [{"answer": "8"}]) == [0.0]


def test_accuracy_without_gold_answer_does_not_apply() -> None:
    assert accuracy([""] * 3, [GOOD] * 3, equal, [{}, {"answer": None}, {"answer": "8"}]) == [None, None, 1.0]


def test_finished_and_num_tokens() -> None:
    assert finished([""] * 2, ["", ""], truncated=[True, False]) == [0.0, 1.0]
    assert num_tokens([""] * 2, ["", ""], completion_ids=[[5, 5, 5], []]) == [3.0, 0.0]


def test_duplicates_matches_hand_computation() -> None:
    texts = ["a b c d", "a b c x", " A  b\u200b C d", "a b c d", "x", "X", "y", "", ""]
    prompts = ["p", "p", "p", "q", "p", "p", "p", "p", "p"]
    # 2-grams of the first two: ab bc cd | ab bc cx, of which 2 of 4 are shared
    assert duplicates(prompts, texts, ngram_size=2) == [0.0, 0.5, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]


@given(st.lists(completions, max_size=6), st.integers(1, 4))
def test_duplicates_of_a_repeated_batch_are_1(texts: list[str], size: int) -> None:
    values = duplicates([""] * 2 * len(texts), texts * 2, ngram_size=size)
    assert all(value is not None and 0 <= value <= 1 for value in values)
    assert values[len(texts) :] == [1.0] * len(texts)


def test_format_strict_and_graded() -> None:
    texts = [GOOD, GOOD + "!", "<think>a</think>8", "<answer>8", "8", GOOD + GOOD]
    assert format_term([""] * 6, texts, graded=False) == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert format_term([""] * 6, texts, graded=True) == [1.0, 0.5, 0.25, 0.125, 0.0, 0.0]


@given(completions, st.integers(2, 4))
def test_format_pays_neither_for_loose_form_nor_for_repetition(text: str, times: int) -> None:
    strict, graded = (format_term([""], [text], graded=g)[0] or 0.0 for g in (False, True))
    assert strict == 1.0 == graded or (strict == 0.0 and graded <= 0.5)
    repeated = format_term([""], [" ".join([text] * times)], graded=True)[0] or 0.0
    assert repeated <= graded


@pytest.mark.parametrize(
    ("text", "en", "zh"),
    [
        ("we add three", 1.0, 0.0),
        ("三加五得八", 0.0, 1.0),
        ("we add 三加", 0.5, 0.5),
        ("so 得 8", 0.5, 0.5),
        ("", 0.0, 0.0),
        ("3 + 5 = 8", 0.0, 0.0),
        ("x + y = 8", 0.0, 0.0),  # variables are no words
        ("求满足 3x + 5 = 20 的 x", 0.0, 1.0),
        (r"得 $abc + \frac{ab}{cd}$ 因此 \(three\) \[ four \] $$five$$", 0.0, 1.0),
        (r"得 \boxed{8} \begin{aligned} 8 \end{aligned}", 0.0, 1.0),
        ("得 `print(it)` \n```python\nprint(it)\n``` 了", 0.0, 1.0),
        ("得 <think> </answer> 了", 0.0, 1.0),
        ("costs $5 today\nand $7 then", 1.0, 0.0),  # a price opens no formula across lines
        ("да нет yes 是", 0.25, 0.25),  # a third language counts against both
        ("naïve café", 1.0, 0.0),
    ],
)
def test_language_share_matches_hand_computation(text: str, en: float, zh: float) -> None:
    assert (language_share(text, "en"), language_share(text, "zh")) == (en, zh)


def test_language_reads_the_thinking_alone() -> None:
    texts = [
        "we add",
        "<think></think>we",
        think("we add"),
        think("三加"),
        "<think>we 加",
        "<answer>we</answer>",
    ]
    assert language([""] * 6, texts, target="en") == [0.0, 0.0, 1.0, 0.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("ja", "これは日本語の文章です。答えは八です。"),  # kana with Han characters
        ("zh", "这是一个句子，答案是八"),
        ("ko", "이것은 한국어 문장이다. 그 수는 팔"),
        ("ru", "Здравствуйте, это предложение"),
        ("el", "αυτή είναι μια πρόταση"),
        ("hy", "սա նախադասություն է"),
        ("he", "זה מִשְׁפָּט בעברית"),  # with its vowel points
        ("ar", "هذه جُملة، أليس كذلك؟ ٣٥"),  # with marks, punctuation and digits
        ("ka", "ეს არის წინადადება"),
        ("am", "ይህ ዓረፍተ ነገር ነው"),
        ("hi", "यह एक हिन्दी वाक्य है। ३५"),
        ("bn", "এটি একটি বাক্য"),
        ("ta", "இது ஒரு வாக்கியம்"),
        ("th", "นี่คือประโยคภาษาไทย ๓๕"),
        ("km", "នេះជាប្រយោគ"),
        ("my", "ဒါက ဝါကျတစ်ခု"),
        ("en", "ceci est une phrase, đây là một câu"),  # any language in Latin letters
    ],
)
def test_language_share_of_text_in_one_script_is_1(target: Any, text: str) -> None:
    assert language_share(text, target) == 1.0
    assert language_share(f"{text} ᚠᚢᚦ", target) < 1.0  # a script that has no name here


def test_chinese_with_a_japanese_word_stays_chinese() -> None:
    assert language_share("我们先计算总数然后の再检查一遍", "zh") == pytest.approx(14 / 15)


@given(st.text())
def test_language_shares_are_between_0_and_1(text: str) -> None:
    en, zh = language_share(text, "en"), language_share(text, "zh")
    assert min(en, zh) >= 0
    assert en + zh <= 1 + 1e-12


@given(st.integers(0, 20), st.integers(0, 20), st.randoms(use_true_random=False))
def test_language_share_counts_words_whatever_their_order(num_en: int, num_zh: int, rng: random.Random) -> None:
    parts = ["plus"] * num_en + ["加"] * num_zh
    rng.shuffle(parts)
    expected = num_en / (num_en + num_zh) if parts else 0.0
    assert language_share(" ".join(parts), "en") == expected


@pytest.mark.parametrize(
    "piece",
    ["$", "$$ ", "`", "```", "``` ", "\\[", "\\(", "\\[ [", "<a", "\\begin{", "a", "加", "\\", "$`", "$\n"],
)
def test_language_share_takes_linear_time(piece: str) -> None:
    start = time.perf_counter()
    language_share(piece * (200_000 // len(piece)), "en")
    assert time.perf_counter() - start < 3


def test_length_follows_dapo_equation_13() -> None:
    ids = [[0] * n for n in (0, 79, 80, 90, 95, 100, 120)]
    texts = [""] * 7
    expected = [0.0, 0.0, 0.0, -0.5, -0.75, -1.0, -1.0]
    assert length(texts, texts, ids, 120, max_length=100, buffer=20) == pytest.approx(expected)
    assert length(texts, texts, ids, 100, max_length=None, buffer=20) == pytest.approx(expected)


@given(st.integers(1, 50), st.integers(1, 50))
def test_length_falls_and_stays_in_bounds(limit: int, buffer: int) -> None:
    ids = [[0] * n for n in range(60)]
    buffer = min(buffer, limit)
    values = [v or 0.0 for v in length([], [], ids, limit, max_length=None, buffer=buffer)]
    assert values == sorted(values, reverse=True)
    assert values[0] == 0.0
    assert values[limit] == -1.0


@pytest.mark.parametrize(("max_length", "buffer"), [(None, 101), (200, 100), (300, 50)])
def test_length_rejects_an_impossible_buffer(max_length: int | None, buffer: int) -> None:
    with pytest.raises(UserError, match=r"every completion or to none(.|\n)* \.buffer"):
        length([""], [""], [[0]], 100, max_length=max_length, buffer=buffer)
    assert length([""], [""], [[0]], 100, max_length=None, buffer=100) == pytest.approx([-0.01])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.0),
        ("a b", 0.0),
        ("a b c", 0.0),
        ("a b a b", 0.0),  # aba bab
        ("a a a a", -0.5),  # aaa twice
        ("A a a A a", -2 / 3),  # aaa three times
        ("a b c a b c", -0.25),  # abc bca cab abc
        ("加一加一加", -1 / 3),  # 加一加 一加一 加一加
    ],
)
def test_repetition_matches_hand_computation(text: str, expected: float) -> None:
    assert repetition([""], [text], ngram_size=3, max_penalty=-1.0) == pytest.approx([expected])


@given(st.text(), st.integers(1, 5), st.floats(-10, 0))
def test_repetition_is_a_penalty_within_its_bound(text: str, ngram_size: int, max_penalty: float) -> None:
    value = repetition([""], [text], ngram_size=ngram_size, max_penalty=max_penalty)[0]
    assert value is not None
    assert max_penalty <= value <= 0
    words = " ".join(f"w{i}" for i in range(len(text)))
    assert repetition([""], [words], ngram_size=ngram_size, max_penalty=max_penalty) == [0.0]


@given(st.permutations(range(5)))
def test_every_term_is_permutation_equivariant(order: list[int]) -> None:
    texts = [GOOD, think("we 加"), "<think>a a a a a", "8", think("三加五得八")]
    rows: list[Row] = [{"answer": a} for a in ("8", "1", "1", "8", "2")]
    ids = [[0] * n for n in (3, 9, 10, 0, 7)]

    def scores(index: list[int]) -> list[list[float | None]]:
        c, r, i = [texts[k] for k in index], [rows[k] for k in index], [ids[k] for k in index]
        return [
            accuracy(c, c, equal, r),
            format_term(c, c, graded=True),
            language(c, c, target="en"),
            length(c, c, i, 10, max_length=None, buffer=4),
            repetition(c, c, ngram_size=2, max_penalty=-1.0),
        ]

    straight = scores(list(range(5)))
    assert scores(order) == [[values[k] for k in order] for values in straight]
    assert all(len(set(values)) > 1 for values in straight)
