"""A verdict from an effective manifest and the reports themselves, as a run and ``verify`` compile it in steps."""

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
    """Return the ``final_verdict.json`` document; ``reports`` has each with its ``sha256:<hex>``, by its path."""
    plan = planned_cases(manifest)
    records = {
        path: judge_report(plan[path], report, digest) if path in plan else None
        for path, (report, digest) in reports.items()
    }
    return compile_records(manifest, plan, records, outcomes, timestamp=timestamp)
