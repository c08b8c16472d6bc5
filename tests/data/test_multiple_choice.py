"""Benchmarks in the Hub's layouts, and what multiple choice makes of its options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hubsets import BENCHMARKS, DOMAINS, NUM_ROWS, SUBJECTS, number, question, write_jsonl

from r1.config.build import build_data
from r1.config.check.config import check_schema
from r1.core.errors import UserError
from r1.core.runs import published
from r1.data.base import Data, recorded
from r1.data.multiple_choice import choice_row

Compose = Callable[..., dict[str, Any]]
LETTERS = "ABCDEFGHIJ"
RIGHT: dict[str, Callable[[int], str]] = {  # option -> the right answer of question i
    "aime24": lambda i: f"{number(i)}.0",
    "aime25": lambda i: f"${number(i)}$",
    "math500": lambda i: f"\\dfrac{{{number(i)}}}7",
    "gpqa_diamond": lambda i: f"{number(i)} pens",
    "gsm8k": lambda i: str(number(i + NUM_ROWS)),
    "mmlu_pro": lambda i: "ABC"[i % 3],
}
SAMPLES = {"aime24": 64, "aime25": 64, "math500": 16, "gpqa_diamond": 64, "gsm8k": 8, "mmlu_pro": 1}


@pytest.fixture(scope="module")
def evaluated(config: Compose, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[dict[str, Any], Data]]:
    """``evaluated(option, *overrides)``: the config and the rows of a benchmark's copy."""

    def read(option: str, *overrides: str) -> tuple[dict[str, Any], Data]:
        folder = tmp_path_factory.mktemp("hub") / option
        BENCHMARKS[option](folder)
        cfg = config("stage=eval", f"data={option}", f"data.path={folder}", *overrides)
        check_schema(cfg)
        return cfg, build_data(cfg)

    return read


@pytest.mark.parametrize("option", BENCHMARKS)
def test_benchmark_in_the_hubs_layout_is_evaluated_whole(evaluated: Any, option: str) -> None:
    cfg, data = evaluated(option)
    assert (len(data.train), len(data.val)) == (0, NUM_ROWS)
    first = NUM_ROWS if option == "gsm8k" else 0
    for i, row in enumerate(data.val):
        assert row["prompt"].startswith(question(first + i))
        assert data.correct(f"So \\boxed{{{RIGHT[option](i)}}}", row) is True
        assert data.correct(f"So \\boxed{{{RIGHT[option](i + 1)}}}", row) is False
    assert all(data.verifier.reads(list(data.val)))
    assert cfg["val"]["num_samples"] == SAMPLES[option]
    assert cfg["val"]["ks"] == [1, SAMPLES[option]]
    assert cfg["val"]["num_prompts"] >= NUM_ROWS
    assert data.instruction is not None


@pytest.mark.parametrize(
    ("option", "subjects", "levels"),
    [
        ("math500", SUBJECTS, {1, 2, 3, 4, 5}),
        ("gpqa_diamond", DOMAINS, None),
        ("mmlu_pro", SUBJECTS, None),
    ],
)
def test_benchmark_with_subjects_has_them_as_columns(evaluated: Any, option: str, subjects: Any, levels: Any) -> None:
    rows = evaluated(option)[1].val
    assert {row["subject"] for row in rows} == {*subjects}
    assert levels is None or {row["level"] for row in rows} == levels


def test_benchmark_samples_set_by_hand_win(config: Compose) -> None:
    assert config("stage=eval", "data=aime24", "val.num_samples=4")["val"]["ks"] == [1, 4]


def test_gpqa_configuration_by_name_is_read(evaluated: Any) -> None:
    assert len(evaluated("gpqa_diamond", "data.name=gpqa_main")[1].val) == NUM_ROWS + 5
    with pytest.raises(UserError) as error:
        evaluated("gpqa_diamond", "data.name=gpqa_dimond")
    assert "gpqa_diamond" in error.value.expected


