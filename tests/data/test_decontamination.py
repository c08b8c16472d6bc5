"""Rows that share ten words with an evaluation set are not trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hubsets import BENCHMARKS, question, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from r1.config.build import build_data
from r1.core.errors import UserError
from r1.data.base import Data
from r1.data.decontamination import is_shared, option_values, sequence_hashes

WORDS = [f"word{letter}" for letter in "abcdefghijklmnop"]
TEN, NINE = " ".join(WORDS[:10]), " ".join(WORDS[:9])
Read = Callable[..., Data]


def shares(text: str, known: str) -> bool:
    return is_shared(sequence_hashes(text), np.unique(sequence_hashes(known)))


@pytest.mark.parametrize(
    ("text", "known", "expected"),
    [
        (f"so {TEN} and more", f"a question: {TEN}?", True),
        (f"so {NINE} and more words here", f"a question: {NINE}?", False),  # nine in a row
        (TEN.upper().replace(" ", ",\n  "), TEN, True),  # case, punctuation and lines do not count
        (TEN.replace("wordb", "$\\wordb$"), TEN, True),
        (TEN.replace("wordb", "words"), TEN, False),
        ("What is 7+5?", "what is 7 + 5", True),  # a short question, of the same words
        ("What is 7+5? It is 12, I think, and so do you.", "What is 7+5?", False),
        ("What is 7+5?", "What is 7+6?", False),
        ("", "", False),
        ("?!", "...", False),
        ("小明有三个苹果又买了两个他一共有几个", "请问小明有三个苹果又买了两个", True),  # ten characters
        ("小明有三个苹果", "小明有三个梨子又买了两个他一共有几个", False),
    ],
)
def test_texts_share_ten_words_in_a_row_or_are_the_same_short_ones(text: str, known: str, expected: bool) -> None:
    assert shares(text, known) is expected


@given(st.lists(st.sampled_from(WORDS), max_size=30), st.lists(st.sampled_from(WORDS), max_size=30))
def test_shared_sequences_are_those_of_a_slow_comparison(own: list[str], other: list[str]) -> None:
    def sequences(words: list[str]) -> set[tuple[str, ...]]:
        length = min(len(words), 10)
        return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)} if words else set()

    assert shares(" ".join(own), " ".join(other)) == bool(sequences(own) & sequences(other))


@pytest.fixture
def read(config: Any, tmp_path: Path) -> Read:
    """``read("set.jsonl")``: 40 training rows, of which 4 share ten words with question(0) to (3), decontaminated."""
    texts = [f"Sum {i}: what is {i}+{i}?" for i in range(36)]
    rows = [{"prompt": text, "answer": "1", "completion": "It is so."} for text in texts]
    rows += [{"prompt": f"{question(0)} Say.", "answer": "1", "completion": "x"}]
    rows += [{"prompt": "Invent one.", "answer": "1", "completion": f"Here: {question(1)}"}]
    rows += [{"prompt": question(i).upper(), "answer": "1", "completion": "x"} for i in (2, 3)]
    write_jsonl(rows, tmp_path / "train.jsonl")

    def built(*names: object, **knobs: Any) -> Data:
        listed = ",".join(f"'{name}'" for name in names)
        overrides = [f"data.{name}={value}" for name, value in knobs.items()]
        overrides += [f"data.path={tmp_path / 'train.jsonl'}", f"data.decontaminate=[{listed}]"]
        return build_data(config("stage=sft", "data=dataset", "data.num_val=1", *overrides))

    return built


@pytest.mark.parametrize("option", ["aime24", "math500", "gpqa_diamond", "mmlu_pro"])
def test_rows_that_share_ten_words_with_a_set_of_the_hub_are_left_out(
    read: Read, tmp_path: Path, option: str, caplog: pytest.LogCaptureFixture
) -> None:
    BENCHMARKS[option](tmp_path / option)
    folder = tmp_path / option / "gpqa_diamond.csv" if option == "gpqa_diamond" else tmp_path / option
    data = read(folder)
    assert len(data.train) + len(data.val) in (36, 37)  # the held-out row may be one of the four
    texts = [str(row) for row in data.train]
    assert not any("boxes" in text.lower() for text in texts)
    (count,) = data.counts.values()
    assert count == 40 - 1 - len(data.train)
    assert f"left out {count} of 39 training rows that share ten words with {folder}" in caplog.text


def test_option_is_read_from_its_own_path(read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    BENCHMARKS["math500"](tmp_path / "math500")
    values = option_values("math500")
    assert (values["path"], values["columns"]["prompt"]) == ("HuggingFaceH4/MATH-500", "problem")
    path = str(tmp_path / "math500")
    monkeypatch.setattr("r1.data.decontamination.option_values", lambda _: values | {"path": path})
    data = read("math500")
    assert data.counts.keys() == {"data/shared_with_math500"}
    assert not any("boxes" in str(row).lower() for row in data.train)


def test_rows_of_two_sets_are_counted_once_and_again_from_the_cache(read: Read, tmp_path: Path) -> None:
    write_jsonl([{"question": question(0)}, {"question": question(2)}], tmp_path / "a.jsonl")
    write_jsonl([{"Problem": question(i)} for i in range(3)], tmp_path / "b.jsonl")
    first = read(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    again = read(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert first.counts == again.counts
    assert first.digest() == again.digest()
    assert sum(first.counts.values()) == 39 - len(first.train)
    write_jsonl([{"question": "Another?"}], tmp_path / "a.jsonl")  # the set's content decides, not its name
    changed = read(tmp_path / "a.jsonl")
    assert [*changed.counts.values()] == [0]
    assert len(changed.train) == 39


def test_limit_is_of_the_rows_that_are_left(read: Read, tmp_path: Path) -> None:
    write_jsonl([{"question": question(i)} for i in range(4)], tmp_path / "a.jsonl")
    data = read(tmp_path / "a.jsonl", limit_train=35)
    assert len(data.train) == 35
    assert not any("boxes" in str(row).lower() for row in data.train)


def test_training_rows_that_are_all_shared_are_an_error(read: Read, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path / "train.jsonl")
    assert "share ten words" in error.value.message
    assert error.value.key == "data.decontaminate"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.jsonl", "data file not found"),
        ("arithmetic", "no set of questions that is read"),
        ("traces", "no set of questions that is read"),
    ],
)
def test_evaluation_set_that_is_not_there_is_an_error(read: Read, name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(name)
    assert message in error.value.message
    assert error.value.key == "data.decontaminate"


def test_evaluation_set_without_a_question_names_its_columns(read: Read, tmp_path: Path) -> None:
    write_jsonl([{"text": "Which?", "label": 1}], tmp_path / "a.jsonl")
    with pytest.raises(UserError) as error:
        read(tmp_path / "a.jsonl")
    assert "the columns are text, label" in error.value.message
