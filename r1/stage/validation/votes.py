"""Majority votes: which completions of a prompt state the same answer, by the verifier's own relation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from r1.core.batch import chunks
from r1.data.base import Row, Verifier


def votes(
    verifier: Verifier,
    answers: Sequence[str | None],
    correct: Sequence[bool | None],
    rows: Sequence[Row],
    num_samples: int,
) -> list[str | None]:
    """The vote of each of P * n completions: the first answer to its prompt that is the same; None without an answer.

    A right answer is the gold answer, so all right ones are one vote; the wrong ones are compared with each other.

    Args:
        correct: whether each answer is right; None if there is no gold answer.
    """
    groups = chunks(list(zip(answers, correct, strict=True)), num_samples)
    wrong = [list(dict.fromkeys(a for a, right in group if a is not None and not right)) for group in groups]
    pairs = [(g, a, b) for g, texts in enumerate(wrong) for a, b in combinations(texts, 2)]
    same = verifier.same(
        [a for _, a, _ in pairs], [b for _, _, b in pairs], [rows[g * num_samples] for g, _, _ in pairs]
    )
    equal = {pair for pair, is_same in zip(pairs, same, strict=True) if is_same}
    result: list[str | None] = []
    for g, group in enumerate(groups):
        first_right = next((answer for answer, right in group if right), None)
        vote: dict[str | None, str | None] = {None: None}
        for i, answer in enumerate(wrong[g]):
            vote[answer] = next((vote[other] for other in wrong[g][:i] if (g, other, answer) in equal), answer)
        result += [first_right if right else vote[answer] for answer, right in group]
    return result
