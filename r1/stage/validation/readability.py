"""Readability of the thinking, from its text alone: language consistency, reflection, length.

``val/language``: the share of words in the thinking's most frequent language. It needs no target language, so runs with
and without a language reward can be compared; the share of a reward's target language is ``val/reward/language``.
Thinking without a word has no language and is left out; ``n`` is the number of completions that remain.
``val/reflection``: the share of completions that re-check or correct themselves, see ``reflects``.
``val/thinking_length``: tokens between the think tags, 0 without tags; the text is tokenized again for it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from r1.core.batch import chunks
from r1.core.statistics import Estimate, mean, proportion
from r1.data.completion import parse
from r1.data.text import words

MAX_CHARS = 262_144  # of a completion, in which reflection is looked for
WORD_MARKERS = (  # markers of languages that put spaces between words: whole words
    # English
    *("wait", "hold on", "let me check", "let me double-check", "let me recheck", "let me re-check", "let me verify"),
    *("let's check", "let's double-check", "let's verify", "on second thought", "i made a mistake", "that's wrong"),
    *("that's not right", "that is wrong", "that is not right"),
    # German, French, Spanish
    *("moment mal", "warte", "ich prüfe das", "attends", "attendez", "vérifions", "je me suis trompé"),
    *("espera", "verifiquemos", "comprobemos", "me equivoqué"),
)
# Languages without spaces, or with endings: matched from the start of a word (香蕉等等 means "and so on").
UNSPACED_MARKERS = (
    # Chinese
    *("等等", "等一下", "不对", "不對", "让我检查", "讓我檢查", "让我验证", "让我再"),
    *("重新检查", "再检查", "验算", "我错了"),
    # Japanese, Korean
    *("待って", "待てよ", "確認しよう", "잠깐", "다시 확인", "다시 계산", "검산"),
)
MARKER = re.compile(f"(?<!\\w)(?:(?:{'|'.join(WORD_MARKERS)})(?!\\w)|{'|'.join(UNSPACED_MARKERS)})", re.IGNORECASE)

# "is 15, is 16": a result that is stated again at once, and differently.
RESTATED = re.compile(
    r"(?:=|\bis|得|为) {0,2}(\d+)[,;，；。.…—] ?(?:no,? ?)?(?:=|is\b|得|为) {0,2}(\d+)", re.IGNORECASE
)
FORMULA = "0123456789.+-*/×÷^() "
OPERATION = re.compile(r"\d[-+*/×÷^(]+\d")
RESULT = re.compile(r" ?(-?\d[\d.]*) ?([-+*/×÷^]?)")


def readability_metrics(
    completions: Sequence[str], num_samples: int, count_tokens: Callable[[list[str]], list[int]]
) -> dict[str, Estimate]:
    """The three metrics of P prompts with ``num_samples`` completions each, one prompt after the other.

    Args:
        count_tokens: the lengths of texts in tokens.
    """
    thinking = list(map(_thinking, completions))
    lengths = chunks(count_tokens(thinking), num_samples)
    reflecting = chunks([reflects(completion) for completion in completions], num_samples)
    shares = [[s for s in group if s is not None] for group in chunks(list(map(consistency, thinking)), num_samples)]
    metrics = {
        "val/reflection": proportion([sum(g) / num_samples for g in reflecting], num_samples),
        "val/thinking_length": mean([sum(g) / num_samples for g in lengths], num_samples),
    }
    if count := sum(map(len, shares)):
        means = [sum(group) / len(group) for group in shares if group]
        language = proportion(means, max(1, count // len(means)))
        metrics = {"val/language": replace(language, n=count)} | metrics
    return metrics


def readability_of(completion: str) -> tuple[float | None, bool]:
    """Language consistency of the thinking (None without a word), and whether the completion reflects."""
    return consistency(_thinking(completion)), reflects(completion)


def train_readability(pairs: Sequence[tuple[float | None, bool]]) -> dict[str, float]:
    """``train/language`` and ``train/reflection`` of a batch of ``readability_of``; no language without words."""
    shares = [share for share, _ in pairs if share is not None]
    metrics = {"train/reflection": sum(reflecting for _, reflecting in pairs) / len(pairs)}
    return metrics | ({"train/language": sum(shares) / len(shares)} if shares else {})


def consistency(text: str) -> float | None:
    """Share of the words that are in the text's most frequent language, above 0 to 1; None if there is no word."""
    counts = Counter(words(text))
    return max(counts.values()) / counts.total() if counts else None


def reflects(text: str) -> bool:
    """Whether a text re-checks or corrects itself: by a marker, or by two different results of the same step.

    An upper limit for questions about waiting, whose text has the markers anyway; a correction without any marker is
    missed. Linear time; text beyond ``MAX_CHARS`` is not read.
    """
    text = text[:MAX_CHARS]
    restated = any(first != second for first, second in RESTATED.findall(text))
    return restated or bool(MARKER.search(text)) or _recalculates(text)


def _recalculates(text: str) -> bool:
    """Whether the same formula has two results: ``3+5=7 ... 3 + 5 = 8``."""
    results: dict[str, str] = {}
    for line in text.split("\n"):
        sides = line.split("=")
        for left, right in pairwise(sides):
            formula = "".join(left[len(left.rstrip(FORMULA)) :].split()).lstrip(".")
            result = RESULT.match(right)
            if result and not result[2] and OPERATION.search(formula):
                value = result[1].rstrip(".")
                if results.setdefault(formula, value) != value:
                    return True
    return False


def _thinking(completion: str) -> str:
    return parse(completion).thinking or ""
