"""Checking that a case's report on disk is complete and correctly derived, when a run resumes, ends or is merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invarlock.packer.format import layout
from invarlock.packer.format.in_pack import in_pack

from invarlock.digests import sha256_hex
from invarlock.documents import JsonObject
from invarlock.documents.verification import RepeatsDocument
from invarlock.errors import InvarLockError
from invarlock.jsonio import check_schema, parse_json, read_file, read_json
from invarlock.problems import Code, Problem
from invarlock.reports.companions import companion_problems, required_companions
from invarlock.reports.probes import file_name
from invarlock.reports.repeats import repeats_problems
from invarlock.reports.served import is_served
from invarlock.reports.verification import verify_against_baseline, verify_report


@dataclass(frozen=True)
class SavedReport:
    """A report with its accompanying documents.

    Attributes:
        data: the bytes of the report.
        document: the report.
        companions: the documents that its scenario requires, by name.
        repeats: the repeats of the case, None if it was measured once.
        problems: what is missing or does not follow; the other attributes are complete only if this is empty.
    """

    data: bytes = b""
    document: JsonObject = field(default_factory=dict)
    companions: dict[str, JsonObject] = field(default_factory=dict)
    repeats: RepeatsDocument | None = None
    problems: tuple[Problem, ...] = ()


def read_saved_report(
    path: Path, scenario: Mapping[str, Any], baseline: Mapping[str, Any] | None = None
) -> SavedReport:
    """Read an existing report and list its problems; its content never raises an error.

    Args:
        path: the path of the report.
        scenario: the scenario's row in the catalogue, which determines the documents that accompany the report.
        baseline: the baseline's own report, or None if it is verified later.
    """
    try:
        data = read_file(path)
        report = parse_json(data, where=str(path))
        problems = verify_report(report)
        if problems:
            return SavedReport(data, problems=tuple(problems))
        metadata = None if is_served(report) else _document(path, layout.EDIT_METADATA, "edit_metadata")
        companions = {name: read_json(path.with_name(file_name(name))) for name in required_companions(scenario)}
        problems += _unbound(path, data, report)
        problems += companion_problems(scenario, companions, report, baseline, metadata)
        if baseline is not None:
            problems += verify_against_baseline(report, baseline)
        repeats = path.with_name(layout.REPEATS)
        repeated = read_json(repeats) if repeats.is_file() else None
        if repeated is not None:
            problems += repeats_problems(repeated, report)
    except InvarLockError as error:
        return SavedReport(problems=tuple(in_pack(error)))
    return SavedReport(data, report, companions, repeated, tuple(problems))


def _unbound(path: Path, data: bytes, report: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the accompanying files that belong to another report."""
    runtime = _document(path, layout.RUNTIME_MANIFEST, "runtime_manifest")
    if runtime["report"]["sha256"] != sha256_hex(data):
        yield Problem(Code.RUNTIME_MANIFEST_DIFFERS, layout.RUNTIME_MANIFEST, "report.sha256", "of another report")
    if read_json(path.with_name(layout.TIMING)) != report["telemetry"]:
        yield Problem(Code.TIMING_DIFFERS, layout.TIMING, "", "not the timing of the report")


def _document(report: Path, name: str, schema: str) -> JsonObject:
    path = report.with_name(name)
    document: JsonObject = read_json(path)
    check_schema(document, schema, where=str(path))
    return document
