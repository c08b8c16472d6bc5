"""Which rows are held out when no number is set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1.core.errors import UserError
from r1.data.split import hold_out


@pytest.mark.parametrize(("num_rows", "num_val"), [(2, 1), (9, 1), (19, 1), (300, 30), (2560, 256), (9999, 256)])
def test_hold_out_without_a_number_takes_a_tenth_up_to_256(num_rows: int, num_val: int) -> None:
    train, val = hold_out([f"{n}?" for n in range(num_rows)], None)
    assert (len(train), len(val)) == (num_rows - num_val, num_val)


@given(st.lists(st.integers(0, 20), min_size=2, max_size=80))
def test_hold_out_without_a_number_never_outnumbers_the_training_rows(questions: list[int]) -> None:
    prompts = [f"{n}?" for n in questions]
    if len(set(prompts)) == 1:
        with pytest.raises(UserError, match="leaves none"):
            hold_out(prompts, None)
        return
    train, val = hold_out(prompts, None)
    assert sorted([*train, *val]) == list(range(len(prompts)))
    assert not {prompts[i] for i in train} & {prompts[i] for i in val}
    assert 0 < len(val) <= len(train)


def test_hold_out_without_a_number_does_not_depend_on_the_order() -> None:
    prompts = [f"{n % 37}?" for n in range(100)]
    backwards = prompts[::-1]
    assert {prompts[i] for i in hold_out(prompts, None)[1]} == {backwards[i] for i in hold_out(backwards, None)[1]}


def test_a_question_with_more_rows_than_the_share_is_not_held_out() -> None:
    prompts = ["often"] * 90 + [f"{n}?" for n in range(10)]
    assert "often" not in {prompts[i] for i in hold_out(prompts, None)[1]}
