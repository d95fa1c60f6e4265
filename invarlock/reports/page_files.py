"""The file of a report's HTML page."""

from __future__ import annotations

from pathlib import Path

from invarlock.digests import sha256_hex
from invarlock.jsonio import parse_json, read_file, write_bytes
from invarlock.reports.rendering import render_report
from invarlock.reports.sidecars import PAGE_NAME


def write_page(report: Path) -> None:
    """Render the HTML page of a verified report in its folder, unless the page exists.

    Raises:
        DocumentError: when the report is not strict JSON, or the page cannot be read.
    """
    page, path = _rendered(report), report.with_name(PAGE_NAME)
    if not path.is_file() or read_file(path) != page:
        write_bytes(path, page)


def _rendered(report: Path) -> bytes:
    data = read_file(report)
    return render_report(parse_json(data, where=str(report)), sha256_hex(data))
