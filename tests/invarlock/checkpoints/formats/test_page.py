"""The page of formats names every reader, six defects or more of each, and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from invarlock.checkpoints.formats import FORMATS, dense
from invarlock.checkpoints.storage_format import KNOWN

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs" / "formats-of-checkpoints.md").read_text("utf-8")
TABLE = PAGE.partition("| format | recognised by |")[2].partition("\n\n")[0]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.splitlines()[2:]]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_format_has_at_least_six_defects_that_are_detected(row: list[str]) -> None:
    assert len(row) == 7
    counts = [int(number) for number in re.findall(r"\d+", row[6].replace("with zero points", ""))]
    assert counts
    assert min(counts) >= 6


@pytest.mark.parametrize("name", [form.name for form in FORMATS if form is not dense.FORMAT])
def test_every_reader_has_a_row(name: str) -> None:
    words = set(name.removeprefix("a ").lower().split())

    assert any(words <= set(row[0].lower().split()) for row in ROWS)


def test_known_formats_without_a_reader_are_listed_as_refused() -> None:
    refused = PAGE.partition("Recognised and refused:")[2].partition("\n\n")[0]
    read = {form.name.lower() for form in FORMATS}
    for known in KNOWN.values():
        assert known.name.lower() in read or known.name in refused, known.name


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(tests/[^`]+?)`", PAGE)
    assert len(named) > 8
    assert [path for path in named if not (ROOT / path).exists()] == []
