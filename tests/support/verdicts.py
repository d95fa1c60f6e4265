"""Compiles a verdict directly from an effective manifest and reports; a run and ``verify`` do so in steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from invarlock.verdict.compiling import Outcome, compile_records, judge_report, planned_cases
from invarlock.verdict.documents import Verdict


def compile_verdict(
    manifest: Mapping[str, Any],
    reports: Mapping[str, tuple[Mapping[str, Any], str]],
    outcomes: Sequence[Outcome] | None = None,
    *,
    timestamp: str = "",
) -> Verdict:
    """Return the ``final_verdict.json`` document; ``reports`` maps paths to a report and its ``sha256:<hex>``."""
    plan = planned_cases(manifest)
    records = {
        path: judge_report(plan[path], report, digest) if path in plan else None
        for path, (report, digest) in reports.items()
    }
    return compile_records(manifest, plan, records, outcomes, timestamp=timestamp)
