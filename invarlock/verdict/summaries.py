"""Summaries of a verdict's records: by category, by guard, by scenario, and of the edited checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from invarlock.documents import JsonObject
from invarlock.reports.sidecars import BASELINE_REUSED, RENDER_DEFERRED
from invarlock.verdict.documents import (
    ArtifactSummary,
    CategorySummary,
    GuardInterventions,
    GuardSignals,
    PlannedCase,
    Record,
    ScenarioSummary,
    SecondsSummary,
    WithoutReport,
)

# The artifact class of reports without a description of their subject.
EVIDENCE_ONLY = "evidence_only_pack"
# The fields of an ``edit_metadata.json`` in the summary of edited checkpoints.
ARTIFACT_KEYS = (
    "artifact_class",
    "edit_type",
    "edit_label",
    "storage_format",
    "deployable_as_hf_checkpoint",
    "coverage",
)


def summarise(verdict: Mapping[str, Any]) -> JsonObject:
    """Return the four summaries of a verdict by file name; three of them list the cases without a report."""
    records: Sequence[Record] = verdict["records"]
    guards: Sequence[str] = verdict["core_guard_order"]
    missing: Sequence[PlannedCase] = verdict.get("missing", {}).get("cases", ())
    return {
        "category_summary.json": {
            category: _category(
                [record for record in records if record["category"] == category],
                [case for case in missing if case["category"] == category],
            )
            for category in sorted({row["category"] for row in (*records, *missing)})
        },
        "guard_signal_summary.json": {guard: _signals(guard, records) for guard in guards},
        "guard_intervention_summary.json": {guard: _interventions(guard, records, missing) for guard in guards},
        "scenario_signal_summary.json": [
            _scenario(
                [record for record in records if record["name"] == name],
                [case for case in missing if case["name"] == name],
            )
            for name in dict.fromkeys(row["name"] for row in (*records, *missing))
        ],
    }


def summarise_artifacts(metadata: Mapping[str, Mapping[str, Any]], without: int = 0) -> ArtifactSummary:
    """Return ``edit_artifact_summary.json``: the edited checkpoints, by path of the ``edit_metadata.json``.

    Args:
        metadata: the ``edit_metadata.json`` of each report, by its path.
        without: the number of reports without an ``edit_metadata.json``, which have no edited checkpoint.
    """
    rows = [{"path": path, **{key: metadata[path][key] for key in ARTIFACT_KEYS}} for path in sorted(metadata)]
    classes = [row["artifact_class"] for row in rows] + [EVIDENCE_ONLY] * without
    return {"artifacts": rows, "by_class": {name: classes.count(name) for name in sorted(set(classes))}}


def summarise_seconds(telemetry: Iterable[tuple[str, str, Mapping[str, Any]]]) -> SecondsSummary:
    """Return ``evaluation_optimization_summary.json``: the time spent on all reports, and the time saved.

    Args:
        telemetry: model, category and telemetry of each report that has an ``evaluate_timing.json``.
    """
    rows = list(telemetry)
    everything = [row for *_, row in rows]
    return {
        "timing_files": len(rows),
        "baseline_reports_reused": sum(int(row.get(BASELINE_REUSED) or 0) for row in everything),
        "renders_deferred": sum(int(row.get(RENDER_DEFERRED) or 0) for row in everything),
        "stages": _seconds(everything),
        "by_category": {
            name: _seconds([row for _, category, row in rows if category == name])
            for name in sorted({category for _, category, _ in rows})
        },
        "by_model": {
            name: _seconds([row for model, _, row in rows if model == name])
            for name in sorted({model for model, *_ in rows})
        },
    }


def _seconds(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the seconds of each stage summed over all rows, and their total."""
    stages = sorted({stage for row in rows for stage in row if stage.endswith("_seconds")})
    totals = {stage: round(math.fsum(row.get(stage) or 0.0 for row in rows), 6) for stage in stages}
    return {**totals, "total_seconds": round(math.fsum(row.get(stage) or 0.0 for row in rows for stage in stages), 6)}


def _category(records: Sequence[Record], missing: Sequence[PlannedCase]) -> CategorySummary:
    return {
        "records": len(records),
        "passed": sum(record["passed"] for record in records),
        "with_guard_flag": sum(record["any_core_guard_flag"] for record in records),
        "failed": [record["path"] for record in records if not record["passed"]],
        **_without_report(missing),
    }


def _without_report(missing: Sequence[PlannedCase]) -> WithoutReport:
    """Return the ids of cases without a report; empty if every case has a report."""
    return {"without_report": [case["case"] for case in missing]} if missing else {}


def _signals(guard: str, records: Sequence[Record]) -> GuardSignals:
    evaluated = [record for record in records if record["guard_flags"][guard] is not None]
    raised = [record for record in evaluated if record["guard_flags"][guard]]
    return {
        "evaluated": len(evaluated),
        "signals": len(raised),
        "signals_by_category": {
            category: sum(record["category"] == category for record in raised)
            for category in sorted({record["category"] for record in records})
        },
        "primary_required": sum(r["primary_guard"] == guard and r["primary_guard_required"] for r in records),
        "primary_hits": sum(
            r["primary_guard"] == guard and r["primary_guard_required"] and r["primary_guard_hit"] for r in records
        ),
    }


def _interventions(guard: str, records: Sequence[Record], missing: Sequence[PlannedCase]) -> GuardInterventions:
    """Return the signals of a guard in clean and informational reports, which do not fail any requirement."""
    found = [
        r
        for r in records
        if r["guard_flags"][guard] and r["passed"] and r["strictness"] in ("must_pass", "informational")
    ]
    return {"records": [record["path"] for record in found], "total": len(found), **_without_report(missing)}


def _scenario(records: Sequence[Record], missing: Sequence[PlannedCase]) -> ScenarioSummary:
    planned = [*records, *missing]
    return {
        "name": planned[0]["name"],
        "category": planned[0]["category"],
        "strictness": planned[0]["strictness"],
        "edit_specs": sorted({row["edit_spec"] for row in planned}),
        "records": len(records),
        "passed": sum(record["passed"] for record in records),
        "detectors_hit": sum(record["detectors_hit"] for record in records),
        "with_guard_flag": sum(record["any_core_guard_flag"] for record in records),
        **_without_report(missing),
    }
