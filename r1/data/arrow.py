"""Rows of an Arrow table with the types of JSON: decimals keep their text, NaN is null, dates and bytes are text."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.parquet import ParquetFile

from r1.data.columns import Row
from r1.data.decimal_float import DecimalFloat

Convert = Callable[[Any], Any]
LISTS = (
    pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list,
    pa.types.is_list_view, pa.types.is_large_list_view,
)  # fmt: skip


BATCH = 1000  # rows that are converted at once


def parquet_tables(file: Path, columns: Collection[str] | None = None) -> Iterator[pa.Table]:
    """A file's rows, some at a time.

    Args:
        columns: these are read, if all are there; None: all are.
    """
    with ParquetFile(file) as source:
        is_part = columns is not None and {*columns} <= {*source.schema_arrow.names}
        for batch in source.iter_batches(BATCH, columns=list(columns or ()) if is_part else None):
            yield pa.Table.from_batches([batch])


def arrow_tables(file: Path) -> Iterator[pa.Table]:
    """A memory-mapped file's rows, some at a time: a stream, as `datasets` writes it, or a file with an index."""
    with pa.memory_map(str(file)) as source:
        try:
            batches = iter(pa.ipc.open_stream(source))
        except pa.ArrowInvalid:
            reader = pa.ipc.open_file(source)
            batches = map(reader.get_batch, range(reader.num_record_batches))
        for batch in batches:
            for start in range(0, batch.num_rows, BATCH):
                yield pa.Table.from_batches([batch.slice(start, BATCH)])


def table_rows(table: pa.Table) -> Iterator[Row]:
    """Raises: ValueError, KeyError: a struct or a map has a name twice."""
    converters = {field.name: converter(field.type) for field in table.schema}
    for row in table.to_pylist(maps_as_pydicts="strict"):
        yield convert_fields(row, converters)


def convert_fields(row: Row, converters: dict[str, Convert]) -> Row:
    return {name: convert(row[name]) for name, convert in converters.items()}


def converter(kind: pa.DataType) -> Convert:
    """The conversion of a value of an Arrow type; null stays null."""
    convert = value_converter(kind)
    return lambda value: None if value is None else convert(value)


def value_converter(kind: pa.DataType) -> Convert:
    is_a = pa.types
    if is_a.is_floating(kind):
        return partial(from_float, np.dtype(kind.to_pandas_dtype()).type)
    if is_a.is_decimal(kind):
        return lambda value: DecimalFloat(str(value))
    if is_a.is_struct(kind):
        return partial(convert_fields, converters={field.name: converter(field.type) for field in kind})
    if any(is_list(kind) for is_list in LISTS):
        convert = converter(kind.value_type)
        return lambda values: [convert(value) for value in values]
    if is_a.is_map(kind):
        convert_key, convert = value_converter(kind.key_type), converter(kind.item_type)
        return lambda pairs: {str(convert_key(key)): convert(value) for key, value in pairs.items()}
    return value_converter(kind.value_type) if is_a.is_dictionary(kind) else plain


def plain(value: Any) -> Any:
    """Text and whole numbers; bytes as text, as Spark writes it, or hexadecimal; dates and UUIDs as text."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    return value if isinstance(value, int | str) else str(value)


def from_float(scalar: Callable[[float], np.floating[Any]], value: float) -> DecimalFloat | None:
    """The shortest decimal that is this number in its own width: 0.1 in float32 is 0.1 and not 0.10000000149011612."""
    return DecimalFloat(str(scalar(value))) if math.isfinite(value) else None
