"""The place of each report in a pack, shown on its page: what was expected, and the pages before and after it."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from invarlock.packer.format import layout

from invarlock.reports.case_place import CasePlace
from invarlock.verdict.words import is_neutral, seen_words, subject_words


@dataclass(frozen=True)
class Neighbours:
    """The pages before and after a report's page, as paths relative to its folder; None if a page does not exist."""

    overview: str | None = None
    previous: str | None = None
    next: str | None = None


def neighbours(paths: Collection[str]) -> dict[str, Neighbours]:
    """Return the neighbouring pages of each report of a pack, by the report's path, given the files of the pack.

    They depend only on the pack's reports, so leaving out one page does not change the others.
    """
    reports = sorted(filter(layout.is_report, paths))
    pages = [layout.sibling(report, layout.PAGE) for report in reports]
    found = {}
    for number, report in enumerate(reports):
        before = pages[number - 1] if number else None
        after = pages[number + 1] if number + 1 < len(pages) else None
        found[report] = Neighbours(*(_relative(path, report) for path in (layout.PACK_PAGE, before, after)))
    return found


def case_place(record: Mapping[str, Any], around: Neighbours) -> CasePlace:
    """Return the place of a report, given its record in the verdict and its neighbouring pages."""
    return CasePlace(
        words=place_words(record),
        kind="fail" if not record["passed"] else "note" if is_neutral(record) else "pass",
        reasons=tuple(record["reasons"]),
        overview=around.overview,
        previous=around.previous,
        next=around.next,
    )


def place_words(record: Mapping[str, Any]) -> str:
    """Describe the outcome of a report and whether it was expected.

    Example: ``as expected: this is a fault that must be detected``.
    """
    seen = f"{seen_words(record)}, " if record["strictness"] == "must_detect" else ""
    about = subject_words(record["strictness"])
    if not record["passed"]:
        return f"{seen}NOT as expected: {about}"
    return about if is_neutral(record) else f"{seen}as expected: {about}"


def _relative(path: str | None, report: str) -> str | None:
    return None if path is None else posixpath.relpath(path, posixpath.dirname(report))
