import json
import logging

import datasets
import huggingface_hub
import pytest
from datasetoptions import PLAIN, knobs_of
from datasets import Dataset, DatasetDict
from mathverifier import math_verifier
from templates import chat

from r1.core.errors import DATA, UserError
from r1.data.completion import parse
from r1.data.dataset import Reader, split_dataset
from r1.data.gsm8k import gsm8k
from r1.data.math import math
from r1.data.openr1_math import openr1_math, to_strict_form
from r1.data.origin import find_splits
from r1.data.split import exclude_overlap, hold_out, subsample
from r1.data.verifier.exact import exact

SHARED = {"template": chat(), "verifier": exact}
SOURCE = PLAIN | {"val_split": "test", "columns": {"prompt": "question", "solution": "answer", "answer": None}}
HELD = {"val_split": None, "num_val": 1}
CLIPS = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72 clips.\n#### 72"


@pytest.fixture(autouse=True)
def no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def sums(count, start=0):
    return [{"question": f"{n}+1=?", "answer": f"One more.\n#### {n + 1:,}"} for n in range(start, start + count)]


@pytest.fixture
def parquet(tmp_path):
    """A clone of a Hub repository without its card: main/ and socratic/, two splits each."""
    for name, shift in (("main", 0), ("socratic", 5000)):
        folder = tmp_path / "gsm8k" / name
        folder.mkdir(parents=True)
        Dataset.from_list(sums(20, shift)).to_parquet(folder / "train-00000-of-00001.parquet")
        Dataset.from_list(sums(6, shift + 100)).to_parquet(folder / "test-00000-of-00001.parquet")
    return tmp_path / "gsm8k"


@pytest.fixture
def on_disk(tmp_path):
    parts = {"train": Dataset.from_list(sums(20)), "test": Dataset.from_list(sums(6, 100))}
    DatasetDict(parts).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def read(path, **knobs):
    """The training and the held-out rows."""
    options = SOURCE | {"path": str(path)} | knobs
    data = split_dataset(Reader(options | SHARED), find_splits(str(path), options["name"], None), True)
    return data.train, data.val


def questions(rows):
    return [found["question"] for found in rows]


def test_a_folder_in_the_hubs_layout(parquet):
    train, val = read(parquet / "main")
    assert questions(train) == questions(sums(20))
    assert questions(val) == questions(sums(6, 100))


def test_a_configuration_is_a_subfolder_where_there_is_no_card(parquet):
    train, val = read(parquet, name="socratic")
    assert questions(train) == questions(sums(20, 5000))
    assert len(val) == 6


def test_a_configuration_of_the_card(parquet):
    configs = [
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n  - split: test\n"
        f"    path: {name}/test-*\n"
        for name in ("main", "socratic")
    ]
    (parquet / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n")
    assert questions(read(parquet, name="main")[0]) == questions(sums(20))
    with pytest.raises(UserError, match=r"no configuration `mian`(.|\n)*main, socratic\n(.|\n)*did you mean `main`"):
        read(parquet, name="mian")
    with pytest.raises(UserError, match=r"several configurations(.|\n)* \.name(.|\n)*main, socratic"):
        read(parquet)


def test_name_without_configurations_is_ignored(parquet):
    assert len(read(parquet / "main", name="main")[0]) == 20


def test_a_save_to_disk_folder(on_disk):
    train, val = read(on_disk, name="main")
    assert questions(train) == questions(sums(20))
    assert len(val) == 6


def test_a_single_saved_dataset_is_its_own_split(tmp_path):
    Dataset.from_list(sums(6), split="test").save_to_disk(tmp_path / "single")
    assert len(read(tmp_path / "single", train_split="test", val_split=None, num_val=2)[0]) == 4
    with pytest.raises(UserError, match=r"no split `train`(.|\n)* \.train_split(.|\n)*expected test"):
        read(tmp_path / "single")


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_one_file(tmp_path, suffix):
    file = tmp_path / f"rows.{suffix}"
    source = Dataset.from_list(sums(10))
    {"parquet": source.to_parquet, "jsonl": source.to_json, "csv": source.to_csv}[suffix](file)
    train, val = read(file, val_split=None, num_val=3)
    assert (len(train), len(val)) == (7, 3)
    assert {*questions(train), *questions(val)} == set(questions(sums(10)))
    with pytest.raises(UserError, match=r"no split `test`(.|\n)* \.val_split(.|\n)*val_split=null"):
        read(file)


def test_held_out_rows_are_the_same_in_any_order_and_disjoint(tmp_path, on_disk):
    Dataset.from_list(sums(20)[::-1]).save_to_disk(tmp_path / "reversed")
    train, val = read(on_disk, val_split=None, num_val=5)
    turned_train, turned_val = read(tmp_path / "reversed", val_split=None, num_val=5)
    assert set(questions(val)) == set(questions(turned_val))
    assert not {*questions(train), *questions(turned_train)} & set(questions(val))
    assert (len(train), len(val)) == (15, 5)


def test_num_val_and_limit_train_bound_the_rows(on_disk):
    whole, held = read(on_disk, val_split=None, num_val=5)
    some_rows, same = read(on_disk, val_split=None, num_val=5, limit_train=4)
    assert questions(same) == questions(held)
    assert set(questions(some_rows)) < set(questions(whole))
    assert len(some_rows) == 4
    assert len(read(on_disk, num_val=2)[1]) == 2
    assert len(read(on_disk, limit_train=1000)[0]) == 20


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"val_split": "tset"}, r"no split `tset`(.|\n)* \.val_split(.|\n)*did you mean `test`"),
        ({"train_split": "training"}, r"no split `training`(.|\n)* \.train_split(.|\n)*train, test"),
        ({"val_split": "train"}, r"would be the training rows"),
        (
            {"val_split": None, "num_val": 20},
            r"leaves none of the 20(.|\n)*fewer than the 20 different questions",
        ),
        (
            {"columns": {"prompt": "qestion"}},
            r"the columns are question, answer(.|\n)* \.columns\.prompt(.|\n)*`question`",
        ),
    ],
)
def test_hub_option_errors_are_user_errors(on_disk, parquet, knobs, message):
    for path in (on_disk, parquet / "main"):
        if path == on_disk or "split" in str(knobs):
            with pytest.raises(UserError, match=message) as caught:
                read(path, **knobs)
            assert caught.value.code in (2, DATA)


