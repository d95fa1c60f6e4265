"""The guard-value sweep: small edits near the limits that the guards detect although perplexity accepts them.

Each case of the sweep is one point, derived from its report. The sweep's document has the points and their counts; its
writer and its verifier derive both with the same functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from invarlock.guards import GUARD_NAMES, GUARDS, LIMITED
from invarlock.jsonio import check_schema
from invarlock.reports.margins import limits_used
from invarlock.reports.probes import PROBED, required_probes
from invarlock.statistics.intervals import weighted_mean
from invarlock.statistics.rounding import rounded
from invarlock.verdict.compiling import Planned
from invarlock.verdict.detectors import guard_flags, primary_guard_hit
from invarlock.verdict.documents import FaultCounts, GuardCounts, SweepDocument, SweepPoint

FILE_NAME = "guard_value_all_guard_probe_sweep.json"
SCHEMA = "invarlock/guard-value-sweep-v1"
_GUARD_FLAGS = tuple(flag for guard in GUARDS for flag in guard.flags)
# A fault changes the model measurably if the paired t of its loss differences exceeds this.
MEASURABLE_T = 3.0


def sweep_point(planned: Planned, report: Mapping[str, Any], digest: str) -> SweepPoint | None:
    """Return a report's point of the sweep, or None if its scenario is not a step of a sweep.

    Args:
        planned: the case.
        report: the verified report, with its probes under their names.
        digest: ``sha256:<hex>`` of the report's bytes.
    """
    step = planned.scenario.get("guard_value")
    if step is None:
        return None
    flags = guard_flags(report)
    signals = [guard for guard, flag in flags.items() if flag and guard in GUARD_NAMES]
    probes = {name: bool(report[name]["detected"]) for name in required_probes(planned.scenario) if name in report}
    validation, metric = report["validation"], report["primary_metric"]
    refused = [flag for flag in _GUARD_FLAGS if validation.get(flag) is False]
    t = _paired_t(report["evaluation_windows"]["final"])
    point = {
        **{key: planned.case[key] for key in ("model", "scenario", "run")},
        **{key: step.get(key) for key in ("role", "guard", "parameter", "value")},
        "path": planned.path,
        "report_sha256": digest,
        "ratio": metric["ratio_vs_baseline"],
        "ratio_upper": None if metric["ci"] is None else metric["ci"][1],
        "paired_t": t,
        "changes_function": t is None or abs(t) > MEASURABLE_T,
        "perplexity_accepts": not flags["primary_metric"],
        "guards_that_signal": signals,
        "gates_that_refuse": refused,
        "probes": probes,
        "guard_detects": None if step.get("guard") is None else _detects(step["guard"], report),
        "guards_detect": bool(signals or any(probes.values())),
        "limits_used": limits_used(report),
    }
    return cast("SweepPoint", point)


def sweep_document(points: Mapping[str, SweepPoint]) -> SweepDocument:
    """Return the sweep's document.

    Args:
        points: the points of the sweep, by the path of their report.
    """
    rows = sorted(points.values(), key=_order)
    faults = [row for row in rows if row["role"] == "fault"]
    controls = [row for row in rows if row["role"] == "control"]
    document: SweepDocument = {
        "schema": SCHEMA,
        "measurable_t": MEASURABLE_T,
        "faults": _counts(faults),
        "guards": {guard: _guard(guard, faults, controls) for guard in LIMITED},
        "controls": {
            "points": len(controls),
            "refused": sum(not row["perplexity_accepts"] or bool(row["gates_that_refuse"]) for row in controls),
            "false_alarms": sum(row["guards_detect"] for row in controls),
            "alarms": [row["path"] for row in controls if row["guards_detect"]],
        },
        "points": [cast("SweepPoint", dict(row)) for row in rows],
    }
    check_schema(document, "guard_value_sweep", where=FILE_NAME)
    return document


def sweep_lines(points: Mapping[str, SweepPoint]) -> list[str]:
    """Return the summary of a sweep as text; empty without a sweep."""
    if not points:
        return []
    document = sweep_document(points)
    lines = ["", "guard-value sweep        faults  perplexity accepts  of those detected  by the guard itself"]
    for guard, row in document["guards"].items():
        lines.append(
            f"{guard:<23}  {row['points']:>6}  {row['accepted_by_perplexity']:>18}  "
            f"{row['accepted_and_detected']:>17}  {row['accepted_and_detected_by_it']:>19}"
        )
    controls = document["controls"]
    alarms = f"{controls['false_alarms']} false alarms, {controls['refused']} refused"
    return [*lines, f"negative controls: {controls['points']}, {alarms}"]


def _detects(guard: str, report: Mapping[str, Any]) -> bool:
    """Return whether a guard signals, in the report or in its probe."""
    return bool(guard_flags(report)[guard]) or primary_guard_hit(guard, report)


def _order(row: SweepPoint) -> tuple[Any, ...]:
    """Return the sort key: model, faults before controls, then guard, series and value."""
    number = row["value"] if isinstance(row["value"], int | float) else math.inf
    series = row["scenario"].removesuffix(f"_{row['parameter']}_{number:g}")
    return row["model"], row["role"] != "fault", row["guard"] or "", series, number, row["scenario"], row["run"]


def _counts(rows: Sequence[SweepPoint]) -> FaultCounts:
    accepted = [row for row in rows if row["perplexity_accepts"]]
    return {
        "points": len(rows),
        "accepted_by_perplexity": len(accepted),
        "accepted_and_detected": sum(row["guards_detect"] for row in accepted),
        "accepted_and_measurable": sum(row["changes_function"] for row in accepted),
        "measurable_and_detected": sum(row["changes_function"] and row["guards_detect"] for row in accepted),
        "accepted_and_refused_by_a_gate": sum(bool(row["gates_that_refuse"]) for row in accepted),
    }


def _guard(guard: str, faults: Sequence[SweepPoint], controls: Sequence[SweepPoint]) -> GuardCounts:
    own = [row for row in faults if row["guard"] == guard]
    return {
        **_counts(own),
        "accepted_and_detected_by_it": sum(bool(row["guard_detects"]) for row in own if row["perplexity_accepts"]),
        "false_alarms": sum(guard in _signalling(row) for row in controls),
    }


def _signalling(row: SweepPoint) -> set[str]:
    """Return the guards that signal at a point, in its report or in a probe."""
    probed = {PROBED[name][0].name for name, detected in row["probes"].items() if detected}
    return {*row["guards_that_signal"], *probed}


def _paired_t(windows: Mapping[str, Any]) -> float | None:
    """Return the mean loss difference divided by its standard error; None if a loss is not finite or all are equal."""
    pairs = list(zip(windows["logloss"], windows["baseline_logloss"], strict=True))
    deltas = [own - base for own, base in pairs if own is not None and base is not None]
    if len(deltas) < len(pairs) or len(deltas) < 2:
        return None
    mean = weighted_mean(deltas, [1] * len(deltas))
    spread = math.sqrt(math.fsum((delta - mean) ** 2 for delta in deltas) / (len(deltas) - 1) / len(deltas))
    if spread == 0:
        return 0.0 if mean == 0 else None
    return rounded(mean / spread)
