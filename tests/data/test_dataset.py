import gc
import json
import logging
import os
import time

import pyarrow as pa
import pytest
from datasetoptions import PLAIN
from pyarrow import parquet
from templates import chat

from r1.core.errors import DATA, UserError
from r1.data.dataset import Reader, dataset
from r1.data.verifier.exact import exact

SHARED = {"template": chat(), "verifier": exact}
COLUMNS = {"prompt": "question", "answer": "gold"}
KNOBS = PLAIN | {"columns": COLUMNS, "num_val": 2}


def rows(count, start=0):
    return [{"question": f"{n}+1=?", "gold": str(n + 1), "level": n} for n in range(start, start + count)]


def write(file, found):
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in found]
    file.write_text("".join(line + "\n" for line in lines))
    return str(file)


def build(path, learns=True, **knobs):
    knobs["columns"] = COLUMNS | knobs.get("columns", {})
    path = path if isinstance(path, list) else str(path)
    return dataset(learns, **KNOBS | {"path": path} | knobs, **SHARED)


def failure(path, **knobs):
    with pytest.raises(UserError) as caught:
        build(path, **knobs)
    return caught.value


def test_columns_are_mapped_and_all_others_kept(tmp_path):
    data = build(write(tmp_path / "rows.jsonl", rows(10)))
    assert (len(data.train), len(data.val)) == (8, 2)
    found = {row["level"]: row for row in data.train + data.val}
    assert found[4] == {"question": "4+1=?", "gold": "5", "level": 4, "prompt": "4+1=?", "answer": "5"}
    assert data.correct("<answer>5.0</answer>", found[4])


def test_a_completion_column(tmp_path):
    path = write(tmp_path / "rows.jsonl", [row | {"text": f"<answer>{row['gold']}</answer>"} for row in rows(5)])
    data = build(path, columns={"completion": "text"})
    assert all(data.correct(row["completion"], row) for row in data.train + data.val)


@pytest.mark.parametrize(
    ("knobs", "rates"),
    [
        ({}, {None, 0.0, 0.25, 0.5, 1.0}),
        ({"min_pass_rate": 0.25}, {None, 0.25, 0.5, 1.0}),
        ({"max_pass_rate": 0.5}, {None, 0.0, 0.25, 0.5}),
        ({"min_pass_rate": 0.1, "max_pass_rate": 0.9}, {None, 0.25, 0.5}),
    ],
)
def test_training_questions_are_chosen_by_their_pass_rate(tmp_path, knobs, rates):
    rated = [row | {"pass_rate": rate} for row in rows(8) for rate in (None, 0.0, 0.25, 0.5, 1.0)]
    data = build(write(tmp_path / "rows.jsonl", rated), **knobs)
    assert {row["pass_rate"] for row in data.train} == rates
    assert {row["pass_rate"] for row in data.val} == {None, 0.0, 0.25, 0.5, 1.0}


def test_pass_rate_filter_without_matching_rows_fails(tmp_path):
    path = write(tmp_path / "rows.jsonl", rows(8))
    assert "6 of 6 rows have no column `pass_rate`" in failure(path, max_pass_rate=0.5).message
    assert failure(path, max_pass_rate=0.5).key == ".max_pass_rate"
    path = write(tmp_path / "rated.jsonl", [row | {"pass_rate": 0.0} for row in rows(8)])
    assert failure(path, min_pass_rate=0.5).message == "none of 6 training rows has a pass rate of 0.5 to 1"


def test_parquet_rows_equal_jsonl_rows(tmp_path):
    parquet.write_table(pa.Table.from_pylist(rows(10)), tmp_path / "rows.parquet")
    lines = build(write(tmp_path / "rows.jsonl", rows(10)))
    table = build(tmp_path / "rows.parquet")
    assert (table.train, table.val) == (lines.train, lines.val)


def test_the_held_out_rows_do_not_depend_on_the_order(tmp_path):
    straight = build(write(tmp_path / "a.jsonl", rows(30)), num_val=6)
    turned = build(write(tmp_path / "b.jsonl", rows(30)[::-1]), num_val=6)
    assert straight.val == turned.val[::-1]
    assert not {row["prompt"] for row in straight.train} & {row["prompt"] for row in straight.val}