@pytest.mark.parametrize("path", ["/nowhere/gsm8k", "./gsm8k", "outputs/a/b"])
def test_missing_path_reports_its_absolute_path(path):
    with pytest.raises(UserError, match=r"no such file or folder(.|\n)*looked in /"):
        read(path)


def test_offline_is_a_user_error():
    with pytest.raises(UserError, match=r"cannot reach the Hugging Face Hub(.|\n)*set path to a local copy") as caught:
        read("openai/gsm8k", name="main")
    assert caught.value.code == DATA


def test_unreadable_data_is_a_user_error(tmp_path):
    (tmp_path / "train.parquet").write_text("not parquet")
    with pytest.raises(UserError, match="not a parquet file"):
        read(tmp_path / "train.parquet")
    with pytest.raises(UserError, match="not a parquet file"):
        read(tmp_path, val_split=None)
    (tmp_path / "rows.xlsx").write_text("")
    with pytest.raises(UserError, match=r"cannot be read(.|\n)*\.jsonl, \.parquet"):
        read(tmp_path / "rows.xlsx")


def test_code_beside_the_data_is_never_run(tmp_path):
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')")
    with pytest.raises(UserError):
        read(folder)
    assert not (tmp_path / "pwned").exists()


def build(option, tmp_path, **knobs):
    """The rows of ``tmp_path/copy`` as an option of conf/data reads them, one of them held out."""
    return option(True, **knobs_of(option.__name__) | HELD | SHARED | {"path": str(tmp_path / "copy")} | knobs)


def test_gsm8k(tmp_path):
    rows = [
        {"question": "How many clips?", "answer": CLIPS, "id": 7},
        {"question": "2?", "answer": "x #### 1,234"},
    ]
    Dataset.from_list(rows).save_to_disk(tmp_path / "copy")
    data = build(gsm8k, tmp_path)
    found = {row["prompt"]: row for row in data.train + data.val}
    assert found["How many clips?"] == {
        "question": "How many clips?",
        "id": 7,
        "solution": CLIPS,
        "prompt": "How many clips?",
        "answer": "72",
        "completion": "<think>\nNatalia sold 48/2 = 24 clips in May.\nShe sold 48+24 = 72 clips.\n</think>\n"
        "<answer>72</answer>",
    }
    assert found["2?"]["answer"] == "1234"
    assert all(data.correct(row["completion"], row) for row in data.train + data.val)


def test_gsm8k_without_the_mark(tmp_path):
    Dataset.from_list([{"question": f"{n}?", "answer": "72"} for n in "ab"]).save_to_disk(tmp_path / "copy")
    with pytest.raises(UserError, match=r"`#### answer`(.|\n)* \.columns\.solution"):
        build(gsm8k, tmp_path)


