"""Checking the page of a single report; a page in a pack also states the expected outcome, which only the pack has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from invarlock.packer.format import layout
from invarlock.packer.format.places import case_place, neighbours
from invarlock.packer.runs.saved_reports import read_saved_report

from invarlock.digests import digest_bytes, sha256_hex
from invarlock.errors import InvarLockError
from invarlock.jsonio import parse_json, read_file, read_json
from invarlock.problems import Code, Problem
from invarlock.reports.case_place import CasePlace
from invarlock.reports.rendering import render_report
from invarlock.verdict.compiling import judge_report, planned_cases

# reports/MODEL/CATEGORY/NAME/evaluation.report.json
_DEPTH = 4


def lone_page_problems(report: Path) -> Iterator[Problem]:
    """Yield a problem if the page of a verified report exists and differs from the rendered one.

    Raises:
        DocumentError: when the report is not strict JSON.
    """
    path = report.with_name(layout.PAGE)
    if not path.is_file():
        return
    page, data = read_file(path), read_file(report)
    document, digest = parse_json(data, where=str(report)), sha256_hex(data)
    if page == render_report(document, digest):
        return
    place = _place_in_pack(report)
    if place is None or page != render_report(document, digest, place):
        yield Problem(Code.PAGE_DIFFERS, str(path), "", "not the page that is rendered from the report")


def _place_in_pack(report: Path) -> CasePlace | None:
    """Return the place of a report in the pack that contains it; None if no pack does, or the pack cannot judge it."""
    path = report.absolute()
    pack = path.parents[_DEPTH] if len(path.parents) > _DEPTH else path.parent
    own = path.relative_to(pack).as_posix()
    try:
        planned = planned_cases(read_json(pack / layout.SCENARIOS)).get(own)
        if planned is None:
            return None
        saved = read_saved_report(path, planned.scenario)
        if saved.problems:
            return None
        record = judge_report(planned, {**saved.document, **saved.companions}, digest_bytes(saved.data))
    except (InvarLockError, KeyError, TypeError):
        return None
    reports = {file.relative_to(pack).as_posix() for file in (pack / "reports").rglob(layout.REPORT_NAME)}
    return case_place(record, neighbours(reports)[own])
