"""Verifying a single report outside a pack.

Example::

    result = verify_report_file(Path("out/evaluation.report.json"))
    result.holds        # every number follows from the raw measurements
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invarlock.packer.format.checksums import MANIFEST_NAME
from invarlock.packer.format.in_pack import in_pack
from invarlock.packer.format.layout import REPORT_NAME
from invarlock.packer.format.pack_folder import TAR_SUFFIXES, enclosing_pack
from invarlock.packer.runs.lone_pages import lone_page_problems

from invarlock.errors import InvarLockError, MissingFileError, UsageError
from invarlock.jsonio import read_json
from invarlock.problems import Code, ExitCode, Problem
from invarlock.reports.kinds import check_report
from invarlock.reports.preset_files import read_preset
from invarlock.reports.presets import Preset, report_preset_problems
from invarlock.reports.sidecars import PAGE_NAME, report_file
from invarlock.reports.verification import verify_against_baseline, verify_baseline, verify_report


@dataclass(frozen=True)
class ReportResult:
    """The result of verifying a report.

    Attributes:
        path: the report's file.
        problems: what does not follow from the report's raw measurements; empty if the report verifies.
        report: the document; empty if it could not be read.
    """

    path: Path
    problems: tuple[Problem, ...]
    report: Mapping[str, Any]

    @property
    def holds(self) -> bool:
        """Whether all checks passed."""
        return not self.problems

    @property
    def code(self) -> ExitCode:
        """The exit code: 0 if there are no problems."""
        return ExitCode.REPORT if self.problems else ExitCode.OK

    @property
    def verdict(self) -> str | None:
        """The report's verdict, PASS or FAIL; None if it does not verify."""
        return str(self.report["assurance"]["verdict"]) if self.holds else None


@dataclass(frozen=True)
class ReportReferences:
    """Further documents to compare a report with: the report of its baseline, and its preset with the preset's name."""

    baseline: Mapping[str, Any] | None = None
    preset: Preset | None = None
    preset_name: str = ""

    @classmethod
    def read(cls, baseline: Path | None, preset: Path | None) -> ReportReferences:
        """Read the references from files; the baseline's report may be given as the folder that it lies in.

        Raises:
            InvarLockError: when a file is missing or malformed.
        """
        document = None
        found = None if preset is None else read_preset(preset)
        if baseline is not None:
            path = report_file(baseline)
            document = read_json(path)
            check_report(document, "baseline_report", where=str(path))
        return cls(document, found, "" if preset is None else preset.name)


def report_at(path: Path) -> Path | None:
    """Return the report at a path: a file that is not an archive, or the report in a folder that is not a pack."""
    if path.is_dir():
        found = path / REPORT_NAME
        return found if found.is_file() and not (path / MANIFEST_NAME).exists() else None
    named_report = path.suffix == ".json" or (path.exists() and not path.name.endswith((".zip", *TAR_SUFFIXES)))
    return path if named_report else None


def check_kind(path: Path, *, several: bool = False) -> None:
    """Refuse a path that is neither a pack nor a report: one that does not exist, a page, or another file of a pack.

    A single path that does not exist has an exit code and JSON of its own.

    Args:
        path: the path.
        several: whether it is one of several, so that one that does not exist is refused.

    Raises:
        MissingFileError: for a path that does not exist.
        UsageError: for the page of a report, or another file of a pack.
    """
    if several and not os.path.lexists(path):
        raise MissingFileError("no such file or folder; check the path", where=str(path), code=Code.FILE_MISSING)
    if path.is_file() and path.name != REPORT_NAME and (pack := enclosing_pack(path)) is not None:
        raise UsageError(f"belongs to the pack {pack}; verify that", where=str(path), code=Code.INPUT_UNREADABLE)
    if path.name == PAGE_NAME and (report := path.with_name(REPORT_NAME)).is_file():
        raise UsageError(
            f"the page of a report; verify {report}, which checks the page too",
            where=str(path),
            code=Code.INPUT_UNREADABLE,
        )


def verify_report_file(path: Path, references: ReportReferences | None = None) -> ReportResult:
    """Verify a report and the page next to it; its problems are in the result, never raised."""
    compared = references or ReportReferences()
    report: dict[str, Any] = {}
    try:
        report = read_json(path)
        problems = verify_report(report)
        if compared.baseline is not None and not problems:
            problems = [*verify_baseline(compared.baseline), *verify_against_baseline(report, compared.baseline)]
        if compared.preset is not None and not problems:
            where = compared.preset_name
            problems = list(report_preset_problems(report, compared.preset, report["baseline_ref"], where))
        if not problems:
            problems = list(lone_page_problems(path))
    except InvarLockError as error:
        problems = in_pack(error, Code.REPORT_MALFORMED)
    return ReportResult(path, tuple(problems), report)
