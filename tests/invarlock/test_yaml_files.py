"""YAML files with includes: what is within bounds is read, and everything else is one line."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invarlock.errors import UsageError, printable
from invarlock.problems import Code
from invarlock.settings.yaml_files import (
    MAX_DEPTH,
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_INCLUDE_DEPTH,
    MAX_NUMBER_CHARACTERS,
    MAX_TEXT_CHARACTERS,
    MAX_VALUES,
    read_yaml,
)


def lay(folder: Path, **files: str) -> Path:
    """Write files of some YAML each, and return the one that is called ``a``."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "a.yaml"


def refused(path: Path, folder: Path | None, code: Code | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        read_yaml(path, folder=folder)
    said = str(caught.value)
    assert said.isprintable()
    assert caught.value.exit_code == 2
    assert code is None or caught.value.code is code
    return said


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("4", 4),
        ("'4'", "4"),
        ('"true"', "true"),
        ("true", True),
        ("False", False),
        ("off", "off"),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("0123", 123),
        ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("-1.25", -1.25),
        ("1.10.2", "1.10.2"),
        ("~", None),
        ("null", None),
        ("", None),
        ("[a, 1, {b: c}]", ["a", 1, {"b": "c"}]),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        ("9" * MAX_NUMBER_CHARACTERS, int("9" * MAX_NUMBER_CHARACTERS)),
        ("'" + "x" * MAX_TEXT_CHARACTERS + "'", "x" * MAX_TEXT_CHARACTERS),
    ],
)
def test_a_scalar_is_read_as_in_json(tmp_path: Path, written: str, value: Any) -> None:
    path = lay(tmp_path, a=f"key: {written}")

    found = read_yaml(path, folder=tmp_path).value["key"]

    assert (found, type(found)) == (value, type(value))


def test_scalars_below_a_key_of_texts_stay_what_was_written(tmp_path: Path) -> None:
    path = lay(tmp_path, a="texts: {a: 0123, b: [1.10, true, '~'], c: ~, d: !include b.yaml}\nother: 0123", b="1.10")

    value = read_yaml(path, folder=tmp_path, texts=("texts",)).value

    assert value == {"texts": {"a": "0123", "b": ["1.10", "true", "~"], "c": None, "d": "1.10"}, "other": 123}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["C"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["C"]), max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(JSON_VALUES)