def test_a_file_of_held_out_rows(tmp_path, caplog):
    train, val = write(tmp_path / "a.jsonl", rows(10)), write(tmp_path / "b.jsonl", rows(8, 7))
    with caplog.at_level(logging.WARNING):
        data = build(train, val_path=val, num_val=None)
    assert [row["level"] for row in data.train] == list(range(7))  # 7, 8 and 9 are held out
    assert len(data.val) == 8
    assert "left out 3 training rows" in caplog.text
    assert len(build(train, val_path=val, num_val=3).val) == 3


def test_a_number_is_an_answer(tmp_path):
    data = build(write(tmp_path / "rows.jsonl", [row | {"gold": row["level"] + 0.5} for row in rows(5)]))
    assert {row["answer"] for row in data.train + data.val} == {"0.5", "1.5", "2.5", "3.5", "4.5"}


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n\n".join(json.dumps(row).encode() for row in rows(5)) + b"\n\n")
    data = build(path)
    assert len(data.train) + len(data.val) == 5


def test_line_separators_inside_a_text_do_not_end_the_row(tmp_path):
    odd = [{"question": f"a\u2028b\x85{n}", "gold": "1"} for n in range(4)]
    data = build(write(tmp_path / "rows.jsonl", odd))
    assert {row["prompt"] for row in data.train + data.val} == {row["question"] for row in odd}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": }', "rows.jsonl:3: invalid JSON at column 14"),
        ("[1, 2]", "rows.jsonl:3: a row must be a JSON object"),
        ("[" * 100_000, "rows.jsonl:3: invalid JSON"),
        ('{"question": "a", "gold": ' + "9" * 5000 + "}", "rows.jsonl:3: invalid JSON"),
        ('{"question": "a", "glod": "1"}', "rows.jsonl:3: no column `gold`"),
        ('{"question": "a", "gold": null}', "rows.jsonl:3: the column `gold` holds no text"),
        ('{"question": "a", "gold": true}', "rows.jsonl:3: the column `gold` holds no text"),
        ('{"question": ["a"], "gold": "1"}', "rows.jsonl:3: the column `question` holds no text"),
        ('{"question": " ", "gold": "1"}', "rows.jsonl:3: the column `question` holds no text"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, line, message):
    error = failure(write(tmp_path / "rows.jsonl", [*rows(2), line, *rows(2, 5)]))
    assert message in error.message
    assert error.code == DATA


def test_invalid_utf8_is_reported_with_its_byte(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"question": "\xff"}\n')
    assert "rows.jsonl:1: not UTF-8 at byte 15" in failure(tmp_path / "rows.jsonl").message


def test_a_missing_column_lists_the_columns_and_the_nearest(tmp_path):
    error = failure(write(tmp_path / "rows.jsonl", rows(5)), columns={"prompt": "qestion"})
    assert error.key == ".columns.prompt"
    assert error.message.endswith("the columns are question, gold, level")
    assert error.hint == "did you mean `question`?"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"weight": 0}], "the assistant answers nothing that has not the weight 0"),
        ([{}, {}], "the last answer follows the assistant's message, and no question"),
        ([{"content": [{"type": "image"}]}], "the content of message 2 is no text"),
        ([{"weight": 0.5}], "the weight of message 2 is 0.5, neither 0 nor 1"),
    ],
)
def test_conversation_without_a_question_or_an_answer_says_which_message(tmp_path, messages, reason):
    answers = [{"role": "assistant", "content": "2"} | message for message in messages]
    talk = {"messages": [{"role": "user", "content": "1+1?"}, *answers], "gold": "2"}
    error = failure(write(tmp_path / "rows.jsonl", [talk]), columns={"prompt": "prompt"})
    assert "rows.jsonl:1: the column `messages` holds no list of messages" in error.message
    assert error.hint == reason


