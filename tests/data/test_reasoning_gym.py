"""data=reasoning_gym: the same problems and scores as the package has, and no answer that is run."""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from options import build_option

from r1.core.errors import UserError
from r1.data import reasoning_gym as option
from r1.data.base import Data, as_verifier
from r1.data.verifier import reasoning_gym as gym
from r1.data.verifier import reasoning_gym_worker as worker

package = pytest.importorskip("reasoning_gym", reason="the extra reasoning-gym is not installed")

EVALUATED = [  # the package evaluates answers to these
    *("binary_matrix", "spiral_matrix", "string_insertion", "n_queens", "countdown", "puzzle24", "simple_integration"),
    *("intermediate_integration", "polynomial_multiplication"),
]
TASKS = [
    *EVALUATED,
    *("chain_sum", "leg_counting", "spell_backward", "complex_arithmetic", "coin_flip", "number_sorting"),
    *("knights_knaves", "mini_sudoku", "bitwise_arithmetic", "word_sorting", "polynomial_equations", "jugs"),
    *("propositional_logic", "family_relationships", "tower_of_hanoi", "shortest_path"),
]
MORE = {  # other answers than the gold ones: equal to them, nearly, or wrong
    "countdown": ["1+1", "(2)*(3)", "2**3", "10/4", "x", "1,2"],
    "puzzle24": ["(4*6)*(1/1)", "4*6", "1+", "sqrt(4)*6*2*1"],
    "simple_integration": ["x**2", "x", "C", "sin(x)+C", "x^2", "2x", "0.5*X**2 + C", "exp(X)", "foo(X)"],
    "intermediate_integration": ["x*exp(x) - exp(x) + C", "log(x)", "sin(x)**2/2", "-cos(x)", "1/2*x"],
    "polynomial_multiplication": ["x**2 + 1", "(x+1)*(x-1)", "0", "x*y"],
    "binary_matrix": ["[[0, 1], [1, 0]]", "[1]"],
    "coin_flip": ["1/2", "0.5", "1/0", "50%"],
    "complex_arithmetic": ["1+2i", "i", "3"],
}
EVIL = "__import__('os').system('touch {}') or 1"


def data(tasks: list[str], num_train: int = 4, num_val: int = 2, **knobs: Any) -> Data:
    defaults = {"weights": None, "options": {}, "seed": 0, "template": None, "verifier": lambda answer, row: True}
    return option.reasoning_gym(tasks=tasks, num_train=num_train, num_val=num_val, **defaults | knobs)


@pytest.fixture(scope="module")
def verifier() -> Any:
    return as_verifier(build_option("data/verifier", "reasoning_gym"))


def answers(gold: str, task: str) -> list[str]:
    literal = str([line.split() for line in gold.splitlines()])
    numbers = literal.replace("'", "")
    return [
        gold,
        f" {gold}\n",
        gold[::-1],
        gold + "1",
        "0",
        "-1",
        "abc",
        literal,
        numbers,
        str(list(gold)),
        *MORE.get(task, []),
    ]


REFERENCE = """
import json, sys
import reasoning_gym
scores = []
for task, cases in json.load(sys.stdin).items():
    dataset = reasoning_gym.create_dataset(task, seed=3, size=1000)
    for index, question, texts in cases:
        assert dataset[index]["question"] == question, task
        scores.append([dataset.score_answer(text, dataset[index]) for text in texts])
print(json.dumps(scores))  # the package prints, too
"""


