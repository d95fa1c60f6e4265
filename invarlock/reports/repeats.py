"""Repeats: measuring the same subject again, and checking that the report is the same apart from times."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from invarlock.documents.json_object import JsonObject
from invarlock.documents.verification import RepeatedRun, RepeatsDocument
from invarlock.errors import DocumentError
from invarlock.jsonio import check_schema, digest_document
from invarlock.problems import Code, Problem
from invarlock.reports.gates import OVERHEAD_FLAG
from invarlock.reports.leaf_differences import Path, leaf_differences
from invarlock.statistics.rounding import rounded

SCHEMA = "invarlock/determinism-repeats-v1"
FILE_NAME = "determinism_repeats.json"


def content_digest(report: Mapping[str, Any]) -> str:
    """Return ``sha256:<hex>`` of a report's canonical content without its times."""
    return digest_document(without_times(report))


def without_times(report: Mapping[str, Any]) -> JsonObject:
    """Return a report without its times, which differ between measurements."""
    kept = {key: value for key, value in report.items() if key != "telemetry"}
    flags = {flag: holds for flag, holds in report["validation"].items() if flag != OVERHEAD_FLAG}
    return {**kept, "validation": flags}


def repeats_document(report: Mapping[str, Any], repeats: Sequence[Mapping[str, Any]]) -> RepeatsDocument:
    """Return the document of a report's repeats: their digests, and the drift of each field.

    Args:
        report: the first report, used for the verdict.
        repeats: the reports of further measurements of the same subject.
    """
    digest = content_digest(report)
    runs: list[RepeatedRun] = [{"digest": content_digest(other), "drift": drift(report, other)} for other in repeats]
    return {
        "schema": SCHEMA,
        "run_id": report["run_id"],
        "digest": digest,
        "runs": runs,
        "identical": all(run["digest"] == digest for run in runs),
    }


def repeats_problems(document: Any, report: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the parts of a repeats document that do not follow from its report and its own runs."""
    try:
        check_schema(document, "determinism_repeats", where=FILE_NAME)
    except DocumentError as error:
        yield from (problem.coded(Code.REPEATS_DIFFER) for problem in error.problems)
        return
    digest = content_digest(report)
    expected = {
        "run_id": report["run_id"],
        "digest": digest,
        "identical": all(run["digest"] == digest for run in document["runs"]),
    }
    yield from (
        Problem(Code.REPEATS_DIFFER, FILE_NAME, key, "differs from the report")
        for key in expected
        if document[key] != expected[key]
    )
    for index, run in enumerate(document["runs"]):
        if (run["digest"] == digest) != (not run["drift"]):
            yield Problem(Code.REPEATS_DIFFER, FILE_NAME, f"runs[{index}]", "drift and digest contradict each other")


def summarise_repeats(documents: Mapping[str, RepeatsDocument]) -> JsonObject:
    """Return a run's ``determinism_repeats.json``: the cases that are identical in all repeats, and the largest drift.

    Args:
        documents: the repeats documents by the path of their report.
    """
    rows = {
        path: {
            "repeats": len(document["runs"]),
            "identical": document["identical"],
            "largest_drift": max(
                (value for run in document["runs"] for value in run["drift"].values() if value is not None),
                default=0.0,
            ),
        }
        for path, document in sorted(documents.items())
    }
    return {
        "repeats": max((row["repeats"] for row in rows.values()), default=0),
        "identical": all(row["identical"] for row in rows.values()),
        "cases": rows,
    }


def drift(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the fields that differ between two reports, ignoring times, with the largest relative difference of each.

    Indices and module names in a field's name become ``*``; a difference is None if the values are not numbers.
    """
    found: dict[str, float | None] = {}
    for path, own, other in leaf_differences(without_times(first), without_times(second)):
        field = _pattern(path)
        size = _relative(own, other)
        before = found.get(field, 0.0)
        found[field] = None if size is None or before is None else max(before, size)
    return {field: rounded(size) for field, size in sorted(found.items())}


def _pattern(path: Path) -> str:
    """Return the name of a path with indices and module names replaced by ``*``."""
    return ".".join("*" if isinstance(part, int) or "." in part else part for part in path)


def _relative(own: Any, other: Any) -> float | None:
    numbers = [value for value in (own, other) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < 2:
        return None
    largest = max(abs(own), abs(other))
    return abs(own - other) / largest if math.isfinite(largest) and largest else 0.0
