"""Reads the texts in a column of a Parquet file, batch by batch, so that memory is bounded by the size of the text.

A dictionary column stores each value once and may refer to it a billion times, so the length of a batch is counted
before its rows are made.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from invarlock.errors import EvaluationError, MissingFileError
from invarlock.evaluation.compressed_text import MAX_TEXT_BYTES, decode, too_long
from invarlock.problems import Code

PARQUET_ADVICE = "a .parquet file is read with pyarrow; pip install 'invarlock[parquet]'"
ROWS_A_BATCH = 16384


def has_parquet() -> bool:
    """Return whether Parquet files can be read, that is, whether pyarrow is installed."""
    return importlib.util.find_spec("pyarrow") is not None


def parquet_rows(path: Path, field: str) -> list[str]:
    """Return the texts of a column, without blank ones.

    Raises:
        MissingFileError: when the file does not exist, or pyarrow is not installed.
        EvaluationError: when it is malformed or too long, has no such text column, or has rows without a text.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; name a text to score on")
    if not has_parquet():
        raise MissingFileError(f"{path.name}: {PARQUET_ADVICE}")
    arrow: Any = importlib.import_module("pyarrow")
    try:
        return [text for text in _rows(path, field, arrow) if text.strip()]
    except (arrow.ArrowException, OSError) as error:
        line = " ".join(str(error).split())[:160]
        raise EvaluationError(
            f"not a whole parquet file ({line}); fetch it again", code=Code.TEXT_UNUSABLE, where=str(path)
        ) from None


def _rows(path: Path, field: str, arrow: Any) -> Iterator[str]:
    parquet: Any = importlib.import_module("pyarrow.parquet")
    # a text column stays dictionary-encoded until its rows are made
    file = parquet.ParquetFile(path, read_dictionary=[field])
    _check_column(path, field, file.schema_arrow, arrow)
    if _stored_bytes(file.metadata, field) > MAX_TEXT_BYTES:
        raise too_long(str(path))
    size = number = 0
    for batch in file.iter_batches(batch_size=ROWS_A_BATCH, columns=[field]):
        column = batch.column(0)
        size += _text_bytes(column, arrow)
        if size > MAX_TEXT_BYTES:
            raise too_long(str(path))
        for row in column.to_pylist():
            number += 1
            if row is None:
                raise EvaluationError(
                    f"row {number}: no text in column {field!r}; drop the rows without a text, or give them an "
                    "empty one",
                    code=Code.TEXT_UNUSABLE,
                    where=str(path),
                )
            yield decode(row.encode("utf-8") if isinstance(row, str) else row, f"{path}: row {number}")


def _check_column(path: Path, field: str, schema: Any, arrow: Any) -> None:
    """Refuse a column that does not exist or does not contain text."""
    if field not in schema.names:
        raise EvaluationError(
            f"no column {field!r}; it has {', '.join(schema.names)}", code=Code.TEXT_UNUSABLE, where=str(path)
        )
    kind = schema.field(field).type
    inner = kind.value_type if arrow.types.is_dictionary(kind) else kind
    if not any(is_text(inner) for is_text in _text_types(arrow.types)):
        raise EvaluationError(
            f"column {field!r} is of type {inner}, not text; it has {', '.join(schema.names)}",
            code=Code.TEXT_UNUSABLE,
            where=str(path),
        )


def _stored_bytes(metadata: Any, field: str) -> int:
    """Return the stored, decompressed bytes of one column over all row groups."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    columns = [group.column(index) for group in groups for index in range(group.num_columns)]
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == field)


def _text_bytes(column: Any, arrow: Any) -> int:
    """Return the bytes of all rows of a batch's column; a dictionary may need far less memory than that."""
    if not arrow.types.is_dictionary(column.type):
        return int(column.nbytes)
    compute: Any = importlib.import_module("pyarrow.compute")
    lengths = compute.binary_length(column.dictionary)
    return int(compute.sum(compute.take(lengths, column.indices)).as_py() or 0)


def _text_types(types: Any) -> list[Any]:
    names = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "fixed_size_binary")
    return [getattr(types, f"is_{name}") for name in names if hasattr(types, f"is_{name}")]