@pytest.mark.parametrize(
    ("option", "column", "message"),
    [
        ("aime24", "prompt=Problem", "the columns are id, problem, solution, answer, url, year"),
        ("math500", "subject=topic", "the columns are problem, solution, answer, subject, level, unique_id"),
        ("gpqa_diamond", "incorrect_3=Incorrect Answer 4", "Incorrect Answer 1, Incorrect Answer 2"),
        ("mmlu_pro", "options=choices", "question_id, question, options, answer, answer_index"),
    ],
)
def test_missing_column_names_those_of_the_hub(evaluated: Any, option: str, column: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        evaluated(option, f"data.columns.{column}")
    assert message in error.value.message
    assert error.value.key == f"data.columns.{column.partition('=')[0]}"


@pytest.mark.parametrize("option", ["mmlu_pro", "gsm8k"])
def test_missing_split_names_those_of_the_hub(evaluated: Any, option: str) -> None:
    with pytest.raises(UserError) as error:
        evaluated(option, "data.val_split=tests")
    assert "test" in error.value.expected.split(", ")
    assert error.value.key == "data.val_split"


def test_gpqa_record_has_no_question_and_page_no_completion(evaluated: Any, config: Compose, tmp_path: Path) -> None:
    line = {"private": True, "completion": "We read: ...", "reward": 1.0}
    assert published(line) == {"private": True, "reward": 1.0}
    assert published(line | {"private": False}) == line | {"private": False}
    row = evaluated("gpqa_diamond")[1].val[0]
    public = recorded(row)
    assert {*public} == {"prompt", "answer", "subject", "option_order", "private_question"}
    assert public["prompt"].startswith("question ")
    with_question = evaluated("gpqa_diamond", "data.keep_questions=true")[1].val[0]
    assert recorded(with_question) == with_question


def options_row(**columns: Any) -> dict[str, Any]:
    return {"prompt": "Which?", "options": ["one", "two", "three", "four"], "answer": "C"} | columns


def test_options_are_lettered_lines_below_the_question() -> None:
    row = choice_row("letter", None, options_row(), "f:1")
    assert row["prompt"] == "Which?\n\nA. one\nB. two\nC. three\nD. four"
    assert (row["answer"], row["option_order"]) == ("C", [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("answer_is", "answer"), [("letter", "C"), ("index", 2), ("text", "three"), ("text", " three\n")]
)
def test_shuffled_options_keep_the_right_one(answer_is: Any, answer: Any) -> None:
    orders = set()
    for i in range(60):
        row = choice_row(answer_is, 7, options_row(prompt=f"Which? {i}", answer=answer), "f:1")
        assert row["options"][LETTERS.index(row["answer"])] == "three"
        assert row["options"] == [["one", "two", "three", "four"][j] for j in row["option_order"]]
        orders.add(tuple(row["option_order"]))
    assert len(orders) > 20  # of 24; each position is as likely for the right one
    assert choice_row(answer_is, 7, options_row(answer=answer), "f:1") == choice_row(
        answer_is, 7, options_row(answer=answer), "g:9"
    )


def test_shuffled_options_put_the_right_one_at_each_place_equally_often() -> None:
    rows = [choice_row("letter", 0, options_row(prompt=f"Which? {i}"), "f:1") for i in range(400)]
    counts = [sum(row["answer"] == letter for row in rows) for letter in "ABCD"]
    assert sum((count - 100) ** 2 / 100 for count in counts) < 16.3  # chi-square, 3 degrees of freedom, 0.1 %


@pytest.mark.parametrize(
    ("answer_is", "columns", "key"),
    [
        ("letter", {"answer": "E"}, ".columns.answer"),
        ("letter", {"answer": 2}, ".columns.answer"),
        ("index", {"answer": 4}, ".columns.answer"),
        ("index", {"answer": "C"}, ".columns.answer"),
        ("index", {"answer": True}, ".columns.answer"),
        ("text", {"answer": "five"}, ".columns.answer"),
        ("letter", {"options": None}, ".columns.options"),
        ("letter", {"options": ["one"]}, ".columns.options"),
        ("letter", {"options": ["one", None]}, ".columns.options"),
        ("letter", {"options": "one, two"}, ".columns.options"),
        ("letter", {"options": ["one", " "]}, ".columns.options"),
    ],
)
def test_row_without_a_right_option_is_an_error(answer_is: Any, columns: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as error:
        choice_row(answer_is, None, options_row(**columns), "f:1")
    assert error.value.key == key


def test_multiple_choice_reads_files_of_ones_own(config: Compose, tmp_path: Path) -> None:
    rows = [{"question": question(i), "choices": ["no", f"{number(i)}"], "label": 1} for i in range(30)]
    write_jsonl(rows, tmp_path / "rows.jsonl")
    columns = ["data.columns.options=choices", "data.columns.answer=label", "data.answer_is=index"]
    cfg = config("data=multiple_choice", f"data.path={tmp_path / 'rows.jsonl'}", *columns)
    data = build_data(cfg)
    assert (len(data.train), len(data.val)) == (27, 3)
    assert all(row["answer"] == "B" for row in data.train)
