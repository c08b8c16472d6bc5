"""Rewards: the weighted sum, what a term is given, and what happens when a term misbehaves."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r1.core.errors import REWARD, UserError
from r1.data.base import Row, as_verifier
from r1.reward.base import RewardFunction, Rewards, Scores, Term, required_columns
from r1.rollout.base import no_op


@as_verifier
def equal(answer: str, row: Row) -> bool:
    return bool(answer == row["answer"])


def constant(values: list[Any]) -> RewardFunction:
    def given(prompts: list[str], completions: list[str], **columns: Any) -> list[float | None]:
        return values

    return given


def rewards(**terms: tuple[RewardFunction, float | None]) -> Rewards:
    return Rewards({name: Term(name, function, weight) for name, (function, weight) in terms.items()})


def score(reward: Rewards, rows: list[Row], completions: list[str] | None = None) -> Scores:
    texts = completions or [""] * len(rows)
    return reward.score(["q"] * len(rows), texts, rows, equal, [[1]] * len(rows), 10)


def test_weighted_sum_leaves_out_none_and_nan() -> None:
    reward = rewards(a=(constant([1.0, None, 0.5, None]), 2.0), b=(constant([0.5, 3, math.nan, math.nan]), -1.0))
    scores = score(reward, [{}] * 4)
    assert scores.total[:3] == [1.5, -3.0, 1.0]
    assert math.isnan(scores.total[3])
    assert scores.terms["a"][0::2] == [1.0, 0.5]
    assert all(map(math.isnan, scores.terms["a"][1::2]))
    assert scores.terms["b"][:2] == [0.5, 3.0]


def test_raw_terms_are_reported_without_their_weight_even_where_it_is_null() -> None:
    scores = score(rewards(a=(constant([4.0]), None), b=(constant([1.0]), 0.5)), [{}])
    assert scores == Scores({"a": [4.0], "b": [1.0]}, {"a": None, "b": 0.5}, [0.5])


def test_the_order_of_the_terms_does_not_change_a_bit_of_the_sum() -> None:
    terms: dict[str, tuple[RewardFunction, float | None]] = {
        name: (constant([value]), 1.0) for name, value in (("a", 0.1), ("b", 0.2), ("c", 0.3))
    }
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1
    backwards = dict(reversed(terms.items()))
    assert score(rewards(**terms), [{}]).total == score(rewards(**backwards), [{}]).total == [0.6]


def test_a_term_that_is_only_reported_gives_no_total() -> None:
    assert math.isnan(score(rewards(a=(constant([4.0]), None), b=(constant([None]), 1.0)), [{}]).total[0])


def test_empty_batch() -> None:
    assert score(rewards(a=(constant([]), 1.0)), []) == Scores({"a": []}, {"a": 1.0}, [])


finite = st.floats(-100, 100)


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=8), finite, finite, st.floats(0.1, 10))
def test_total_is_linear_in_the_weights(values: list[tuple[float, float]], u: float, v: float, scale: float) -> None:
    a, b = ([pair[i] for pair in values] for i in (0, 1))

    def total(wa: float, wb: float) -> list[float]:
        return score(rewards(a=(constant(a), wa), b=(constant(b), wb)), [{}] * len(values)).total

    both, swapped = total(u, v), score(rewards(b=(constant(b), v), a=(constant(a), u)), [{}] * len(a)).total
    assert both == swapped == pytest.approx([x + y for x, y in zip(total(u, 0), total(0, v), strict=True)])
    assert total(scale * u, scale * v) == pytest.approx([scale * t for t in both])


def test_term_gets_common_columns_and_injected_arguments() -> None:
    seen: dict[str, Any] = {}

    def spy(prompts: list[str], completions: list[str], answer: list[str], **columns: Any) -> list[float | None]:
        seen.update(columns, prompts=prompts, completions=completions, answer=answer)
        return [0.0] * len(prompts)

    rows: list[Row] = [{"answer": "1", "numbers": [1], "extra": 5}, {"answer": "2", "numbers": [2, 3]}]
    rewards(spy=(spy, 1.0)).score(["p", "q"], ["x", "y"], rows, equal, [[1], [2, 3]], 10)
    assert seen == {
        "prompts": ["p", "q"],
        "completions": ["x", "y"],
        "answer": ["1", "2"],
        "numbers": [[1], [2, 3]],
        "rows": rows,
        "verifier": equal,
        "completion_ids": [[1], [2, 3]],
        "max_completion_length": 10,
        "check_for_stop": no_op,
    }


def test_a_knob_keeps_its_value_when_a_column_has_its_name() -> None:
    def term(prompts: list[str], completions: list[str], *, target: int, **columns: Any) -> list[float | None]:
        return [float(target)] * len(prompts)

    assert score(rewards(t=(partial(term, target=7), 1.0)), [{"target": 24}]).total == [7.0]


def test_function_without_kwargs_gets_only_its_arguments() -> None:
    def lengths(completions: list[str]) -> list[float | None]:
        return [float(len(c)) for c in completions]

    assert score(rewards(t=(lengths, 1.0)), [{"answer": "8"}], ["abc"]).total == [3.0]


def test_required_columns_are_positional_without_default() -> None:
    def trl(completions: list[str], solution: list[str], note: str = "", **kwargs: Any) -> list[float | None]:
        return []

    def ours(
        prompts: list[str],
        completions: list[str],
        verifier: Any,
        scale: float,
        numbers: Any,
        *,
        knob: int,
        **c: Any,
    ) -> list[float | None]:
        return []

    assert required_columns(trl) == {"solution"}
    assert required_columns(partial(trl, solution=[])) == set()
    assert required_columns(partial(ours, scale=1.0)) == {"numbers"}
    assert required_columns(partial(ours, scale=2.0, knob=1)) == {"numbers"}


def test_a_missing_column_names_the_term_and_the_column() -> None:
    def needs(prompts: list[str], completions: list[str], solution: list[str]) -> list[float | None]:
        return []

    with pytest.raises(UserError, match=r"(?s)`mine`.*needs.*solution.*reward.terms.mine") as caught:
        score(rewards(mine=(needs, 1.0)), [{"answer": "8"}])
    assert caught.value.code == REWARD


@pytest.mark.parametrize(
    "values",
    [
        (0.5, 2),
        np.array([0.5, 2.0]),
        np.array([0.5, 2.0], np.float16),
        torch.tensor([0.5, 2.0]),
        torch.tensor([0.5, 2.0], dtype=torch.bfloat16),
        torch.tensor([[0.5], [2.0]]),
        [np.float32(0.5), np.int64(2)],
        [torch.tensor(0.5), torch.tensor(2)],
        [np.array(0.5), torch.tensor([2])],
        [Decimal("0.5"), Fraction(2)],
    ],
)
def test_a_term_may_return_arrays_and_scalars_of_any_library(values: Any) -> None:
    assert score(rewards(a=(constant(values), 1.0)), [{}, {}]).total == [0.5, 2.0]


def test_nan_in_an_array_does_not_apply_and_a_bool_is_a_number() -> None:
    scores = score(rewards(a=(constant(np.array([np.nan, 1.0])), 1.0)), [{}, {}])  # type: ignore[arg-type]
    assert math.isnan(scores.total[0])
    assert score(rewards(a=(constant([True, np.bool_(False)]), 1.0)), [{}, {}]).total == [1.0, 0.0]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([1.0], "1 values for 2 completions"),
        ([1.0, 2.0, 3.0], "3 values for 2 completions"),
        (1.0, "returned float"),
        (None, "returned NoneType"),
        (torch.zeros(3), "3 values for 2 completions"),
        (torch.zeros(2, 2), "Tensor for sample 0"),
        (torch.tensor(1.0), "returned Tensor"),
        (np.array([1 + 2j, 1]), "complex128 for sample 0"),
        ([np.complex64(1), 1], "complex64 for sample 0"),
        (np.array(1.0), "returned ndarray"),
        (np.zeros((2, 2)), "ndarray for sample 0"),
        (np.array([1.0, np.inf]), "inf for sample 1"),
        ("10", "returned str"),
        ({"a": 1.0, "b": 2.0}, "returned dict"),
        ({1.0, 2.0}, "returned set"),
        ([1.0, 1j], "complex for sample 1"),
        ([1.0, 10**400], "int for sample 1"),
        ([1.0, "1.0"], "str for sample 1"),
        ([math.inf, 1.0], "inf for sample 0"),
        ([1.0, -math.inf], "-inf for sample 1"),
    ],
)
def test_a_bad_return_value_names_the_term_the_function_and_the_sample(values: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        score(rewards(good=(constant([1.0, 1.0]), 1.0), bad=(constant(values), 1.0)), [{}, {}])
    text = str(caught.value)
    assert says in text
    assert "reward.terms.bad" in text
    assert "constant.<locals>.given" in text
    assert caught.value.code == REWARD


def test_an_exception_names_the_sample_that_causes_it() -> None:
    def ratio(prompts: list[str], completions: list[str], answer: list[str], **columns: Any) -> list[float | None]:
        return [1 / int(a) for a in answer]

    with pytest.raises(UserError, match=r"ZeroDivisionError.*sample 2") as caught:
        score(rewards(ratio=(ratio, 1.0)), [{"answer": a} for a in ("1", "2", "0", "0")])
    assert caught.value.key == "reward.terms.ratio"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_exception_of_the_full_batch_alone_is_reported() -> None:
    def picky(prompts: list[str], completions: list[str], **columns: Any) -> list[float | None]:
        if len(prompts) > 1:
            raise RuntimeError("too many")
        return [0.0]

    with pytest.raises(UserError, match=r"too many.*whole batch"):
        score(rewards(picky=(picky, 1.0)), [{}, {}])


def test_a_user_error_of_a_term_passes_unchanged() -> None:
    def fails(prompts: list[str], completions: list[str], **columns: Any) -> list[float | None]:
        raise UserError("mend this", key="here")

    with pytest.raises(UserError, match=r"^mend this\n  key      here$"):
        score(rewards(fails=(fails, 1.0)), [{}])


def test_lists_of_different_length_raise_value_error() -> None:
    with pytest.raises(ValueError, match="different length"):
        rewards(a=(constant([1.0]), 1.0)).score(["q"], ["c"], [{}, {}], equal, [[1]], 10)


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_weight_must_be_finite(weight: float) -> None:
    with pytest.raises(UserError, match=r"must be finite(.|\n)* \.weight"):
        Term("a", constant([]), weight)


# ---- each row says which terms apply to it ----


def test_term_gets_only_the_rows_that_it_applies_to() -> None:
    seen: list[list[str]] = []

    def level(completions: list[str], level: list[int]) -> list[float | None]:
        seen.append(completions)
        return [float(n) for n in level]

    rows: list[Row] = [
        {"terms": ["level"], "level": 3},
        {"terms": ["other"]},
        {"level": 5},
        {"terms": None, "level": 7},
    ]
    reward = rewards(level=(level, 2.0), other=(lambda completions: [1.0] * len(completions), 0.5))
    scores = score(reward, rows, ["a", "b", "c", "d"])
    assert seen == [["a", "c", "d"]]
    assert scores.total == [6.0, 0.5, 10.5, 14.5]
    assert [math.isnan(value) for value in scores.terms["level"]] == [False, True, False, False]
    assert [math.isnan(value) for value in scores.terms["other"]] == [True, False, False, False]
    assert scores.part([1, 2]).total == [0.5, 10.5]


def test_term_without_rows_is_not_called_and_row_without_terms_has_no_total() -> None:
    def fails(completions: list[str]) -> list[float | None]:
        raise AssertionError

    scores = score(rewards(fails=(fails, 1.0)), [{"terms": []}, {"terms": ["x"]}])
    assert all(map(math.isnan, scores.total))


def test_error_counts_are_named_by_term() -> None:
    class Counting:
        def __call__(self, completions: list[str]) -> list[float | None]:
            return [None] * len(completions)

        def pop_error_counts(self) -> dict[str, int]:
            return {"errors": 2}

    assert rewards(a=(Counting(), 1.0), b=(constant([]), 1.0)).pop_error_counts() == {"scorer/a_errors": 2}