BARE = {"prompt": "problem", "answer": "answer", "solution": None}  # of a dataset without worked solutions


def math_rows(tmp_path, rows, columns=(), **knobs):
    Dataset.from_list(rows).save_to_disk(tmp_path / "copy")
    mapped = knobs_of("math")["columns"] | dict(columns)
    return build(math, tmp_path, columns=mapped, verifier=math_verifier(), **knobs)


def test_math_takes_the_last_box_of_the_solution(tmp_path, caplog):
    solution = "First \\boxed{1}, then $x = \\boxed{\\frac{1}{2}}$."
    rows = [{"problem": f"{n}?", "solution": solution, "level": "Level 5"} for n in range(4)]
    with caplog.at_level(logging.WARNING):
        data = math_rows(tmp_path, [*rows, {"problem": "none?", "solution": "no box", "level": "?"}], num_val=2)
    found = (data.train + data.val)[0]
    assert found["answer"] == "\\frac{1}{2}"
    assert found["level"] == "Level 5"
    assert found["completion"] == f"<think>\n{solution}\n</think>\n<answer>\\frac{{1}}{{2}}</answer>"
    assert data.correct("<answer>0.5</answer>", found)
    assert len(data.train + data.val) == 4
    assert "left out 1 of" in caplog.text
    assert "1 without an answer" in caplog.text


def test_math_500_has_an_answer_column(tmp_path):
    rows = [{"problem": f"{n}?", "solution": "...", "answer": f"{n}"} for n in range(3)]
    data = math_rows(tmp_path, rows, columns={"answer": "answer"})
    assert {row["answer"] for row in data.train + data.val} == {"0", "1", "2"}
    bare = math_rows(tmp_path, rows, columns={"answer": "answer", "solution": None})
    assert all("completion" not in row for row in bare.train + bare.val)
    with pytest.raises(UserError, match="both are null"):
        math_rows(tmp_path, rows, columns={"solution": None})


def test_math_without_any_answer_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"no usable row(.|\n)*without an answer"):
        math_rows(tmp_path, [{"problem": f"{n}?", "solution": "no box"} for n in range(3)])


R1 = "<think>\nLet me see.\n</think>\n\nSo it is \\boxed{4}."


def openr1_rows(tmp_path, only_solved):
    def source(problem, answer="4", generations=(R1,), marks=(True,), kind="math-word-problem"):
        return {
            "problem": problem,
            "answer": answer,
            "generations": list(generations),
            "correctness_math_verify": list(marks) if marks is not None else None,
            "question_type": kind,
            "messages": "long",
        }

    rows = [
        source("2+2?"),
        source("second right?", generations=["<think>a</think>\\boxed{5}", R1], marks=[False, True]),
        source("never closed?", generations=["<think>a", R1], marks=[True, True]),
        source("unmarked?", marks=None),
        source("none right?", marks=[False]),
        source("prove it", answer="proof"),
        source("show it", kind="proof"),
        source("?", answer=""),
        source("??", answer="notfound"),
    ]
    Dataset.from_list(rows).save_to_disk(tmp_path / "copy")
    data = build(openr1_math, tmp_path, only_solved=only_solved)
    return {row["prompt"]: row for row in data.train + data.val}