def test_json_is_read_as_json(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "json.yaml"
    path.write_text(json.dumps({"key": value}))

    assert read_yaml(path, folder=None).value == {"key": value}


@given(
    st.text(st.sampled_from("ab:-[]{}?&*!|>'\"\\%@`#,~<.1 \n\tUx0F\ufeff\x85"), max_size=40)
    | st.binary(max_size=30).map(lambda data: data.decode("latin-1"))
    | st.sampled_from(
        ['"\\UFFFFFFFF"', '"\\ud800"', "%YAML 9.9\n---\na", "%YAML " + "9" * 5000 + ".1\n---\n", "&a [*a]"]
    )
)
def test_any_text_is_a_value_or_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8"))

    said = str(path)
    try:
        json.dumps(read_yaml(path, folder=path.parent).value, allow_nan=False).encode()
    except UsageError as error:
        said = str(error)

    assert said.startswith(str(path))
    assert said == printable(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: key 'a' appears twice in one table"),
        ("x: {b: 1, 'b': 2}\n", "line 1: key 'b' appears twice in one table"),
        ("base: &b {x: 1}\nown:\n  <<: *b\n", "line 3: merge keys (<<) are not supported; write the values out"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1: tag:yaml.org,2002:python/object/apply:os.system: "),
        ("a: !!str 4\n", "line 1: tag:yaml.org,2002:str: "),
        ("a: !env HOME\n", "line 1: !env: "),
        ("? [a]\n: 1\n", "line 1: a key must be a string"),
        ("a: [1\n", "line 2: not YAML: "),
        ("a: 1\n---\nb: 2\n", "line 2: not YAML: "),
        ("a: *b\n", "line 1: not YAML: "),
        ("a: .nan\n", "line 1: .nan is not a finite number"),
        ("a: -.inf\n", "line 1: -.inf is not a finite number"),
        ("a: 1e999\n", "line 1: the number 1e999 is too large"),
        ("a: " + "9" * (MAX_NUMBER_CHARACTERS + 1), "line 1: a number of 41 characters is out of range"),
        ("a: " + "x" * (MAX_TEXT_CHARACTERS + 1), "line 1: a text of 4097 characters, more than 4096"),
        ('a: "\\ud800"\n', "line 1: a string has an unpaired surrogate"),
        ("a: !include\n", "line 1: !include needs a file name"),
        ("a: !include [b.yaml]\n", "line 1: !include needs a file name"),
        ("a: !include b.yaml\n", "line 1: "),
        ("a: !include .\n", "line 1: "),
        ('a: !include "\\0"\n', "line 1: not a usable file name"),
        ("a: !include " + "x" * 4000 + "\n", "line 1: not a usable file name"),
    ],
)
def test_unsupported_yaml_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = lay(tmp_path, a=text)

    assert refused(path, tmp_path).startswith(f"{path}: {said}")


def test_invalid_utf8_is_refused_and_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\n")
    assert read_yaml(path, folder=tmp_path).value == {"a": 1}
    path.write_bytes(b"a: \xff\n")
    assert refused(path, tmp_path) == f"{path}: not UTF-8 at byte 3"


def test_an_include_is_named_from_the_file_that_includes_it(tmp_path: Path) -> None:
    path = lay(
        tmp_path, a="one: !include parts/b.yaml\ntwo: [!include 'c.yaml']\n", parts__b="x: !include ../c.yaml\n", c="7"
    )

    found = read_yaml(path, folder=tmp_path)

    assert found.value == {"one": {"x": 7}, "two": [7]}
    assert found.files == (path, tmp_path / "parts/b.yaml", tmp_path / "c.yaml")


@pytest.mark.parametrize("name", ["../secret.yaml", "link.yaml", "folder/secret.yaml", "{absolute}"])
def test_an_include_does_not_leave_its_folder_unless_it_may(tmp_path: Path, name: str) -> None:
    lay(tmp_path, secret="42")
    folder = tmp_path / "inputs"
    path = lay(folder, a=f"x: !include {name.format(absolute=tmp_path / 'secret.yaml')}\n")
    (folder / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    (folder / "folder").symlink_to(tmp_path)

    said = refused(path, folder)

    assert said.startswith(f"{path}: line 1: !include ")
    assert said.endswith(f"is outside {folder}; move it there, or allow it: INVARLOCK_ALLOW_CONFIG_INCLUDE_OUTSIDE=1")
    assert read_yaml(path, folder=None).value == {"x": 42}
    assert read_yaml(path, folder=tmp_path).value == {"x": 42}


def test_a_link_within_the_folder_is_followed_and_one_in_a_circle_is_refused(tmp_path: Path) -> None:
    path = lay(tmp_path, a="x: !include link.yaml\n", b="1")
    (tmp_path / "link.yaml").symlink_to("b.yaml")
    assert read_yaml(path, folder=tmp_path).value == {"x": 1}

    (tmp_path / "link.yaml").unlink()
    (tmp_path / "link.yaml").symlink_to("link.yaml")
    assert refused(path, tmp_path).startswith(f"{path}: line 1: ")


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    path = lay(tmp_path, a="x: !include pipe\n")
    os.mkfifo(tmp_path / "pipe")

    assert refused(path, tmp_path) == f"{path}: line 1: {tmp_path}/pipe is not a file"
    assert refused(tmp_path / "absent.yaml", tmp_path) == f"{tmp_path}/absent.yaml: no such file"


@pytest.mark.parametrize(
    "files",
    [{"a": "!include a.yaml"}, {"a": "x: !include b.yaml", "b": "- !include a.yaml"}, {"a": "!include link.yaml"}],
)
def test_includes_in_a_circle_are_refused(tmp_path: Path, files: dict[str, str]) -> None:
    path = lay(tmp_path, **files)
    (tmp_path / "link.yaml").symlink_to("a.yaml")

    assert "is circular; remove it" in refused(path, tmp_path)


def test_includes_may_be_so_deep_and_so_many_and_no_more(tmp_path: Path) -> None:
    for last, holds in ((MAX_INCLUDE_DEPTH, True), (MAX_INCLUDE_DEPTH + 1, False)):
        chain = {f"f{index}": f"!include f{index + 1}.yaml" for index in range(1, last)}
        path = lay(tmp_path, a="!include f1.yaml", **chain, **{f"f{last}": "7"})
        if holds:
            assert read_yaml(path, folder=tmp_path).value == 7
        else:
            assert "includes are nested deeper than 8 files" in refused(path, tmp_path)
    # the file itself counts
    path = lay(tmp_path, a="- !include b.yaml\n" * (MAX_FILES - 1), b="7")
    assert read_yaml(path, folder=tmp_path).value == [7] * (MAX_FILES - 1)
    path = lay(tmp_path, a="- !include b.yaml\n" * MAX_FILES)
    assert "more than 32 files are included" in refused(path, tmp_path)


def test_a_file_may_be_so_large_and_no_larger(tmp_path: Path) -> None:
    path = lay(tmp_path, a="# " + "x" * (MAX_FILE_BYTES - 3) + "\n")
    assert read_yaml(path, folder=tmp_path).value is None
    path.write_text("# " + "x" * (MAX_FILE_BYTES - 2) + "\n")
    assert "more than the limit of 262144" in refused(path, tmp_path)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_values_may_be_so_deep_and_no_deeper(tmp_path: Path, opening: str) -> None:
    closing = {"[": "]", "{a: ": "}", "- ": ""}[opening]

    def nested(depth: int) -> Path:
        return lay(tmp_path, a=opening * depth + "1" + closing * depth)

    value = read_yaml(nested(MAX_DEPTH - 1), folder=tmp_path).value
    for _ in range(MAX_DEPTH - 1):
        value = value["a"] if isinstance(value, dict) else value[0]
    assert value == 1
    for depth in (MAX_DEPTH, 10_000):
        assert "nested deeper than 32 levels" in refused(nested(depth), tmp_path)
    # and through includes
    lay(tmp_path, b="[" * 20 + "1" + "]" * 20)
    path = lay(tmp_path, a="[" * 20 + "!include b.yaml" + "]" * 20)
    assert "nested deeper than 32 levels" in refused(path, tmp_path)


@pytest.mark.slow
def test_aliases_count_as_what_they_stand_for(tmp_path: Path) -> None:
    ten = ", ".join(["x"] * 9)
    lines = [f"l0: &l0 [{ten}]"]
    lines += [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]" for level in range(1, 9)]

    assert read_yaml(lay(tmp_path, a="\n".join(lines[:3])), folder=tmp_path).value["l2"][8][8] == ["x"] * 9
    assert "more than 20000 values, including aliases" in refused(lay(tmp_path, a="\n".join(lines)), tmp_path)
    assert "nested deeper than 32 levels" in refused(lay(tmp_path, a="&a [*a]"), tmp_path)
    # the list is a value too
    assert len(read_yaml(lay(tmp_path, a="- 1\n" * (MAX_VALUES - 1)), folder=tmp_path).value) == MAX_VALUES - 1
    assert "more than 20000 values" in refused(lay(tmp_path, a="- 1\n" * MAX_VALUES), tmp_path)


def test_without_pyyaml_the_message_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "yaml" else find(name, *rest))

    path = lay(tmp_path, a="x: 1")

    said = refused(path, tmp_path, Code.EXTRA_NOT_INSTALLED)
    assert said == f"{path}: reading YAML files needs PyYAML: pip install 'invarlock[yaml]'"
