"""Texts in files: what is read, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from invarlock.errors import DocumentError, EvaluationError, InvarLockError, MissingFileError
from invarlock.evaluation import parquet_text
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
    path = write_parquet(tmp_path / "rows.parquet", {"text": ["one", " ", "", "two"], "n": [1, 2, 3, 4]})

    assert read_local_text(path) == source("local_parquet", "one\n\ntwo")
    with pytest.raises(EvaluationError, match="column 'n' is of type int64, not text; it has text, n"):
        read_local_text(path, "n")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(EvaluationError, match="not a whole parquet file"):
        read_local_text(path)


def test_a_row_without_a_text_is_refused_as_in_every_format(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "rows.parquet", {"text": ["one", None, "two"]})

    with pytest.raises(EvaluationError, match="row 2: no text in column 'text'"):
        read_local_text(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"text": "one"}\n\nthree\n',
            "rows.jsonl: line 3: not JSON; it begins with 'three'; every line must be a JSON object",
        ),
        ('{"text": "one"}\n{"text": "two"\n', "rows.jsonl: line 2: .* at column 15; every line must be a JSON object"),
        ('{"text": "one"}\n{"text": NaN}\n', "rows.jsonl: line 2: NaN is not JSON.*; every line must be a JSON object"),
        ("plain text\n", "a plain text needs a name such as text.txt"),
    ],
)
def test_a_line_that_is_no_json_is_named_with_its_number_and_what_it_must_be(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    assert read_local_text(path).text == "one\n\ntwo"

    path.write_text(text)
    with pytest.raises(DocumentError, match=said):
        read_local_text(path)


def test_only_the_column_that_is_read_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_text, "MAX_TEXT_BYTES", 1000)
    rows: dict[str, list[object]] = {"text": ["one", "two"], "vector": [bytes(range(256)) * 99, b"x"]}
    path = write_parquet(tmp_path / "rows.parquet", rows)

    assert read_local_text(path).text == "one\n\ntwo"
    with pytest.raises(EvaluationError, match="bytes of text; use a shorter one"):
        read_local_text(path, "vector")


@pytest.mark.parametrize("batches", [1, 3])
def test_a_dictionary_is_counted_by_its_rows_before_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    # 64 MB of text in a file of a few kB; what is allowed is less than one batch, or less than three
    rows = parquet_text.ROWS_A_BATCH * batches
    monkeypatch.setattr(parquet_text, "MAX_TEXT_BYTES", 4000 * rows - 1)
    path = write_parquet(tmp_path / "rows.parquet", {"text": ["word " * 800] * rows})
    assert path.stat().st_size < 100_000
    made: list[int] = []

    def count(data: bytes, where: str) -> str:
        made.append(len(data))
        return ""

    monkeypatch.setattr(parquet_text, "decode", count)

    with pytest.raises(EvaluationError, match="bytes of text; use a shorter one"):
        read_local_text(path)

    assert len(made) == parquet_text.ROWS_A_BATCH * (batches - 1)


ROWS = ["It is a truth", "universally acknowledged,\nthat", "\u00e4\u4e2d"]
LINES = "".join(json.dumps({"text": row}) + "\n" for row in ROWS).encode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", LINES),
        ("A.JSONL", LINES),
        ("a.ndjson", LINES),
        ("a.jsonl.xz", lzma.compress(LINES)),
        ("a.JSONL.GZ", gzip.compress(LINES, mtime=0)),
        ("a.jsonl.bz2", bz2.compress(LINES[:9]) + bz2.compress(LINES[9:])),
        ("a.jsonl", LINES.replace(b"\n", b"\r\n")),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES),
        ("a.json", LINES),
        ("a.json", json.dumps([{"text": row} for row in ROWS], indent=1).encode()),
        ("a.json", json.dumps({"text": "\n\n".join(ROWS)}).encode()),
        ("a.txt", "\n\n".join(ROWS).encode()),
        ("a.txt", "\r\n\r\n".join(row.replace("\n", "\r\n") for row in ROWS).encode()),
        ("a", b"\xef\xbb\xbf" + "\n\n".join(ROWS).encode()),
        ("a.txt.xz", b"".join(lzma.compress(part.encode()) for part in ("\n\n".join(ROWS)))),
        ("a.xz", lzma.compress("\n\n".join(ROWS).encode()) + bytes(8)),
        ("a.md.gz", gzip.compress("\n\n".join(ROWS).encode(), mtime=0)),
    ],
)
def test_the_same_text_is_the_same_however_it_is_stored(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)

    assert read_local_text(tmp_path / name).text == "\n\n".join(ROWS)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".xz": lambda data: lzma.compress(data),
    ".gz": lambda data: gzip.compress(data),
    ".bz2": lambda data: bz2.compress(data),
}


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(0, 3), st.sampled_from(sorted(PACKERS)))
def test_any_bytes_are_read_completely_or_refused(tmp_path: Path, data: bytes, cut: int, compression: str) -> None:
    packed = PACKERS[compression](data)
    path = tmp_path / f"text.txt{compression}"
    path.write_bytes(packed[: len(packed) - cut] if compression else packed)

    try:
        text = read_local_text(path).text
    except InvarLockError:
        return

    assert cut == 0 or not compression
    assert text == data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def test_a_text_that_is_too_long_is_refused_and_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "long.txt.xz"
    path.write_bytes(lzma.compress(bytes(1 << 20), preset=0) * 300)

    with pytest.raises(EvaluationError, match="more than 268435456 bytes of text"):
        read_local_text(path)


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "binary", "dictionary"])
def test_every_type_of_text_in_a_column_is_read(tmp_path: Path, kind: str) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    column = arrow.array(ROWS)
    column = column.dictionary_encode() if kind == "dictionary" else column.cast(getattr(arrow, kind)())
    parquet.write_table(arrow.table({"text": column}), tmp_path / "rows.parquet")

    assert read_local_text(tmp_path / "rows.parquet").text == "\n\n".join(ROWS)


@pytest.mark.parametrize(
    ("name", "data", "kind", "message"),
    [
        (
            "rows.jsonl",
            b'{"text": "a"}\n{"body": "b"}\n',
            EvaluationError,
            "line 2: every line must be a JSON object with a string field 'text'",
        ),
        (
            "rows.jsonl",
            b'{"text": 1}\n',
            EvaluationError,
            "line 1: every line must be a JSON object with a string field 'text'",
        ),
        ("rows.jsonl", b'{"text": "a"\n', InvarLockError, "line 1"),
        ("rows.jsonl", b"\n\n", EvaluationError, "has no text; use another"),
        ("text.txt", b"\xff\xfe", EvaluationError, "not UTF-8 text"),
        ("utf16.txt", "text".encode("utf-16"), EvaluationError, "it is UTF-16; convert it with iconv"),
        ("text.xz", b"not packed", EvaluationError, r"not a \.xz file"),
        ("text.xz", lzma.compress(b"text" * 99)[:-9], EvaluationError, "cut off|not a"),
        ("text.xz", lzma.compress(b"text") + b"junk", EvaluationError, "something else follows its end"),
        ("text.gz", gzip.compress(b"text", mtime=0) + b"junk", EvaluationError, "something else follows its end"),
        ("text.bz2", bz2.compress(b"text" * 99)[:-3], EvaluationError, "cut off"),
        ("text.gz", b"", EvaluationError, "it is empty"),
        ("rows.csv", b"text\none", EvaluationError, r"\.csv files are not read"),
        ("text.txt.zst", b"x", EvaluationError, r"\.zst files are not read"),
        (
            "rows.json",
            b'{"body": 1}',
            EvaluationError,
            "row 1: every row must be a JSON object with a string field 'text'",
        ),
        ("absent.txt", None, MissingFileError, "no such file; name a text to score on"),
        ("absent.parquet", None, MissingFileError, "no such file; name a text to score on"),
    ],
)
def test_a_value_that_is_not_text_is_refused(
    tmp_path: Path, name: str, data: bytes | None, kind: type[InvarLockError], message: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)

    with pytest.raises(kind, match=message):
        read_local_text(tmp_path / name)