def test_openr1_takes_the_first_correct_completion(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("r1.data.dataset.hold_out", lambda prompts, num: ([*range(1, len(prompts))], [0]))
    with caplog.at_level(logging.WARNING):
        found = openr1_rows(tmp_path, only_solved=True)
    assert set(found) == {"2+2?", "second right?", "never closed?"}
    wanted = "<think>\nLet me see.\n</think>\n<answer>So it is \\boxed{4}.</answer>"
    assert {row["completion"] for row in found.values()} == {wanted}
    assert parse(wanted).strict
    assert parse(wanted).answer == "4"
    assert set(found["2+2?"]) == {"prompt", "answer", "completion"}
    assert "left out 6 of 9 rows: 2 proofs, 2 without a correct completion, 2 without a gold answer" in caplog.text


def test_openr1_reads_the_columns_it_needs(tmp_path, monkeypatch):
    row = {"problem": "2+2?", "answer": "4", "question_type": "", "generations": [R1], "messages": "m" * 999}
    rows = [row | {"problem": f"{n}?", "correctness_math_verify": [True]} for n in range(4)]
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    knobs = {"path": str(tmp_path / "rows.parquet"), "only_solved": True}
    seen = []
    original = Reader._row
    monkeypatch.setattr(Reader, "_row", lambda self, row, *where: seen.append(set(row)) or original(self, row, *where))
    assert len(build(openr1_math, tmp_path, **knobs).train) == 3
    assert seen[0] == {"problem", "answer", "question_type", "generations", "correctness_math_verify"}
    columns = {"columns": knobs_of("openr1_math")["columns"] | {"prompt": "question"}}
    with pytest.raises(UserError, match=r"no column `question`: the columns are problem, answer, .*messages"):
        build(openr1_math, tmp_path, **knobs, **columns)


def test_openr1_can_keep_unsolved_questions_for_rl(tmp_path, monkeypatch):
    monkeypatch.setattr("r1.data.dataset.hold_out", lambda prompts, num: ([*range(1, len(prompts))], [0]))
    found = openr1_rows(tmp_path, only_solved=False)
    assert len(found) == 5
    assert found["none right?"] == {"prompt": "none right?", "answer": "4"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<think>a</think>", "<think>a</think>\n<answer>4</answer>"),
        ("<think>a</think> It is four.", "<think>a</think>\n<answer>It is four.\n\\boxed{4}</answer>"),
        ("<think>a</think><answer>4</answer>", "<think>a</think>\n<answer>4</answer>"),
    ],
)
def test_completion_is_brought_into_the_strict_form(text, wanted):
    assert to_strict_form(text, "4") == wanted
    assert parse(wanted).strict
    assert parse(wanted).answer == "4"


def test_questions_that_are_not_text_are_rejected(tmp_path):
    Dataset.from_list([{"question": 1, "answer": "#### 1"}] * 3).save_to_disk(tmp_path / "copy")
    with pytest.raises(
        UserError, match=r"data-.*arrow:1: the column `question` holds no text(.|\n)* \.columns\.prompt"
    ):
        read(tmp_path / "copy", val_split=None, num_val=1)


def test_rows_with_the_same_question_are_held_out_together():
    prompts = ["a", "b", "a", "c", "b", "a", "d"]
    for num_val in (1, 2, 3):
        learned, held = hold_out(prompts, num_val)
        assert sorted([*learned, *held]) == list(range(7))
        assert not {prompts[i] for i in learned} & {prompts[i] for i in held}
        assert len(held) >= num_val


def test_a_question_that_is_held_out_is_not_learned_from(tmp_path, caplog):
    parts = {"train": Dataset.from_list(sums(20)), "test": Dataset.from_list(sums(6, 17))}
    DatasetDict(parts).save_to_disk(tmp_path / "overlap")
    with caplog.at_level(logging.WARNING):
        train, val = read(tmp_path / "overlap")
    assert questions(train) == questions(sums(17))
    assert len(val) == 6
    assert "left out 3 training rows" in caplog.text
    with pytest.raises(UserError, match=r"every question of the training rows(.|\n)* \.val_split"):
        exclude_overlap(["a", "b"], ["b", "a", "c"], ".val_split")


def test_subsample_does_not_depend_on_the_order():
    prompts = [f"{n}?" for n in range(50)]
    chosen = {prompts[i] for i in subsample(prompts, 7)}
    assert len(chosen) == 7
    assert chosen == {prompts[::-1][i] for i in subsample(prompts[::-1], 7)}
    assert [*subsample(prompts, None)] == [*subsample(prompts, 99)] == list(range(50))


@pytest.mark.parametrize("kind", ["file", "folder", "saved"])
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_math_answers_keep_their_decimal_text(tmp_path, kind, suffix):
    numbers = ["0.00001", "10000000000000000", "0.5"]
    rows = [{"problem": f"{n}?", "answer": float(number)} for n, number in enumerate(numbers)]
    source = Dataset.from_list(rows)
    if suffix == "parquet":
        source = source.cast_column("answer", datasets.Value("float32"))
    if kind == "saved":
        path = tmp_path / "saved"
        source.save_to_disk(path)
    else:
        (tmp_path / "data").mkdir()
        path = tmp_path / "data" / f"train.{suffix}"
        {"parquet": source.to_parquet, "jsonl": source.to_json, "csv": source.to_csv}[suffix](path)
        path = path if kind == "file" else path.parent
    data = build(math, tmp_path, path=str(path), columns=BARE)
    assert {row["prompt"]: row["answer"].removesuffix(".0") for row in data.train + data.val} == {
        f"{n}?": number for n, number in enumerate(numbers)
    }


