from mathverifier import math_verifier

from r1.data.base import Data, Verifier, as_verifier, verify_completions
from r1.data.verifier.exact import exact

ROWS = [{"answer": "1"}, {"answer": "2"}, {"answer": "3"}]


def test_plain_function_verifies_one_answer_at_a_time():
    answers = []

    def equal(answer, row):
        answers.append(answer)
        return answer == row["answer"]

    assert verify_completions(as_verifier(equal), ["1", None, "2"], ROWS) == [True, False, False]
    assert answers == ["1", "2"]


def test_verifier_gets_all_answers_of_a_batch_at_once():
    batches = []

    class Recording(Verifier):
        def __call__(self, answer, row):
            raise AssertionError

        def verify_batch(self, answers, rows):
            batches.append(answers)
            return [answer == row["answer"] for answer, row in zip(answers, rows, strict=True)]

    verifier = as_verifier(Recording())
    assert verify_completions(verifier, ["1", None, "3"], ROWS) == [True, False, True]
    assert verify_completions(verifier, [None, None, None], ROWS) == [False] * 3
    assert batches == [["1", "3"], []]


def test_data_counts_what_its_verifier_counts():
    data = Data([], [], template=None, verifier=math_verifier())
    assert data.all_correct(["<answer>9^{9^9}</answer>", "none"], [{"answer": "1"}] * 2) == [False, False]
    assert data.pop_error_counts() == {"scorer/timeouts": 0, "scorer/died": 0, "scorer/guard": 1}
    assert Data([], [], template=None, verifier=exact).pop_error_counts() == {}
