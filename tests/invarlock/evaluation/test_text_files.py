"""Texts in files: what is read, and what is refused."""

from __future__ import annotations

import hashlib
import lzma
from pathlib import Path

import pytest

from invarlock.errors import EvaluationError, InvarLockError, MissingFileError
from invarlock.evaluation.text import SourceText
from invarlock.evaluation.text_files import read_local_text, read_text_files


def source(provider: str, text: str) -> SourceText:
    return SourceText(provider, text, f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")


def write_parquet(path: Path, rows: dict[str, list[object]]) -> Path:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table(rows), path)
    return path


def test_rows_and_plain_files_are_one_text_without_the_blank_ones(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "one", "n": 1}\n\n{"body": " "}\n{"body": "zwei \u00e4"}\n', "utf-8")
    (tmp_path / "b.txt").write_text("three", "utf-8")
    (tmp_path / "c.xz").write_bytes(lzma.compress(b"four"))

    assert read_text_files("hf_text", sorted(tmp_path.iterdir()), "body") == source(
        "hf_text", "one\n\nzwei \u00e4\n\nthree\n\nfour"
    )
    assert read_local_text(tmp_path / "a.jsonl", "body") == source("local_jsonl", "one\n\nzwei \u00e4")
    assert read_local_text(tmp_path / "c.xz") == source("local_text", "four")


def test_a_column_of_parquet_is_read(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "rows.parquet", {"text": ["one", None, "", "two"], "n": [1, 2, 3, 4]})

    assert read_local_text(path) == source("local_parquet", "one\n\ntwo")
    with pytest.raises(EvaluationError, match="no column 'n' of text; it has text, n"):
        read_local_text(path, "n")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(EvaluationError, match="not a whole parquet file"):
        read_local_text(path)


@pytest.mark.parametrize(
    ("name", "data", "kind", "message"),
    [
        (
            "rows.jsonl",
            b'{"text": "a"}\n{"body": "b"}\n',
            EvaluationError,
            "line 2: each line must be an object with a",
        ),
        ("rows.jsonl", b'{"text": 1}\n', EvaluationError, "line 1: each line must be an object with a text 'text'"),
        ("rows.jsonl", b'{"text": "a"\n', InvarLockError, "line 1"),
        ("rows.jsonl", b"\n\n", EvaluationError, "there is no text in it"),
        ("text.txt", b"\xff\xfe", EvaluationError, "not UTF-8 text"),
        ("text.xz", b"not packed", EvaluationError, "not UTF-8 text"),
        ("absent.txt", None, MissingFileError, "no such file; name a text to score on"),
        ("absent.parquet", None, MissingFileError, "no such file; name a text to score on"),
    ],
)
def test_what_is_no_text_is_refused(
    tmp_path: Path, name: str, data: bytes | None, kind: type[InvarLockError], message: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)

    with pytest.raises(kind, match=message):
        read_local_text(tmp_path / name)
