from mathverifier import math_verifier

from r1.data.base import Data, Verifier, as_verifier, verify_completions
from r1.data.mixture import MixtureVerifier
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
    assert data.pop_error_counts() == {"scorer/timeouts": 0, "scorer/died": 0, "scorer/guard": 1, "scorer/gold": 0}
    assert Data([], [], template=None, verifier=exact).pop_error_counts() == {}


UNREADABLE = [
    r"\int_0^1 x^2 dx",
    "9^{9^9}",
    r"\sum_{n=1}^k n",
    "the function grows without any bound as x does so",
    "17 42",
    "",
]
READABLE = ["42", r"\frac{1}{2}", "x^2", "Monday", r"\text{no solution}", "(1,2]", "f(x)=x", r"\boxed{12}"]


def test_gold_answers_that_cannot_be_read_are_found() -> None:
    rows = [{"answer": text} for text in [*READABLE, *UNREADABLE]]
    assert math_verifier().reads(rows) == [True] * len(READABLE) + [False] * len(UNREADABLE)
    assert as_verifier(exact).reads([{"answer": "5"}, {"answer": "x"}, {"answer": " "}]) == [True, True, False]
    mixed = MixtureVerifier({"a": math_verifier()})
    assert mixed.reads(rows) == math_verifier().reads(rows)


def test_wrong_answers_to_an_unreadable_gold_are_counted() -> None:
    verifier = math_verifier()
    golds = [{"answer": "17 42"}] * 3 + [{"answer": "3"}]
    assert verifier.verify_batch(["17  42", "1742", "x", "4"], golds) == [True, False, False, False]
    assert verifier.pop_error_counts() == {"timeouts": 0, "died": 0, "guard": 0, "gold": 2}