def test_a_text_folder_keeps_numbers_that_a_float_cannot_hold(tmp_path):
    lines = "".join(f"{n}?,{answer}\n" for n, answer in enumerate(["9007199254740993", "", "0.10"]))
    (tmp_path / "train.csv").write_text("problem,answer\n" + lines)
    (tmp_path / "test.csv").write_text("problem,answer\nother?,007\n")
    data = build(math, tmp_path, path=str(tmp_path), columns=BARE, val_split="test", num_val=None)
    assert [row["answer"] for row in data.train] == ["9007199254740993", "0.10"]
    assert [row["answer"] for row in data.val] == ["007"]


def test_missing_numbers_of_a_hub_dataset_are_left_out_and_counted(tmp_path, caplog):
    rows = [{"problem": f"{n}?", "answer": answer} for n, answer in enumerate([1.5, float("nan"), None, 2.5, 3.5])]
    with caplog.at_level(logging.WARNING):
        data = math_rows(tmp_path, rows, columns={"answer": "answer", "solution": None})
    assert {row["answer"] for row in data.train + data.val} == {"1.5", "2.5", "3.5"}
    assert "without an answer" in caplog.text


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            {"answer": ["4"]},
            r"data-.*arrow:2: the column `answer` holds no text or a number(.|\n)*\.columns\.answer",
        ),
        ({"chosen": ["4"]}, r"data-.*arrow:2: the column `chosen` holds no text"),
        ({"rendered": "IGNORE"}, r"data-.*arrow:1: this column name is reserved: `rendered`"),
        ({"rows": 1}, r"data-.*arrow:1: this column name is reserved: `rows`"),
    ],
)
def test_a_bad_row_of_a_hub_dataset_is_named(tmp_path, extra, message):
    rows = [{"problem": f"{n}?", "solution": "\\boxed{4}"} | dict.fromkeys(extra) for n in range(3)]
    rows[1] |= extra
    knobs = {"columns": {"answer": "answer"}} if "answer" in extra else {}
    with pytest.raises(UserError, match=message):
        math_rows(tmp_path, rows, **knobs)


def test_rows_without_a_question_are_left_out_and_counted(tmp_path, caplog):
    rows = [{"problem": problem, "solution": "\\boxed{4}"} for problem in ("a?", " ", "b?", "c?")]
    with caplog.at_level(logging.WARNING):
        data = math_rows(tmp_path, rows, num_val=2)
    assert "" not in {row["prompt"].strip() for row in data.train + data.val}
    assert "1 without a question" in caplog.text


def test_a_gold_answer_of_zero_is_an_answer(tmp_path):
    rows = [
        {
            "problem": f"{n}?",
            "answer": answer,
            "generations": [R1],
            "correctness_math_verify": [True],
            "question_type": "x",
        }
        for n, answer in enumerate([0, 0, 4])
    ]
    Dataset.from_list(rows).save_to_disk(tmp_path / "copy")
    data = build(openr1_math, tmp_path)
    assert sorted(row["answer"] for row in data.train + data.val) == ["0", "0", "4"]


def test_null_num_val_and_val_split_hold_out_a_tenth(tmp_path):
    Dataset.from_list(sums(300)).save_to_disk(tmp_path / "copy")
    train, val = read(tmp_path / "copy", val_split=None, num_val=None)
    assert (len(train), len(val)) == (270, 30)


@pytest.mark.parametrize(
    ("extra", "key"),
    [
        ({"correctness_math_verify": ["False"]}, "columns.correct"),
        ({"correctness_math_verify": "True"}, "columns.correct"),
        ({"generations": R1}, "columns.generations"),
        ({"generations": [1]}, "columns.generations"),
    ],
)
def test_openr1_lists_of_a_wrong_type_are_refused(tmp_path, extra, key):
    row = {"answer": "4", "generations": [R1], "correctness_math_verify": [True]} | extra
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"problem": f"{n}?"} | row) + "\n" for n in range(3)))
    with pytest.raises(UserError, match=rf"rows.jsonl:\d: the column `.*` holds no list(.|\n)*\.{key}"):
        build(openr1_math, tmp_path, path=str(path))


def test_a_csv_column_of_questions_is_text_where_all_are_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("problem,answer\n" + "".join(f"{n},{n}\n" for n in range(3)))
    data = build(math, tmp_path, path=str(tmp_path / "a.csv"), columns=BARE)
    assert {row["prompt"] for row in data.train} <= {"0", "1", "2"}
