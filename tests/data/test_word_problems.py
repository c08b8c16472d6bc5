import itertools
import random
import re
from collections import Counter

import pytest
from templates import chat

from r1.core.errors import UserError
from r1.data.completion import parse
from r1.data.split import split_of
from r1.data.verifier.exact import exact
from r1.data.word_problems import TASKS, WordProblem, draw_change, word_problems

SUM = re.compile(r"(\d+) ([-+x]) (\d+) = (\d+)")
BY_SIGN = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "x": lambda a, b: a * b}


def build(tasks, num_train=60, num_val=20, seed=0):
    return word_problems(tasks=tasks, num_train=num_train, num_val=num_val, seed=seed, template=chat(), verifier=exact)


@pytest.mark.parametrize("task", TASKS)
def test_every_problem_of_a_task_is_new_right_and_on_its_side(task):
    data = build([task])
    assert (len(data.train), len(data.val)) == (60, 20)
    rows = [*data.train, *data.val]
    assert len({row["prompt"] for row in rows}) == 80
    for row in rows:
        assert parse(row["completion"]).strict
        assert data.correct(row["completion"], row)
        assert row["task"] == task
    assert {split_of(row["prompt"]) for row in data.val} == {"val"}


@pytest.mark.parametrize("task", ["one_step", "two_steps", "boxes", "number_words"])
def test_sums_of_a_solution_are_right_and_lead_from_the_question_to_the_answer(task):
    for seed in range(100):
        problem = TASKS[task](random.Random(seed))
        sums = SUM.findall(problem.solution)
        assert len(sums) == problem.solution.count("=")
        for a, sign, b, result in sums:
            assert BY_SIGN[sign](int(a), int(b)) == int(result) > 0
        assert all(left[3] == right[0] for left, right in itertools.pairwise(sums))
        assert sums[-1][3] == problem.answer


@pytest.mark.parametrize(
    ("task", "answer_of"),
    [
        ("largest", lambda question: str(max(map(int, re.findall(r"\d+", question))))),
        ("backwards", lambda question: "".join(re.findall(r"\b[a-z]\b", question))[::-1]),
        ("alphabet", lambda question: sorted(question.partition(": ")[2].rstrip("?").split(", "))[0]),
        ("equation", lambda question: solved(*map(int, re.findall(r"\d+", question)))),
    ],
)
def test_answer_follows_from_the_question(task, answer_of):
    for seed in range(100):
        question, answer, _ = TASKS[task](random.Random(seed))
        assert answer == answer_of(question)


def solved(factor, term, value):
    return str((value - term) // factor)


def test_opinion_is_the_last_one():
    problems = {TASKS["opinion"](random.Random(seed)) for seed in range(200)}
    assert {(problem.answer, "boring" in problem.solution) for problem in problems} >= {
        ("negative", True),
        ("positive", False),
    }
    assert not any(problem.answer == "positive" and "boring" in problem.solution for problem in problems)


def test_odd_word_is_of_another_kind():
    assert TASKS["odd_one_out"](random.Random(1)) == WordProblem(
        question="Which of these does not belong to the others: arm, ear, hand, saw?",
        answer="saw",
        solution="The others are of the kind body part.",
    )


@pytest.mark.parametrize("count", [1, 2, 19])
def test_draw_change_leaves_at_least_one(count):
    rng = random.Random(0)
    assert all(draw_change(rng, count, 9)[2] >= 1 for _ in range(200))


def test_tasks_have_equal_shares():
    data = build(["one_step", "largest", "equation"], num_train=31, num_val=8)
    assert Counter(row["task"] for row in data.train) == {"one_step": 11, "largest": 10, "equation": 10}


def test_rows_depend_on_the_seed():
    assert build(["one_step"]).train[0] == build(["one_step"]).train[0] != build(["one_step"], seed=1).train[0]


@pytest.mark.parametrize(
    ("tasks", "message"), [([], "there is no task"), (["one_step", "chess"], "there is no task 'chess'")]
)
def test_unknown_task_is_refused(tasks, message):
    with pytest.raises(UserError, match=message):
        build(tasks)


def test_more_problems_than_a_task_has_are_refused():
    with pytest.raises(UserError, match="not that many different problems"):
        build(["equation"], num_train=5000)
