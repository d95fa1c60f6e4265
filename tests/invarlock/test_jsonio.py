"""Strict reading and canonical writing of JSON."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invarlock.errors import DocumentError, MissingFileError
from invarlock.jsonio import (
    MAX_DEPTH,
    MAX_NUMBER_DIGITS,
    canonical_json,
    dump_json,
    is_dump_of,
    parse_json,
    read_json,
    write_bytes,
    write_json,
)

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_what_is_written_reads_back_as_the_same_value(document: object) -> None:
    assert parse_json(dump_json(document), where="memory") == document


@given(JSON_VALUES, JSON_VALUES, st.binary(max_size=2))
def test_bytes_are_those_that_a_document_is_written_as_or_not(document: object, other: object, more: bytes) -> None:
    data = dump_json(document)

    assert is_dump_of(data, document)
    assert is_dump_of(data, other) == (data == dump_json(other))
    assert is_dump_of(data + more, document) == (not more)
    assert not is_dump_of(data[:-1], document)


def test_a_document_with_a_number_that_is_not_finite_is_written_as_no_bytes() -> None:
    assert not is_dump_of(b"NaN\n", float("nan"))


JSON_BYTES = st.one_of(
    st.binary(max_size=40),
    JSON_VALUES.map(dump_json),
    JSON_VALUES.map(lambda value: json.dumps(value).encode("ascii")),
    # pieces of documents in any order
    st.lists(
        st.sampled_from([
            b"{", b"}", b"[", b"]", b",", b":", b'"', b'"a"', b'"b"', b"\\", b"\\ud800", b"\\udc00", b"\\u0041",
            b"null", b"true", b"NaN", b"-Infinity", b"0", b"-", b".", b"e", b"E+", b"1e308", b"1e309", b"-0.0", b"01",
            b" ", b"\n", b"\x00", b"\xff", b"\xc3\xa4", b"\xef\xbb\xbf", b"/**/", b"9" * 308, b"9" * 309, b"[" * 64,
            b"]" * 64,
        ]),
        max_size=12,
    ).map(b"".join),
)  # fmt: skip


@given(JSON_BYTES, st.binary(max_size=2), st.integers(0, 60))
def test_any_bytes_are_read_as_python_reads_them_or_are_refused(data: bytes, more: bytes, at: int) -> None:
    data = data[:at] + more + data[at:]
    try:
        found = parse_json(data, where="doc")
    except DocumentError:
        return
    # repr tells 1 from 1.0, and 0.0 from -0.0
    assert repr(found) == repr(json.loads(data.decode("utf-8")))
    assert parse_json(dump_json(found), where="doc") == found
    assert canonical_json(found) == canonical_json(parse_json(dump_json(found), where="doc"))


@given(st.text(max_size=5), st.lists(st.text(max_size=3), max_size=3), JSON_VALUES, JSON_VALUES)
def test_a_key_that_appears_twice_is_refused_at_any_depth(
    key: str, around: list[str], one: object, other: object
) -> None:
    first, second, name = (json.dumps(value) for value in (one, other, key))
    text = f"{{{name}: {first}, {name}: {second}}}"
    for outer in around:
        text = f"[{{{json.dumps(outer)}: {text}}}]"

    with pytest.raises(DocumentError, match="appears twice in one object"):
        parse_json(text.encode("utf-8"), where="doc")


@pytest.mark.parametrize(("depth", "holds"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False)])
@pytest.mark.parametrize("inside", ["", '"[[["', '"\\\\"', '"\\"[["', '"a", "b"', "1"])
def test_nesting_is_counted_whatever_strings_hold(depth: int, holds: bool, inside: str) -> None:
    data = ("[" * depth + inside + "]" * depth).encode()

    if holds:
        assert parse_json(data, where="doc") == json.loads(data)
    else:
        with pytest.raises(DocumentError, match=f"nested deeper than {MAX_DEPTH} levels"):
            parse_json(data, where="doc")


def test_values_are_bounded_too() -> None:
    assert parse_json(b"[1, [], 2]", where="doc", limit_values=5) == [1, [], 2]
    with pytest.raises(DocumentError, match="6 values, more than the limit of 5"):
        parse_json(b"[1, [], 2, 3]", where="doc", limit_values=5)
    assert parse_json(b"[1, 2]", where="doc", limit_bytes=6) == [1, 2]
    with pytest.raises(DocumentError, match="6 bytes, more than the limit of 5"):
        parse_json(b"[1, 2]", where="doc", limit_bytes=5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
        (b'{"a": 1, "a": 2}', "key 'a' appears twice"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "too large for a float"),
        (b'{"a": 1} {}', "Extra data"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"", "empty, not JSON"),
        (b" \n", "empty, not JSON"),
        (b"<!DOCTYPE html>\n<html>", "not JSON; it begins with '<!DOCTYPE html>'"),
        (b"\n  -----BEGIN PRIVATE KEY-----", "not JSON; it begins with '-----BEGIN PRIVATE K'"),
        (b'{"a": }', "Expecting value at line 1, column 7"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
        (b'{"":[' * 32 + b"[]" + b"]}" * 32, "nested deeper than 64"),
        (b"9" * 500, "500 digits"),
    ],
)
def test_anything_but_one_strict_document_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DocumentError, match=f"^doc: .*{re.escape(message)}"):
        parse_json(data, where="doc")


@given(
    digits=st.integers(1, 3) | st.integers(90, 110) | st.integers(1, 400),
    places=st.integers(0, 3) | st.integers(0, 400),
    exponent=st.none() | st.sampled_from(["", "+", "-"]),
    size=st.integers(1, 400) | st.text("0123456789", min_size=1, max_size=5),
    around=st.sampled_from([b"%s", b"[%s]", b'{"a":%s}', b'{"a": %s , "e": 1}', b"[0,%s\n]", b'["e0001 ", %s]']),
    letter=st.sampled_from("eE"),
)
def test_a_number_is_read_as_it_is_or_refused_however_it_is_written(
    digits: int, places: int, exponent: str | None, size: int | str, around: bytes, letter: str
) -> None:
    text = "9" * digits + ("." + "9" * places if places else "")
    text += "" if exponent is None else f"{letter}{exponent}{size}"
    value = int(text) if text.isdigit() else float(text)
    data = around.replace(b"%s", text.encode())
    if len(text) > MAX_NUMBER_DIGITS or value == float("inf"):
        with pytest.raises(DocumentError, match=r"out of range|too large for a float"):
            parse_json(data, where="memory")
    else:
        assert parse_json(data, where="memory") == json.loads(data)


def test_brackets_inside_strings_do_not_count_as_nesting() -> None:
    text = "[" * 1000

    assert parse_json(dump_json({"text": text}), where="doc") == {"text": text}


def test_a_document_over_its_limit_is_refused_without_being_parsed(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    path.write_bytes(b"[" + b"1," * 1000 + b"1]")

    with pytest.raises(DocumentError, match="more than the limit of 100"):
        read_json(path, limit_bytes=100)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"absent\.json: no such file"):
        read_json(tmp_path / "absent.json")


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_json(path, {"a": 1})

    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(TypeError):
        write_bytes(path, "text, not bytes")  # type: ignore[arg-type]

    assert path.read_bytes() == b'{\n  "a": 1\n}\n'
    assert [item.name for item in tmp_path.iterdir()] == ["state.json"]


def test_a_config_of_a_model_may_have_infinite_numbers(tmp_path: Path) -> None:
    text = b'{"time_step_limit": [0.0, Infinity], "a": -Infinity, "b": NaN}'
    (tmp_path / "config.json").write_bytes(text)

    read = read_json(tmp_path / "config.json", non_finite=True)

    assert (read["time_step_limit"], read["a"], str(read["b"])) == ([0.0, math.inf], -math.inf, "nan")
    with pytest.raises(DocumentError, match="Infinity is not JSON"):
        read_json(tmp_path / "config.json")
    with pytest.raises(DocumentError, match="too large for a float"):
        parse_json(b'{"a": 1e999}', where="config.json", non_finite=True)