def test_bad_rows_are_skipped_up_to_one_percent(tmp_path, caplog):
    path = write(tmp_path / "rows.jsonl", [*rows(99), "{"])
    with caplog.at_level(logging.WARNING):
        data = build(path, on_bad_row="skip")
    assert len(data.train) + len(data.val) == 99
    assert "left out 1 bad rows of 100" in caplog.text
    assert data.counts == {"data/skipped": 1}
    assert build(path, on_bad_row="skip", learns=False).counts == {"data/skipped": 1}  # of the stored rows
    assert "rows.jsonl:100: invalid JSON at column 2" in caplog.text


def test_more_bad_rows_than_one_percent_are_an_error(tmp_path):
    path = write(tmp_path / "rows.jsonl", [*rows(98), "{"])
    error = failure(path, on_bad_row="skip")
    assert "1 of 99 rows are bad" in error.message
    assert "rows.jsonl:99: invalid JSON" in error.message


def test_missing_files_report_their_absolute_path(tmp_path):
    error = failure("missing.jsonl")
    assert error.message == "data file not found: missing.jsonl"
    assert error.hint.startswith("looked in /")
    assert error.hint.endswith("/missing.jsonl")
    assert failure(write(tmp_path / "a.jsonl", rows(3)), val_path="no.jsonl").key == ".val_path"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.txt", "x", "a file of this type cannot be read"),
        ("rows.parquet", "x", "not a parquet file"),
        ("rows.jsonl", "\n", "the file has no rows"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    assert message in failure(tmp_path / name).message


def test_holding_out_every_row_is_an_error(tmp_path):
    path = write(tmp_path / "rows.jsonl", rows(5))
    assert "leaves none of the 5" in failure(path, num_val=5).message


def test_a_row_that_names_its_terms_may_have_no_answer(tmp_path):
    free = [{"question": f"Why {n}?", "terms": ["judge"]} for n in range(5)]
    data = build(write(tmp_path / "rows.jsonl", [*rows(5), *free, free[0] | {"question": "Who?", "gold": None}]))
    assert sorted(row.get("answer") is None for row in data.train + data.val) == [False] * 5 + [True] * 6


def test_a_file_without_answers(tmp_path):
    data = build(
        write(tmp_path / "rows.jsonl", [{"question": f"Why {n}?"} for n in range(5)]), columns={"answer": None}
    )
    assert all("answer" not in row for row in data.train + data.val)


MESSAGES = [{"role": "user", "content": "3+1=?"}, {"role": "assistant", "content": "4"}]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"completion": ["1"]}, "the column `completion` holds no text"),
        ({"completion": 1}, "the column `completion` holds no text"),
        ({"chosen": MESSAGES, "rejected": "5"}, "the column `chosen` holds no text"),
        ({"rejected": {"content": "5"}}, "the column `rejected` holds no text"),
        ({"pass_rate": "0.5"}, "the column `pass_rate` holds no number from 0 to 1"),
        ({"terms": "judge"}, "the column `terms` holds no list of names"),
        ({"gold": [4]}, "the column `gold` holds no text or a number"),
        ({"note": "\ud83d"}, "half of a surrogate pair"),
        ({"question": "\ude00 3+1=?"}, "half of a surrogate pair"),
        ({"rendered": "IGNORE"}, "column name is reserved: `rendered`"),
        ({"part": None}, "column name is reserved: `part`"),
        ({"completions": 1}, "column name is reserved: `completions`"),
        ({"truncated": True}, "column name is reserved: `truncated`"),
    ],
)
def test_one_bad_row_of_600_is_an_error_or_is_skipped(tmp_path, caplog, extra, message):
    some = rows(600)
    some[399] |= extra
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in some))
    error = failure(path)
    assert "rows.jsonl:400: " in error.message
    assert message in error.message
    assert error.hint
    assert error.code == DATA
    with caplog.at_level(logging.WARNING):
        data = build(path, on_bad_row="skip")
    assert len(data.train) + len(data.val) == 599
    assert "left out 1 bad rows of 600" in caplog.text


