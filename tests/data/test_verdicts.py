from functools import partial

from r1.data.base import Data, verify_completions
from r1.data.verifier.exact import exact
from r1.data.verifier.math import math, pop_counts


def test_a_batch_is_asked_at_once_where_the_verifier_can():
    asked = []

    def plain(answer, row):
        asked.append(answer)
        return answer == row["answer"]

    def several(answers, rows, **knobs):
        asked.append((answers, knobs))
        return [answer == row["answer"] for answer, row in zip(answers, rows, strict=True)]

    rows = [{"answer": "1"}, {"answer": "2"}, {"answer": "3"}]
    assert verify_completions(plain, ["1", None, "2"], rows) == [True, False, False]
    plain.many = several
    assert verify_completions(partial(plain, knob=1), ["1", None, "3"], rows) == [True, False, True]
    assert verify_completions(plain, [None, None, None], rows) == [False] * 3
    assert asked == ["1", "2", (["1", "3"], {"knob": 1}), ([], {})]


def test_data_counts_what_its_verifier_counts():
    data = Data([], [], template=None, verifier=partial(math, seconds=2.0))
    pop_counts()
    assert data.all_correct(["<answer>9^{9^9}</answer>", "none"], [{"answer": "1"}] * 2) == [False, False]
    assert data.pop_scorer_counts() == {"scorer/timeouts": 0, "scorer/died": 0, "scorer/guard": 1}
    assert Data([], [], template=None, verifier=exact).pop_scorer_counts() == {}
