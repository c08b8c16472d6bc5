import hashlib
import json

import pytest
from datasetoptions import PLAIN
from templates import chat

from r1.core.errors import DATA, UserError
from r1.data.traces import traces
from r1.data.verifier.exact import exact

SHARED = {"template": chat(), "verifier": exact}
ROWS = [
    {
        "prompt": f"{n}+1=?",
        "answer": str(n + 1),
        "completion": f"<think>{sample}</think>\n<answer>{n + 1}</answer>",
        "teacher": "t",
        "numbers": [n, 1],
    }
    for n in range(6)
    for sample in range(2)
]


@pytest.fixture
def run(tmp_path):
    """A run's folder with traces and their card."""
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "traces.jsonl").write_text(text)
    card = {"fingerprint": hashlib.sha256(text.encode()).hexdigest(), "count": len(ROWS)}
    (tmp_path / "traces" / "traces.json").write_text(json.dumps(card))
    return tmp_path


def build(path, num_val=4):
    return traces(True, **PLAIN | SHARED | {"path": str(path), "num_val": num_val})


def failure(path):
    with pytest.raises(UserError) as caught:
        build(path)
    assert caught.value.code == DATA
    return caught.value


@pytest.mark.parametrize("inside", [".", "traces", "traces/traces.jsonl"])
def test_traces_path_may_be_run_folder_or_file(run, inside):
    data = build(run / inside)
    assert sorted(data.train + data.val, key=str) == sorted(ROWS, key=str)
    assert all(data.correct(row["completion"], row) for row in data.train)


def test_answers_to_one_question_stay_on_one_side(run):
    data = build(run)
    assert (len(data.train), len(data.val)) == (8, 4)
    assert not {row["prompt"] for row in data.train} & {row["prompt"] for row in data.val}


def test_traces_without_a_card_are_read(run):
    (run / "traces" / "traces.json").unlink()
    assert len(build(run).train) == 8


def test_a_changed_file_is_refused(run):
    file = run / "traces" / "traces.jsonl"
    file.write_text(file.read_text().replace("<think>0", "<think>9", 1))
    error = failure(run)
    assert "changed after it was written" in error.message
    assert "traces.json" in error.expected


def test_a_cut_file_is_refused(run):
    file = run / "traces" / "traces.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    error = failure(run)
    assert "11 rows" in error.value
    assert error.expected.startswith("12 rows")


def test_a_wrong_count_alone_is_refused(run):
    card = run / "traces" / "traces.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"count": 13}))
    assert failure(run).expected.startswith("13 rows")


@pytest.mark.parametrize("card", ["", "[]", "{}", '{"count": 12}', "\x00"])
def test_traces_reject_an_invalid_card(run, card):
    (run / "traces" / "traces.json").write_text(card)
    assert "not a dataset card" in failure(run).message


def test_missing_traces_list_the_searched_paths(tmp_path):
    error = failure(tmp_path / "run")
    assert "stage=distill" in error.message
    assert error.hint.count(str(tmp_path / "run")) == 3


def test_rows_without_a_completion_are_refused(run):
    (run / "traces" / "traces.json").unlink()
    (run / "traces" / "traces.jsonl").write_text('{"prompt": "a", "answer": "1"}\n')
    assert "traces.jsonl:1: no column `completion`" in failure(run).message


def test_own_columns_are_read_with_a_card_only(run):
    file, card = run / "traces" / "traces.jsonl", run / "traces" / "traces.json"
    text = "".join(json.dumps(row | {"part": "maths", "rendered": "User: ?"}) + "\n" for row in ROWS)
    file.write_text(text)
    card.write_text(json.dumps({"fingerprint": hashlib.sha256(text.encode()).hexdigest(), "count": len(ROWS)}))
    data = build(run)
    assert all(row["rendered"] == "User: ?" and "part" not in row for row in data.train + data.val)
    card.unlink()
    assert "traces.jsonl:1: this column name is reserved: `part`" in failure(run).message


def test_null_num_val_holds_out_a_tenth(run):
    data = build(run, num_val=None)
    assert (len(data.train), len(data.val)) == (10, 2)  # no question has only one row: the first one