@pytest.mark.parametrize("number", ["0.00001", "1e16", "0.10", "-3"])
def test_number_is_an_answer_in_every_format(tmp_path, number):
    (tmp_path / "a.jsonl").write_text("".join(f'{{"question": "{n}?", "gold": {number}}}\n' for n in range(3)))
    (tmp_path / "a.json").write_text(
        "[" + ",".join(f'{{"question": "{n}?", "gold": {number}}}' for n in range(3)) + "]"
    )
    (tmp_path / "a.csv").write_text("question,gold\n" + "".join(f"{n}?,{number}\n" for n in range(3)))
    texts = {row["answer"] for name in ("jsonl", "json", "csv") for row in build(tmp_path / f"a.{name}").train}
    assert texts == {"10000000000000000" if number == "1e16" else number}


def test_missing_number_is_a_missing_answer(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "a", "gold": NaN}\n')
    assert "a.jsonl:1: the column `gold` holds no text or a number" in failure(tmp_path / "a.jsonl").message
    table = pa.table({"question": ["a", "b"], "gold": [72.0, float("nan")]})
    parquet.write_table(table, tmp_path / "a.parquet")
    error = failure(tmp_path / "a.parquet")
    assert "a.parquet:2: the column `gold` holds no text or a number" in error.message
    assert str(error.value) == "null"
    (tmp_path / "a.csv").write_text("question,gold\na,1\nb,\n")
    assert "a.csv:3: the column `gold`" in failure(tmp_path / "a.csv").message


def test_csv_text_columns_stay_text_where_all_cells_are_numbers(tmp_path):
    lines = "".join(f"{n},{n + 1},{n + 1},{n + 2},0.5\n" for n in range(10, 14))
    (tmp_path / "a.csv").write_text("question,gold,chosen,rejected,pass_rate\n" + lines)
    data = build(tmp_path / "a.csv", max_pass_rate=0.5)
    row = next(row for row in data.train + data.val if row["prompt"] == "10")
    assert row == {"question": "10", "gold": 11, "chosen": "11", "rejected": "12", "pass_rate": 0.5} | {
        "prompt": "10",
        "answer": "11",
    }


def test_null_answer_column_leaves_a_column_of_that_name_out(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"question": f"{n}?", "answer": ["x"]} for n in range(4)])
    assert all("answer" not in row for row in build(path, columns={"answer": None}).train)


def test_null_num_val_holds_out_a_tenth_or_the_val_path(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(300))
    data = build(path, num_val=None)
    assert (len(data.train), len(data.val)) == (270, 30)
    data = build(path, num_val=None, val_path=write(tmp_path / "b.jsonl", rows(5, 1000)))
    assert (len(data.train), len(data.val)) == (300, 5)


def test_duplicate_key_is_a_bad_row(tmp_path):
    path = write(tmp_path / "rows.jsonl", [*rows(2), '{"question": "a", "gold": "1", "gold": "2"}'])
    assert "rows.jsonl:3: invalid JSON: more than one value for `gold`" in failure(path).message


# ---- what is evaluated, and what is learned from ----


def questions(found):
    return [row["question"] for row in found]


def test_a_small_file_is_evaluated_whole_and_learned_from_with_held_out_rows(tmp_path):
    path = write(tmp_path / "aime.jsonl", rows(30))
    whole = build(path, learns=False, num_val=None)
    assert (questions(whole.val), len(whole.train)) == (questions(rows(30)), 0)
    training = build(path, num_val=None)
    assert (len(training.train), len(training.val)) == (27, 3)
    assert questions(build(path, learns=False, num_val=3).val) == questions(training.val)  # those that were held out


def test_a_test_split_is_evaluated_whole_and_learned_from_by_its_name_only(tmp_path):
    write(tmp_path / "test.jsonl", rows(20))
    assert len(build(tmp_path, learns=False, num_val=None).val) == 20
    error = failure(tmp_path)
    assert (error.key, error.expected) == (".train_split", "test")
    assert "train_split=test" in error.hint
    assert len(build(tmp_path, train_split="test").train) == 18


