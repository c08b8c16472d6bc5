import random

import pytest
from templates import chat

from r1.core.errors import UserError
from r1.data.arithmetic import arithmetic, perturb, sum_question, sum_row, worked_solution
from r1.data.completion import parse
from r1.data.split import split_of
from r1.data.verifier.exact import exact

SHARED = {"template": chat(), "verifier": exact}
KNOBS = {"min_terms": 3, "max_terms": 5, "max_term": 9, "language": "en", "seed": 0}


def build(num_train=300, num_val=40, **knobs):
    return arithmetic(num_train=num_train, num_val=num_val, **KNOBS | knobs, **SHARED)


def test_row_matches_hand_computation():
    found = sum_row([3, 5, 8], " 3 plus 5 is 8, plus 8 is 16.")
    assert found == {
        "prompt": "3+5+8=?",
        "answer": "16",
        "completion": "<think> 3 plus 5 is 8, plus 8 is 16.</think>\n<answer>16</answer>",
    }


def test_worked_solution_in_each_language():
    rng = random.Random(0)
    assert worked_solution([3, 5, 8], rng, ["en"]) == " 3 plus 5 is 8, plus 8 is 16."
    assert worked_solution([3, 5, 8], rng, ["zh"]) == " 3 加 5 得 8， 加 8 得 16。"


def test_every_completion_is_right_and_well_formed():
    data = build()
    assert (len(data.train), len(data.val)) == (300, 40)
    for found in data.train + data.val:
        terms = [int(term) for term in found["prompt"].removesuffix("=?").split("+")]
        assert 3 <= len(terms) <= 5
        assert all(1 <= term <= 9 for term in terms)
        assert found["answer"] == str(sum(terms))
        assert parse(found["completion"]).strict
        assert data.correct(found["completion"], found)


def test_no_problem_is_on_both_sides_or_twice():
    data = build()
    train, val = ([found["prompt"] for found in rows] for rows in (data.train, data.val))
    assert len({*train, *val}) == 340
    assert all(split_of(prompt) == "val" for prompt in val)


def test_the_split_holds_across_seeds():
    train = {found["prompt"] for found in build(seed=1).train}
    assert not train & {found["prompt"] for found in build(seed=2).val}


def test_rows_depend_on_the_dataset_seed():
    assert build(seed=3).train == build(seed=3).train
    assert build(seed=3).train != build(seed=4).train


def test_impossible_sizes_are_refused():
    with pytest.raises(UserError, match="max_terms"):
        build(min_terms=6)
    with pytest.raises(UserError, match="num_train"):
        build(num_train=1000, min_terms=2, max_terms=2, max_term=3)


def test_perturbed_value_is_near_and_different():
    rng = random.Random(0)
    assert all(perturb(n, rng) != n and abs(perturb(n, rng) - n) <= 10 for n in range(1, 200))


def test_slips_change_the_result_and_waits_do_not():
    terms = [3, 5, 8, 2]
    slipped = worked_solution(terms, random.Random(1), ["en"], slip_rate=1.0)
    assert not slipped.endswith(f" {sum(terms)}.")
    mended = worked_solution(terms, random.Random(1), ["en"], wait_rate=1.0)
    assert mended.count("wait") == 3
    assert mended.endswith(" 18.")
    assert sum_question(terms) == "3+5+8+2=?"
