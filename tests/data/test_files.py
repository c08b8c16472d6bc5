"""Rows of JSON, CSV and parquet files: decimal text, missing values, duplicates, and any broken file."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import math
import pickle
from copy import deepcopy
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

from r1.core.errors import DATA, UserError
from r1.data.base import Row
from r1.data.decimal_float import DecimalFloat
from r1.data.files import object_of_pairs, parse_row, parse_value, read_file


def read(file: Path, content: str | bytes = "", **knobs: Any) -> list[Row]:
    """All rows; the first error is raised."""
    if content:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = []
    for _, row in read_file(str(file), "data.path", **knobs):
        if isinstance(row, UserError):
            raise row
        rows.append(row)
    return rows


def error_of(file: Path, content: str | bytes, **knobs: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        read(file, content, **knobs)
    assert (caught.value.code, caught.value.key) == (DATA, "data.path")
    return caught.value


# ---- numbers ----

WRITTEN = [
    ("0.00001", "0.00001"),
    ("2.5e-7", "0.00000025"),
    ("1e16", "10000000000000000"),
    ("1E+22", "1" + "0" * 22),
    ("72.0", "72.0"),
    ("0.10", "0.10"),
    ("-0.5", "-0.5"),
    ("123456789.123456789123", "123456789.123456789123"),  # more digits than a float has
    ("1.60217663e-19", "0.000000000000000000160217663"),
    ("12345678901234567890123", "12345678901234567890123"),
    ("7", "7"),
    ("1e300", "1e300"),
    ("1e-300", "1e-300"),
    ("0.0", "0.0"),
]


@pytest.mark.parametrize(("written", "text"), WRITTEN)
def test_json_and_csv_numbers_keep_their_decimal_text(tmp_path: Path, written: str, text: str) -> None:
    for suffix, content in ((".jsonl", f'{{"answer": {written}}}'), (".json", f'[{{"answer": {written}}}]')):
        (row,) = read(tmp_path / f"rows{suffix}", content)
        assert str(row["answer"]) == text
        assert float(row["answer"]) == float(written)
    (row,) = read(tmp_path / "rows.csv", f"answer\n{written}\n")
    assert (str(row["answer"]), float(row["answer"])) == (text, float(written))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=8, min_value=-(10**9), max_value=10**9))
def test_a_decimal_is_the_same_number_after_reading(number: Decimal) -> None:
    assert Decimal(str(parse_value(str(number), 0)[0])) == number
    assert Fraction(str(DecimalFloat(str(number)))) == Fraction(number)


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(1e16)
@example(5e-324)
def test_a_float_is_the_same_number_after_reading(number: float) -> None:
    value, _ = parse_value(json.dumps(number), 0)
    assert value == float(str(value)) == number
    assert json.loads(json.dumps(value)) == number
    assert "e" not in str(value) or not 1e-30 <= abs(number) < 1e30


@pytest.mark.parametrize("dtype", [pa.float16(), pa.float32(), pa.float64()])
def test_parquet_floats_are_the_shortest_decimal_of_their_width(tmp_path: Path, dtype: pa.DataType) -> None:
    values = pa.array([0.1, 0.5, 3.0, None], dtype)
    parquet.write_table(pa.table({"answer": values}), tmp_path / "a.parquet")
    answers = [row["answer"] for row in read(tmp_path / "a.parquet")]
    assert list(map(str, answers[:3])) == ["0.1", "0.5", "3.0"]
    assert answers[3] is None


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (pa.array([1e16], pa.float32()), "10000000000000000"),
        (pa.array([1e-5]), "0.00001"),
        (pa.array([2**53 + 1]), "9007199254740993"),
        (pa.array([Decimal("1.10")]), "1.10"),
        (pa.array([Decimal("12345678901234567890.5")]), "12345678901234567890.5"),
        (pa.array([date(2024, 2, 29)]), "2024-02-29"),
        (pa.array([b"caf\xc3\xa9"]), "café"),
        (pa.array([b"\xff\x01"]), "ff01"),
        (pa.array([b"\x80" * 2], pa.binary(2)), "8080"),
        (pa.array([[("a", 0.1)]], pa.map_(pa.string(), pa.float32())), "{'a': 0.1}"),
        (pa.array([[(0.1, 0.1)]], pa.map_(pa.float32(), pa.float32())), "{'0.1': 0.1}"),
        (pa.array([[0.1]], pa.list_view(pa.float32())), "[0.1]"),
        (pa.array([b"caf\xc3\xa9"], pa.binary_view()), "café"),
        (pa.array([2**64 - 1], pa.uint64()), "18446744073709551615"),
        (
            pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16], pa.binary(16))),
            "30303030-3030-3030-3030-303030303030",
        ),
        (pa.array(["x"]).dictionary_encode(), "x"),
        (pa.array([np.float32(0.1)]).cast(pa.float32()).dictionary_encode(), "0.1"),
    ],
)
def test_parquet_values_become_what_json_has(tmp_path: Path, array: pa.Array, text: str) -> None:
    parquet.write_table(pa.table({"answer": array}), tmp_path / "a.parquet")
    (row,) = read(tmp_path / "a.parquet")
    assert str(row["answer"]) == text
    json.dumps(row)


def test_numbers_inside_lists_and_structs_keep_their_text_too(tmp_path: Path) -> None:
    column = pa.array([[{"x": 0.1}], None], pa.list_(pa.struct({"x": pa.float32()})))
    parquet.write_table(pa.table({"a": column}), tmp_path / "a.parquet")
    first, second = read(tmp_path / "a.parquet")
    assert (str(first["a"][0]["x"]), second["a"]) == ("0.1", None)


def test_a_decimal_float_survives_copies_and_processes() -> None:
    number = DecimalFloat("1e16")
    for same in (deepcopy(number), pickle.loads(pickle.dumps(number))):
        assert (str(same), f"{same}", same, type(same)) == (
            "10000000000000000",
            "10000000000000000",
            1e16,
            DecimalFloat,
        )


@pytest.mark.parametrize("content", ['{"a": 1e400}', '{"a": [-1E+999]}'])
def test_a_number_that_no_float_holds_is_an_error(tmp_path: Path, content: str) -> None:
    assert "too large for a float" in error_of(tmp_path / "a.jsonl", content).message


def test_a_whole_number_of_any_size_is_kept(tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", f'{{"a": {10**400}}}') == [{"a": 10**400}]


# ---- missing values ----


@pytest.mark.parametrize("written", ["NaN", "Infinity", "-Infinity", "null"])
def test_json_constants_are_missing_values(tmp_path: Path, written: str) -> None:
    assert read(tmp_path / "a.jsonl", f'{{"a": {written}, "b": [{written}]}}') == [{"a": None, "b": [None]}]


def test_parquet_nan_and_infinity_are_missing_values(tmp_path: Path) -> None:
    table = pa.table({"a": [math.nan, math.inf, 1.0], "b": pa.array([[math.nan], [-math.inf], []])})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [{"a": None, "b": [None]}, {"a": None, "b": [None]}, {"a": 1.0, "b": []}]


def test_empty_and_not_finite_cells_are_missing_values(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.csv", "n,text\n1,x\n,NaN\nnan, \ninf,\n-Infinity,NA\n")
    assert [row["n"] for row in rows] == [1, None, None, None, None]
    assert [row["text"] for row in rows] == ["x", None, None, None, "NA"]


# ---- duplicates ----


@pytest.mark.parametrize("line", ['{"a": 1, "a": 1}', '{"x": {"a": 1, "b": 2, "a": 3}}', '{"a": 1, "\\u0061": 2}'])
def test_a_duplicate_key_names_the_file_and_the_row(tmp_path: Path, line: str) -> None:
    file = tmp_path / "rows.jsonl"
    assert error_of(file, f"{{}}\n{line}\n").message == f"{file}:2: invalid JSON: more than one value for `a`"


def test_a_duplicate_column_is_an_error(tmp_path: Path) -> None:
    assert "more than one column `a`" in error_of(tmp_path / "a.csv", "a,b,a\n1,2,3\n").message
    parquet.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), tmp_path / "a.parquet")
    assert "more than one column `a`" in error_of(tmp_path / "a.parquet", "").message


@pytest.mark.parametrize(
    "nested",
    [
        pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64())),
        pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["k", "k"]),
    ],
)
def test_a_duplicate_name_inside_a_parquet_column_is_an_error(tmp_path: Path, nested: pa.Array) -> None:
    parquet.write_table(pa.table({"a": nested}), tmp_path / "a.parquet")
    assert "duplicate" in error_of(tmp_path / "a.parquet", "").message


# ---- text ----


@pytest.mark.parametrize("value", ['"\\ud83d"', '["x", "\\uDE00"]', '{"\\ud83d": 1}', '"\\ude00\\ud83d"'])
def test_half_of_a_surrogate_pair_is_an_error_in_any_column(tmp_path: Path, value: str) -> None:
    file = tmp_path / "rows.jsonl"
    assert "rows.jsonl:1: half of a surrogate pair" in error_of(file, f'{{"note": {value}}}').message
    assert read(file, '{"a": "\\ud83d\\ude00 \\\\ud83d"}') == [{"a": "😀 \\ud83d"}]


def test_csv_columns_are_numbers_only_if_every_cell_is_one(tmp_path: Path) -> None:
    content = "id,code,mixed,prompt,x\n1,007,1,5,1.5\n2,12,a,6,\n"
    first, second = read(tmp_path / "a.csv", content, text_columns={"prompt"})
    assert first == {"id": 1, "code": "007", "mixed": "1", "prompt": "5", "x": 1.5}
    assert second == {"id": 2, "code": "12", "mixed": "a", "prompt": "6", "x": None}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip), min_size=1))
def test_csv_text_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    file = tmp_path_factory.mktemp("csv") / "a.csv"
    rows = [[f'say {text}\nand "{text}", {text}', "x"] for text in texts]
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([["text", "y"], *rows])
    assert [row["text"] for row in read(file)] == [text for text, _ in rows]


def test_csv_rows_are_numbered_by_their_first_line(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('a,b\n"x\ny",1\n\nz,2\n')
    assert [location for location, _ in read_file(str(file), "data.path")] == [f"{file}:2", f"{file}:5"]


def test_long_csv_cells_are_read(tmp_path: Path) -> None:
    assert len(read(tmp_path / "a.csv", f"a\n{'x' * 300_000}\n")[0]["a"]) == 300_000


# ---- broken files ----


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "a,b\n1\n", "a.csv:2: 1 cells for 2 columns"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "a.csv:3: 3 cells for 2 columns"),
        ("a.csv", 'a\n"x', "a.csv:2: unexpected end of data"),
        ("a.csv", b"a\n\xff\n", "not UTF-8"),
        ("a.json", '[{"a": 1}, 2]', "a.json:2: a row must be a JSON object"),
        ("a.json", '[{"a": 1}', "a.json:1: invalid JSON"),
        ("a.json", '[{"a": 1} {"a": 1}]', "a.json:1: invalid JSON"),
        ("a.json", '[{"a": 1},]', "a.json:1: invalid JSON"),
        ("a.json", '[{"a": 1},,{"a": 1}]', "a.json:2: invalid JSON"),
        ("a.json", '[{"a": 1}] []', "a.json:2: invalid JSON"),
        ("a.json", '[{"a": 1}, {"a": }]', "a.json:2: invalid JSON at column 18"),
        ("a.json", '[{"a": 1}, {"a": 1, "a": 2}]', "a.json:2: invalid JSON: more than one value for `a`"),
        ("a.json", '[{"a": 1}, {"a": "\\ud83d"}]', "a.json:2: half of a surrogate pair"),
        ("a.json", b'[{"a": "\xff"}]', "not UTF-8 at byte 9"),
        ("a.json", "[", "the list has no end"),
        ("a.json", '{"a": 1}\n{"a"', "a.json:2: invalid JSON"),
        ("a.jsonl", "[1]", "a.jsonl:1: a row must be a JSON object"),
        ("a.parquet", "x", "not a parquet file"),
        ("a.txt", "x", "cannot be read"),
    ],
)
def test_a_broken_file_is_a_user_error(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    assert message in error_of(tmp_path / name, content).message


def test_parquet_text_that_is_not_utf8_is_a_user_error(tmp_path: Path) -> None:
    text = pa.array([b"ok", b"\xff"]).view(pa.string())
    parquet.write_table(pa.table({"a": text}), tmp_path / "a.parquet")
    assert "UTF8" in error_of(tmp_path / "a.parquet", "").message


@pytest.mark.parametrize("before", ["\n \n", "\ufeff\r\n", "  "])
def test_a_json_list_may_follow_blank_lines(tmp_path: Path, before: str) -> None:
    assert read(tmp_path / "a.json", before + '[{"a": 1.10},\r\n{"a": 2}]\r\n') == [{"a": 1.1}, {"a": 2}]


def test_a_file_without_rows_has_none(tmp_path: Path) -> None:
    for name, content in (("a.csv", "\n"), ("b.csv", "a,b\n"), ("a.json", "[]"), ("a.jsonl", "\n\n")):
        assert read(tmp_path / name, content) == []


@given(st.binary(max_size=80) | st.text('{}[]"a:1,\\ud8', max_size=20).map(str.encode))
def test_any_line_is_a_row_or_a_value_error(line: bytes) -> None:
    try:
        row = parse_row(line)
    except ValueError:
        return
    json.dumps(row, ensure_ascii=False).encode()


@given(st.lists(st.dictionaries(st.text(), st.integers() | st.text() | st.none())), st.sampled_from([None, 1]))
def test_a_json_list_is_read_as_json_reads_it(tmp_path_factory: pytest.TempPathFactory, rows: Any, indent: Any) -> None:
    file = tmp_path_factory.mktemp("json") / "a.json"
    assert read(file, json.dumps(rows, indent=indent)) == rows


@given(st.text('[]{},"a1: \n', max_size=12))
def test_any_text_is_a_json_list_exactly_if_json_reads_one(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("json") / "a.json"
    try:
        rows = read(file, f"[{text}")
    except UserError:
        rows = None
    try:
        expected = json.loads(f"[{text}", object_pairs_hook=object_of_pairs)
        expected = expected if all(isinstance(row, dict) for row in expected) else None
    except ValueError:
        expected = None
    assert rows == expected


@given(st.binary(max_size=80) | st.text('a1,"\n\r', max_size=20).map(str.encode))
def test_any_csv_file_is_rows_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("csv") / "a.csv"
    file.write_bytes(content)
    try:
        rows = read(file)
    except UserError:
        return
    assert all(isinstance(row, dict) for row in rows)


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text("aé😀\n\\", max_size=9), max_size=2)), st.integers(1, 9))
def test_a_json_list_is_the_same_in_blocks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], block: int
) -> None:
    file = tmp_path_factory.mktemp("json") / "a.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("r1.data.files.BLOCK", block)
        assert read(file, " \n" + json.dumps(rows, ensure_ascii=False)) == rows
        assert read(file, json.dumps(rows, indent=1)) == rows
        message = error_of(file, json.dumps([*rows, {"é": "x"}], ensure_ascii=False)[:-3]).message
        assert message.startswith(f"{file}:{len(rows) + 1}: invalid JSON at column ")


def test_an_error_in_a_json_list_has_its_column_in_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r1.data.files.BLOCK", 4)
    assert "invalid JSON at column 18" in error_of(tmp_path / "a.json", '[{"a": 1}, {"a": }]').message
    assert "a.json:2: invalid JSON at column 7" in error_of(tmp_path / "a.json", '[{"a": 1},\n{"a": }]').message


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_a_compressed_file_has_the_rows_of_its_content(tmp_path: Path, suffix: str) -> None:
    compress = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix]
    for name, content in (("a.jsonl", '{"a": 0.10}\n'), ("a.json", '[{"a": 0.10}]'), ("a.csv", "a\n0.10\n")):
        (row,) = read(tmp_path / f"{name}{suffix}", compress(content.encode()))
        assert str(row["a"]) == "0.10"


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_an_arrow_file_is_read_like_parquet(tmp_path: Path, new: Any) -> None:
    table = pa.table({"a": pa.array([0.1, math.nan], pa.float32()), "b": [[{"x": 1}], None]})
    with new(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    first, second = read(tmp_path / "a.arrow")
    assert (str(first["a"]), first["b"], second) == ("0.1", [{"x": 1}], {"a": None, "b": None})
    assert "not an arrow file that can be read" in error_of(tmp_path / "b.arrow", "x").message