def test_several_splits_are_not_evaluated_without_a_name(tmp_path):
    write(tmp_path / "train.jsonl", rows(20))
    write(tmp_path / "test.jsonl", rows(5, 100))
    error = failure(tmp_path, learns=False, num_val=None)
    assert (error.key, error.expected) == (".val_split", "train, test")
    assert len(build(tmp_path, learns=False, num_val=None, val_split="test").val) == 5
    assert questions(build(tmp_path, learns=False).val) == questions(build(tmp_path).val)


# ---- columns ----


def test_columns_come_from_paths_and_templates(tmp_path):
    source = [{"q": {"text": f"{n}+1", "n": [n]}, "mark": "?", "gold": n + 1} for n in range(6)]
    columns = {"prompt": "{q.text}={mark}{{}} \\boxed{}", "first": "q.n.0", "last": "q.n.-1"}
    data = build(write(tmp_path / "rows.jsonl", source), columns=columns)
    assert {(row["prompt"], row["first"], row["last"]) for row in data.train + data.val} == {
        (f"{n}+1=?{{}} \\boxed{{}}", n, n) for n in range(6)
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": "q.txt"}, "no column `txt` (of 'q.txt'): the columns are q, list, gold"),
        ({"prompt": "{q.text} {nothing}"}, "no column `nothing`"),
        ({"prompt": "{q}"}, "no text in the column `q`"),
        ({"prompt": "q.text", "answer": "list.7"}, "no column `7`"),
    ],
)
def test_a_path_that_leads_nowhere_names_the_columns(tmp_path, columns, message):
    source = [{"q": {"text": f"{n}?"}, "list": [n], "gold": n} for n in range(4)]
    error = failure(write(tmp_path / "rows.jsonl", source), columns=columns)
    assert message in error.message
    assert "rows.jsonl:1: " in error.message
    assert error.key.startswith(".columns.")


def test_a_missing_question_names_the_columns_and_the_key(tmp_path):
    error = failure(write(tmp_path / "rows.jsonl", rows(4)), columns={"prompt": "prompt"})
    assert error.message.endswith("rows.jsonl:1: no column `prompt`: the columns are question, gold, level")
    assert (error.key, error.hint) == (
        ".columns.prompt",
        "data.columns.prompt=question, if that is the column that has it",
    )


@pytest.mark.parametrize("without", [0, 3])
def test_a_gold_answer_is_in_every_row_or_in_none(tmp_path, without):
    source = [{"question": f"{n}?"} | ({} if n == without else {"answer": "1"}) for n in range(6)]
    error = failure(write(tmp_path / "rows.jsonl", source), columns={"answer": "answer"})
    assert f"rows.jsonl:{without + 1 if without else 2}: " in error.message
    assert error.key == ".columns.answer"


# ---- several files ----


def test_globs_and_lists_are_read_in_order(tmp_path):
    for name, start in (("b", 10), ("a", 0), ("c", 20)):
        write(tmp_path / f"{name}.jsonl", rows(10, start))
    whole = build(tmp_path / "*.jsonl", learns=False, num_val=None)
    assert questions(whole.val) == questions(rows(30))
    listed = [str(tmp_path / "c.jsonl"), str(tmp_path / "[ab].jsonl")]
    assert questions(build(listed, learns=False, num_val=None).val)[:10] == questions(rows(10, 20))
    assert "data file not found" in failure(tmp_path / "*.csv").message
    assert "data file not found" in failure([listed[0], str(tmp_path / "d.jsonl")]).message


def test_files_whose_columns_differ_are_refused(tmp_path):
    write(tmp_path / "a.jsonl", [row | {"completion": "x"} for row in rows(3)])
    write(tmp_path / "b.jsonl", rows(3, 10))
    error = failure(tmp_path / "*.jsonl")
    assert "b.jsonl: no row has a column `completion`, which " in error.message
    write(tmp_path / "b.jsonl", [{"q": "1?", "gold": "1"}])
    assert "b.jsonl:1: no column `question`: the columns are q, gold" in failure(tmp_path / "*.jsonl").message


