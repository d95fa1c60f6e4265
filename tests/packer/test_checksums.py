"""Paths in checksums: written paths read back unchanged, and no path leaves the pack or is ambiguous."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import partial, reduce
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from invarlock.packer.format import checksums
from invarlock.packer.format.checksums import CONTROL_FILES, check_path, read_checksums, write_checksums
from invarlock.packer.format.limits import MAX_FILES, MAX_PATH_BYTES, MAX_PATH_SEGMENTS

from invarlock.errors import IntegrityError
from invarlock.problems import Code

DIGEST = "0123456789abcdef" * 4
# Parts that can make a path dangerous; any other text is drawn as well.
PARTS = st.sampled_from(
    ["", ".", "..", "...", " ", "a", "A", "ä", "a\u0308", "ß", "SS", "ſ", "K", "\u212a", "\u0345", "µ", "\u2028", "\\",
     "C:", "\0", "\n", "\r", "\u202e", "\ud800", "-", "*", "~", "con", "manifest.json", "x" * 300]
)  # fmt: skip
FORMS = [partial(unicodedata.normalize, form) for form in ("NFC", "NFD")]
PATHS = st.lists(PARTS | st.text(max_size=8), min_size=1, max_size=5).map("/".join) | st.text(max_size=30)


def is_safe(path: str) -> bool:
    try:
        check_path(path)
    except IntegrityError:
        return False
    return True


def same_name(path: str) -> str:
    """Return a key that is equal for paths that are canonical caseless matches in Unicode (chapter 3.13, D145)."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


def can_be_sealed(paths: Iterable[str]) -> bool:
    try:
        write_checksums(dict.fromkeys(paths, DIGEST))
    except (IntegrityError, UnicodeEncodeError):
        return False
    return True


def test_of_a_long_path_that_is_not_safe_only_the_beginning_is_shown() -> None:
    with pytest.raises(IntegrityError) as caught:
        check_path("/" + "x" * 200)

    assert [problem.where for problem in caught.value.problems] == ["/" + "x" * 119]


@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(PATHS)
def test_a_safe_path_stays_in_its_folder_on_every_system_and_is_written_in_one_way(path: str) -> None:
    assume(is_safe(path))

    parts = PurePosixPath(path).parts
    assert not PurePosixPath(path).is_absolute()
    assert not {"..", "."} & set(parts)
    assert "/".join(parts) == path
    assert "\\" not in path
    assert PureWindowsPath("pack").joinpath("x") != PureWindowsPath("pack", path, "..")
    assert Path("/pack", path).is_relative_to("/pack")
    assert all(unicodedata.category(character)[0] != "C" for character in path)
    assert len(path.encode("utf-8")) <= MAX_PATH_BYTES
    assert len(parts) <= MAX_PATH_SEGMENTS


@given(st.lists(PATHS, min_size=1, max_size=4, unique=True))
def test_what_is_written_reads_back_and_what_is_not_written_is_not_read(paths: list[str]) -> None:
    text = "".join(f"{DIGEST}  {path}\n" for path in paths)
    sealable = can_be_sealed(paths)

    try:
        found = read_checksums(text.encode("utf-8", "surrogatepass"))
    except IntegrityError:
        assert not sealable or set(paths) & CONTROL_FILES
        return
    assert sealable
    assert found == dict.fromkeys(paths, DIGEST)
    assert read_checksums(write_checksums(found)) == found


@given(PATHS, st.lists(st.sampled_from([str.upper, str.lower, str.casefold, *FORMS]), min_size=1, max_size=3))
def test_two_paths_that_a_file_system_takes_for_one_are_never_sealed_together(one: str, changes: list[Any]) -> None:
    other = reduce(lambda path, change: change(path), changes, one)
    assume(one != other and same_name(one) == same_name(other))

    assert not can_be_sealed([one, other])


@pytest.mark.parametrize(
    "twins",
    [
        ("a", "A"),
        ("caf\u00e9", "cafe\u0301"),
        ("stra\u00dfe", "STRASSE"),
        ("\u1fb3", "\u03b1\u0345"),
        ("\u0345\u0301", "\u0301\u0345"),
        ("\u01f0", "J\u030c"),
        ("\u1e9b\u0323", "\u1e9b\u0323".upper()),
        ("K", "\u212a"),
    ],
)
def test_twins_by_case_or_normalisation_are_refused(twins: tuple[str, str]) -> None:
    assert same_name(twins[0]) == same_name(twins[1])
    assert all(map(is_safe, twins))
    assert not can_be_sealed(twins)


@pytest.mark.parametrize(("segments", "safe"), [(16, True), (17, False), (30, False)])
def test_a_path_has_at_most_sixteen_segments(segments: int, safe: bool) -> None:
    path = "/".join("a" * segments)

    assert is_safe(path) is safe


@pytest.mark.parametrize("wrong", ["nonsense", f"{DIGEST} b", f"{DIGEST}  a", f"{DIGEST}  manifest.json"])
def test_the_line_that_is_wrong_is_named(wrong: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        read_checksums(f"{DIGEST}  a\n{DIGEST}  c\n{wrong}\n".encode())

    (problem,) = caught.value.problems
    assert (problem.code, problem.where, problem.field) == (Code.CHECKSUMS_MALFORMED, "checksums.sha256", "line 3")


def test_any_bytes_are_checksums_or_a_refusal() -> None:
    line = f"{DIGEST}  a\n".encode()

    @given(st.binary(max_size=80) | st.integers(0, len(line)).flatmap(
        lambda at: st.binary(max_size=3).map(lambda more: line[:at] + more + line[at:])
    ))  # fmt: skip
    def check(data: bytes) -> None:
        try:
            found = read_checksums(data)
        except IntegrityError:
            return
        rows = data.decode("utf-8").split("\n")
        assert [path for row in rows[:-1] for path in [row[66:]]] == list(found)
        assert all(len(digest) == 64 and digest == digest.lower() for digest in found.values())

    check()


@pytest.mark.parametrize("marker", [" ", "*"])
def test_digests_are_read_in_either_case_and_with_either_marker(marker: str) -> None:
    assert read_checksums(f"{DIGEST.upper()} {marker}a b\n".encode()) == {"a b": DIGEST}


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("a" * MAX_PATH_BYTES, True),
        ("a" * (MAX_PATH_BYTES + 1), False),
        ("é" * (MAX_PATH_BYTES // 2), True),
        ("é" * (MAX_PATH_BYTES // 2) + "aa", False),
        ("/".join("a" * MAX_PATH_SEGMENTS), True),
        ("/".join("a" * (MAX_PATH_SEGMENTS + 1)), False),
        ("/".join("é" * MAX_PATH_SEGMENTS), True),
        ("/".join("é" * (MAX_PATH_SEGMENTS + 1)), False),
    ],
)
def test_a_path_is_as_long_as_the_limits_allow_and_no_longer(path: str, safe: bool) -> None:
    assert is_safe(path) is safe


def test_as_many_lines_as_the_limit_allows_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "MAX_FILES", 3)
    lines = [f"{DIGEST}  {number}\n" for number in range(4)]

    assert len(read_checksums("".join(lines[:3]).encode())) == 3 < MAX_FILES
    with pytest.raises(IntegrityError, match="more than 3 lines"):
        read_checksums("".join(lines).encode())
    assert read_checksums(write_checksums({"b": DIGEST, "a": DIGEST})) == {"a": DIGEST, "b": DIGEST}
    assert write_checksums({"a b": DIGEST, "a": DIGEST, "a!": DIGEST}).split(b"\n")[0].endswith(b"  a")
