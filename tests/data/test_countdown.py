import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from templates import chat

from r1.core.errors import UserError
from r1.data.completion import parse
from r1.data.countdown import countdown, countdown_question, countdown_row, play
from r1.data.split import split_of
from r1.data.verifier.countdown import countdown as verifier

SHARED = {"template": chat(), "verifier": verifier}
KNOBS = {"min_numbers": 3, "max_numbers": 4, "max_number": 99, "seed": 0}


def build(num_train=300, num_val=40, **knobs):
    return countdown(num_train=num_train, num_val=num_val, **KNOBS | knobs, **SHARED)


def test_row_matches_hand_computation():
    problem = play(random.Random(0), (2, 3), 99)
    found = countdown_row(problem)
    assert found["numbers"] == [2, 3]
    assert found["prompt"].startswith(f"Using the numbers [2, 3], write an expression that equals {problem.target}.")
    a, sign, b = found["answer"].split()
    assert found["completion"] == (
        f"<think> {a} {sign} {b} = {problem.target}.</think>\n<answer>{a} {sign} {b}</answer>"
    )


def test_every_completion_is_right_and_well_formed():
    data = build()
    assert (len(data.train), len(data.val)) == (300, 40)
    for found in data.train + data.val:
        assert 3 <= len(found["numbers"]) <= 4
        assert parse(found["completion"]).strict
        assert data.correct(found["completion"], found)
        assert data.verifier(found["answer"], found)


def keys(rows):
    return {json.dumps([sorted(found["numbers"]), found["target"]]) for found in rows}


def test_no_problem_is_on_both_sides_or_twice():
    data = build()
    train, val = keys(data.train), keys(data.val)
    assert (len(train), len(val)) == (300, 40)
    assert not train & val


def test_the_split_holds_across_seeds_and_orders_of_the_numbers():
    assert not keys(build(seed=1, max_number=20).train) & keys(build(seed=2, max_number=20).val)


def test_rows_depend_on_the_dataset_seed():
    assert build(seed=3).train == build(seed=3).train
    assert build(seed=3).train != build(seed=4).train


def test_about_one_problem_in_ten_is_held_out():
    rng = random.Random(0)
    splits = [split_of(play(rng, tuple(rng.randint(1, 99) for _ in range(4)), 99).key) for _ in range(2000)]
    assert 0.08 < splits.count("val") / 2000 < 0.13


@given(st.randoms(use_true_random=False), st.lists(st.integers(1, 12), min_size=2, max_size=6))
def test_play_ends_in_range_with_a_valid_solution(rng, numbers):
    problem = play(rng, tuple(numbers), 12)
    assert 1 <= problem.target <= 12
    assert len(problem.steps) == len(numbers) - 1
    assert all(1 <= int(step.rpartition("= ")[2]) <= 12 for step in problem.steps)
    assert verifier(problem.expression, {"numbers": numbers, "target": problem.target})


def test_impossible_sizes_are_refused():
    with pytest.raises(UserError, match=r"max_numbers is below min_numbers=6"):
        build(min_numbers=6)
    with pytest.raises(UserError, match=r"not that many different problems(.|\n)* \.num_train"):
        build(num_train=100, min_numbers=2, max_numbers=2, max_number=3)


def test_the_question_names_numbers_and_target():
    assert "[7, 7, 1]" in countdown_question((7, 7, 1), 48)
    assert "equals 48" in countdown_question((7, 7, 1), 48)