def test_scores_equal_the_packages_own(verifier: Any) -> None:
    """The package in a process of its own: its problems depend on the order of sets."""
    cases: dict[str, list[tuple[int, str, list[str]]]] = {}
    scores = {}
    for task in TASKS:
        (row,) = option.gym_rows(task, 3, {}, {"train": 1, "val": 0})["train"]
        texts = list(dict.fromkeys(filter(None, answers(row["answer"], task))))
        cases[task] = [(row["problem"]["index"], row["prompt"], texts)]
        scores[task] = dict(zip(texts, verifier.score_batch(texts, [row] * len(texts)), strict=True))
        assert scores[task][row["answer"]] == 1
    done = subprocess.run(
        [sys.executable, "-c", REFERENCE],
        input=json.dumps(cases),
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = json.loads(done.stdout.splitlines()[-1])
    for (key, actual), values in zip(scores.items(), expected, strict=True):
        assert actual == pytest.approx(dict(zip(actual, values, strict=True))), key


def test_answers_are_never_run(tmp_path: Path, verifier: Any) -> None:
    for task in TASKS:
        (row, *_) = option.gym_rows(task, 3, {}, {"train": 1, "val": 0})["train"]
        evil = EVIL.format(tmp_path / "pwned")
        texts = [evil, f"[{evil}]", f"x + {evil}", "(lambda: 24)()", "x.__class__", "9**9**9", "(" * 2000]
        assert max(verifier.score_batch(texts, [row] * len(texts))) < 1
    assert list(tmp_path.iterdir()) == []


RUNS_TEXT = {"eval", "exec", "compile", "parse_expr", "sympy.parse_expr", "sp.parse_expr", "sympify", "sympy.sympify"}
OF_ITS_OWN = {  # scorers that evaluate the problem or the gold answer alone, or have a parser of that name
    "NumberSortingDataset": {"eval"},
}


def test_scorers_that_evaluate_answers_are_all_patched() -> None:
    """Of the version that is pinned: another one may evaluate answers elsewhere."""
    from reasoning_gym.factory import DATASETS

    evaluates = {}
    for cls in {cls for cls, _ in DATASETS.values()}:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls.score_answer)))
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)} & RUNS_TEXT
        if calls - OF_ITS_OWN.get(cls.__name__, set()):
            evaluates[cls.__module__.removeprefix("reasoning_gym.")] = calls
    assert evaluates == {module: {name} for module, name in worker.PATCHED.items()}


def test_problems_are_seeded_weighted_and_split_by_question() -> None:
    first = data(["chain_sum", "leg_counting"], num_train=30, num_val=10, weights=[2, 1])
    again = data(["chain_sum", "leg_counting"], num_train=30, num_val=10, weights=[2, 1])
    assert first.digest() == again.digest()
    assert (
        first.digest() != data(["chain_sum", "leg_counting"], num_train=30, num_val=10, weights=[2, 1], seed=1).digest()
    )
    assert Counter(row["task"] for row in first.train) == {"chain_sum": 20, "leg_counting": 10}
    assert Counter(row["task"] for row in first.val) == {"chain_sum": 7, "leg_counting": 3}
    questions = [row["prompt"] for row in (*first.train, *first.val)]
    assert len(set(questions)) == 40


def test_options_of_a_task_reach_the_package() -> None:
    (row,) = data(["chain_sum"], 1, 1, options={"chain_sum": {"min_terms": 9, "max_terms": 9}}).train
    assert row["prompt"].count(" + ") + row["prompt"].count(" - ") == 8


@pytest.mark.parametrize(
    ("knobs", "key", "message"),
    [
        ({"tasks": ["chain_sums"]}, ".tasks", "there is no task `chain_sums`"),
        ({"tasks": []}, ".tasks", "one task or more"),
        ({"tasks": ["chain_sum"], "weights": [1.0, 2.0]}, ".weights", "one weight"),
        ({"tasks": ["chain_sum"], "options": {"leg_counting": {}}}, ".options", "no task `leg_counting`"),
        ({"tasks": ["chain_sum"], "options": {"chain_sum": {"terms": 3}}}, ".options.chain_sum", "unexpected keyword"),
        ({"tasks": ["chain_sum"], "options": {"chain_sum": {"min_terms": 0}}}, ".options.chain_sum", "min_terms"),
        (
            {"tasks": ["coin_flip"], "num_train": 400, "options": {"coin_flip": {"max_trials": 4}}},
            ".num_train",
            "not that many different problems",
        ),
    ],
)
def test_wrong_knobs_are_one_error(knobs: dict[str, Any], key: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        data(**knobs)
    assert caught.value.key == key


def test_missing_package_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="which is not installed") as caught:
        data(["chain_sum"])
    assert "reasoning-gym" in caught.value.hint
