"""Texts in files: plain, ``.xz``, rows of ``.jsonl`` or of ``.parquet``, and several such files as one text.

Example::

    read_text_files("hf_text", [Path("test.parquet")], "text")    # its rows, with a blank line between them
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invarlock.errors import EvaluationError, MissingFileError
from invarlock.evaluation.text import MAX_TEXT_BYTES, SourceText
from invarlock.jsonio import parse_json

ROW_SUFFIXES = (".jsonl", ".parquet")
PARQUET_ADVICE = "a .parquet file is read with pyarrow; pip install 'invarlock[parquet]'"


def read_text_files(provider: str, paths: Sequence[Path], field: str) -> SourceText:
    """Return files as one text: their rows, or the whole of a plain one, with a blank line between two.

    Args:
        provider: the kind of source, for reports.
        paths: the files, in their order.
        field: what holds the text of a row.

    Raises:
        MissingFileError: when there is no such file, or no pyarrow to read it.
        EvaluationError: when one is malformed, its rows have no such field, or there is no text or too much.
    """
    parts = [part for path in paths for part in _parts(path, field)]
    text = "\n\n".join(part for part in parts if part.strip())
    data = text.encode("utf-8")
    if not data:
        raise EvaluationError(f"{paths[0] if paths else provider}: there is no text in it; use another")
    if len(data) > MAX_TEXT_BYTES:
        raise EvaluationError(f"{paths[0]}: more than {MAX_TEXT_BYTES} bytes of text; use a shorter one")
    return SourceText(provider, text, f"sha256:{hashlib.sha256(data).hexdigest()}")


def read_local_text(path: Path, field: str = "text") -> SourceText:
    """Return a text from disk: ``.jsonl`` or ``.parquet`` (rows with ``field``), ``.xz``, or plain UTF-8.

    Raises:
        MissingFileError: when there is no such file, or no pyarrow to read it.
        EvaluationError: when it is none of these, or too long.
    """
    if path.suffix in ROW_SUFFIXES:
        return read_text_files(f"local_{path.suffix[1:]}", [path], field)
    text = _plain(path)
    return SourceText("local_text", text, f"sha256:{hashlib.sha256(text.encode('utf-8')).hexdigest()}")


def has_parquet() -> bool:
    """Tell whether parquet files can be read here."""
    return importlib.util.find_spec("pyarrow") is not None


def _parts(path: Path, field: str) -> list[str]:
    if path.suffix == ".parquet":
        return _parquet_rows(path, field)
    text = _plain(path)
    if path.suffix != ".jsonl":
        return [text]
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    rows = [parse_json(line.encode("utf-8"), where=f"{path}: line {number}") for number, line in lines]
    for (number, _), row in zip(lines, rows, strict=True):
        if not isinstance(row, dict) or not isinstance(row.get(field), str):
            raise EvaluationError(f"{path}: line {number}: each line must be an object with a text {field!r}")
    return [row[field] for row in rows]


def _parquet_rows(path: Path, field: str) -> list[str]:
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; name a text to score on")
    if not has_parquet():
        raise MissingFileError(f"{path.name}: {PARQUET_ADVICE}")
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    try:
        file = parquet.ParquetFile(path)
        schema = file.schema_arrow
        kinds = (arrow.string(), arrow.large_string())
        if field not in schema.names or schema.field(field).type not in kinds:
            raise EvaluationError(f"{path}: no column {field!r} of text; it has {', '.join(schema.names)}")
        groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
        if sum(group.total_byte_size for group in groups) > MAX_TEXT_BYTES:
            raise EvaluationError(f"{path}: more than {MAX_TEXT_BYTES} bytes of rows; use a shorter text")
        rows: list[str | None] = file.read(columns=[field]).column(field).to_pylist()
    except (arrow.ArrowException, OSError) as error:
        line = " ".join(str(error).split())[:160]
        raise EvaluationError(f"{path}: not a whole parquet file ({line}); fetch it again") from None
    return [row for row in rows if row is not None]


def _plain(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_TEXT_BYTES + 1)
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file; name a text to score on") from None
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > MAX_TEXT_BYTES:
        raise EvaluationError(f"{path}: more than {MAX_TEXT_BYTES} bytes; use a shorter text")
    try:
        if path.suffix == ".xz":
            data = lzma.LZMADecompressor().decompress(data, max_length=MAX_TEXT_BYTES)
        return data.decode("utf-8")
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path}: not UTF-8 text ({error})") from None
