"""Reads one or several files as one text: plain text, or rows of JSON Lines, JSON or Parquet, compressed or not.

The suffixes decide how a file is read; they may be in any case and stacked (``rows.JSONL.xz``). A file is read
completely or refused.

Example::

    read_text_files("hf_text", [Path("test.parquet")], "text")    # its rows, with a blank line between them
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invarlock.digests import digest_bytes
from invarlock.errors import DocumentError, EvaluationError, MissingFileError
from invarlock.evaluation.compressed_text import (
    COMPRESSIONS,
    MAX_TEXT_BYTES,
    decode,
    decompress,
    one_line_end,
    too_long,
)
from invarlock.evaluation.parquet_text import parquet_rows
from invarlock.evaluation.text import SourceText
from invarlock.jsonio import parse_json
from invarlock.problems import Code

LINE_SUFFIXES = (".jsonl", ".ndjson")
ROW_SUFFIXES = (*LINE_SUFFIXES, ".json", ".parquet")
# Suffixes of files that do not contain plain text: tables, archives, documents.
UNREADABLE = (
    ".csv", ".tsv", ".arrow", ".feather", ".pdf", ".docx", ".epub", ".zip", ".tar", ".tgz", ".7z", ".zst", ".lz4",
)  # fmt: skip


def read_text_files(provider: str, paths: Sequence[Path], field: str) -> SourceText:
    """Return files as one text: their rows, or a whole plain file, separated by blank lines.

    Args:
        provider: the kind of source, for reports.
        paths: the files, in order.
        field: the field of a row that has its text.

    Raises:
        MissingFileError: when a file does not exist, or pyarrow is not installed.
        EvaluationError: when a file is malformed, its rows lack the field, or there is no text or too much.
    """
    parts = [part for path in paths for part in _parts(path, field)]
    text = "\n\n".join(part for part in parts if part.strip())
    data = text.encode("utf-8")
    if not data:
        raise EvaluationError(
            f"{paths[0] if paths else provider}: {_why_empty(paths)}; use another", code=Code.TEXT_UNUSABLE
        )
    if len(data) > MAX_TEXT_BYTES:
        raise too_long(str(paths[0]))
    return SourceText(provider, text, digest_bytes(data))


def read_local_text(path: Path, field: str = "text") -> SourceText:
    """Return a text from disk: rows with a ``field`` in ``.jsonl``, ``.json`` or ``.parquet``, or plain UTF-8.

    All but Parquet may be compressed: ``.xz``, ``.gz``, ``.bz2``.

    Raises:
        MissingFileError: when the file does not exist, or pyarrow is not installed.
        EvaluationError: when it has another format, or is too long.
    """
    kind, _ = _kind(path)
    provider = f"local_{kind[1:]}" if kind in ROW_SUFFIXES else "local_text"
    return read_text_files(provider, [path], field)


def has_rows(path: Path) -> bool:
    """Return whether a file consists of rows with fields, by its suffix."""
    return _kind(path)[0] in ROW_SUFFIXES


def _kind(path: Path) -> tuple[str, str]:
    """Return the format and the compression of a file by its last suffixes; empty for plain text."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    return (suffixes[-1] if suffixes else ""), compression


def _why_empty(paths: Sequence[Path]) -> str:
    is_empty = bool(paths) and not any(path.stat().st_size for path in paths)
    return "the file is empty" if is_empty else "has no text"


def _parts(path: Path, field: str) -> list[str]:
    kind, compression = _kind(path)
    if kind in UNREADABLE:
        raise EvaluationError(
            f"{kind} files are not read; give plain text, .jsonl, .json or .parquet",
            code=Code.TEXT_UNUSABLE,
            where=str(path),
        )
    if kind == ".parquet":
        if compression:
            raise EvaluationError(
                "a compressed .parquet file; decompress it first", code=Code.TEXT_UNUSABLE, where=str(path)
            )
        return parquet_rows(path, field)
    text = _text(path, compression)
    if kind == ".json":
        return _json_rows(path, text, field)
    return _lines(path, text, field) if kind in LINE_SUFFIXES else [text]


def _lines(path: Path, text: str, field: str) -> list[str]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return _fields(path, [(f"line {number}", _line(path, number, line, field)) for number, line in lines], field)


def _line(path: Path, number: int, line: str, field: str) -> Any:
    try:
        return _parse(line, str(path))
    except DocumentError as error:
        # the only line of this document is a later one of the file
        reason = error.problems[0].message.replace(" at line 1, column ", " at column ")
        raise DocumentError(
            f"line {number}: {reason}; every line must be a JSON object with a string field {field!r}, "
            "and a plain text needs a name such as text.txt",
            where=str(path),
        ) from None


def _json_rows(path: Path, text: str, field: str) -> list[str]:
    """Return the rows of a JSON list of objects, of one object, or of JSON Lines in a ``.json`` file."""
    try:
        document = _parse(text, str(path))
    except DocumentError:
        if len([line for line in text.split("\n") if line.strip()]) < 2:
            raise
        return _lines(path, text, field)
    rows = document if isinstance(document, list) else [document]
    return _fields(path, [(f"row {number}", row) for number, row in enumerate(rows, start=1)], field)


def _parse(text: str, where: str) -> Any:
    return parse_json(text.encode("utf-8"), where=where, limit_bytes=MAX_TEXT_BYTES, limit_values=MAX_TEXT_BYTES)


def _fields(path: Path, rows: Sequence[tuple[str, Any]], field: str) -> list[str]:
    for where, row in rows:
        if not isinstance(row, dict) or not isinstance(row.get(field), str):
            raise EvaluationError(
                f"{where}: every {where.partition(' ')[0]} must be a JSON object with a string field {field!r}; "
                "--text-field names another field",
                code=Code.TEXT_UNUSABLE,
                where=str(path),
            )
    return [one_line_end(row[field]) for _, row in rows]


def _text(path: Path, compression: str) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_TEXT_BYTES + 1)
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file; name a text to score on") from None
    except OSError as error:
        raise EvaluationError(f"cannot be read ({error.strerror})", code=Code.TEXT_UNUSABLE, where=str(path)) from None
    if len(data) > MAX_TEXT_BYTES:
        raise too_long(str(path))
    return decode(decompress(data, compression, str(path)) if compression else data, str(path))