def test_a_file_that_ends_in_mid_row_is_named_with_the_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    write(path, rows(50))
    path.write_text(path.read_text()[:-12])
    assert "rows.jsonl:50: invalid JSON" in failure(path).message
    for suffix in ("parquet", "arrow"):
        table = pa.table({"question": [f"{n}?" for n in range(5000)], "gold": ["1"] * 5000})
        file = tmp_path / f"rows.{suffix}"
        if suffix == "parquet":
            parquet.write_table(table, file, row_group_size=1000)
        else:
            with pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table, max_chunksize=1000)
        content = file.read_bytes()
        file.write_bytes(content[: len(content) * 3 // 5])
        assert f"not {'an arrow' if suffix == 'arrow' else 'a parquet'} file" in failure(file).message
        assert failure(file).value == str(file)
        assert ("after row 3000" in failure(file).message) == (suffix == "arrow")  # parquet has its index at the end


def test_a_parquet_file_that_is_damaged_in_the_middle_is_named_with_the_row(tmp_path):
    table = pa.table({"question": [f"{n}? {n * n}" for n in range(5000)], "gold": ["1"] * 5000})
    file = tmp_path / "rows.parquet"
    parquet.write_table(table, file, row_group_size=1000, compression="snappy")
    content = bytearray(file.read_bytes())
    start = parquet.ParquetFile(file).metadata.row_group(3).column(0).data_page_offset
    content[start : start + 400] = bytes(400)
    file.write_bytes(content)
    error = failure(file)
    assert "after row 3000" in error.message
    assert error.value == str(file)


# ---- the stored rows ----


def test_rows_are_read_once_and_again_after_any_change(tmp_path, monkeypatch):
    passes = []
    original = Reader._read
    monkeypatch.setattr(Reader, "_read", lambda *args: passes.append(1) or original(*args))
    path = write(tmp_path / "rows.jsonl", rows(10))
    first = build(path)
    assert build(path).train == first.train
    assert build(path, num_val=4).digest() != first.digest()
    assert len(passes) == 1
    write(tmp_path / "rows.jsonl", rows(11))
    assert len(build(path).train) == 9
    build(path, columns={"level": None})
    assert len(passes) == 3


def test_damaged_stored_rows_are_written_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path / "rows.jsonl", rows(10))
    before = list(build(path).train)
    (file,) = (tmp_path / "cache").glob("r1/*/rows.arrow")
    file.write_bytes(file.read_bytes()[:-100])
    assert build(path).train == before


def test_stored_rows_without_use_are_removed_unless_they_are_open(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    cache = tmp_path / "cache" / "r1"

    def stored():
        return {file.parent for file in cache.glob("*/rows.arrow")}

    opened = build(write(tmp_path / "open.jsonl", rows(10)))
    build(write(tmp_path / "closed.jsonl", rows(11)))
    build(write(tmp_path / "used.jsonl", rows(12)))
    gc.collect()
    partial = cache / f"{'0' * 32}.tmp.1"
    partial.mkdir()
    (cache / "checks").mkdir()
    (cache / "checks" / "old.json").write_text("[]")
    before = stored()
    for file in (*cache.glob("*/summary.json"), partial, cache / "checks" / "old.json"):
        os.utime(file, (0, time.time() - 31 * 24 * 3600))
    build(tmp_path / "used.jsonl")
    build(write(tmp_path / "new.jsonl", rows(13)))
    (removed,) = before - stored()
    assert len(stored()) == 3
    assert not partial.exists()
    assert not (cache / "checks" / "old.json").exists()
    assert len(opened.train) == 8
    assert questions(opened.train + opened.val) != []
    build(tmp_path / "closed.jsonl")
    assert removed in stored()


def test_stored_rows_keep_every_value(tmp_path):
    extra = '"n": [0.10, 1e16, -0.0, 1e300, 12345678901234567890, true, null], "o": {"é": "\\u0000\\"\\ud83d\\ude00"}'
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"question": "{n}?", "gold": 0.10, {extra}}}\n' for n in range(3)))
    row = build(path, num_val=1).train[0]
    assert list(map(str, row["n"])) == [
        "0.10", "10000000000000000", "-0.0", "1e300", "12345678901234567890", "True", "None"
    ]  # fmt: skip
    assert (row["answer"], row["o"]) == ("0.10", {"é": '\0"😀'})
