"""Compiling the verdict of a run from only its effective manifest and its reports.

PASS requires all of: every planned case has a report; every must_pass report passes its gates; every must_fail report
fails and its catastrophic detectors hit; every must_detect report's detectors hit; every required primary guard hit;
and pytest's outcomes, if known, agree. Informational cases do not affect the verdict, unless the suite requires a
share of them to signal. Gates decide whether an edit counts as clean or destructive, detectors whether a fault was
detected.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from invarlock.catalog.cases import SIGNAL_POLICY, case_id, planned_edit, report_folder
from invarlock.catalog.edit_labels import edit_text, is_planned
from invarlock.catalog.node_ids import parameter_id
from invarlock.documents import JsonObject
from invarlock.errors import DocumentError, UsageError
from invarlock.guards import GUARDS
from invarlock.jsonio import check_schema
from invarlock.metrics import METRICS
from invarlock.problems import Code
from invarlock.reports.deployables import CATEGORY, VALIDATION, failed_checks
from invarlock.reports.policy import CORE_GUARDS
from invarlock.reports.verification import shorten
from invarlock.verdict.detectors import (
    detect,
    expects_a_signal,
    guard_flags,
    is_informational_stress,
    primary_guard_hit,
    signals,
)
from invarlock.verdict.documents import Missing, PlannedCase, Record, Verdict

REPORT_NAME = "evaluation.report.json"
# The verdict of a partial pack whose cases are as expected; nothing follows about the other cases.
NOT_DERIVED: Final = "NOT_DERIVED"

Outcome = Mapping[str, str]


@dataclass(frozen=True)
class Planned:
    """A case of an effective manifest, its scenario, and the path of its report in a pack."""

    path: str
    case: Mapping[str, Any]
    scenario: Mapping[str, Any]

    @property
    def case_id(self) -> str:
        """The bracketed part of the case's node id."""
        return case_id(self.case["model"], self.case["scenario"], self.case["run"])


def planned_cases(manifest: Mapping[str, Any]) -> dict[str, Planned]:
    """Return the cases of an effective manifest by the path of their report in a pack, in the manifest's order.

    Raises:
        UsageError: when the manifest selects nothing.
        DocumentError: when it has no selection, or a case whose scenario is not in the manifest.
    """
    if "selection" not in manifest:
        raise DocumentError("manifest: no selection; a verdict needs the effective manifest of a run")
    if not manifest["selection"]["cases"]:
        raise UsageError("manifest: the selection is empty; select at least one case", code=Code.SELECTION_INVALID)
    scenarios = {row["id"]: row for row in manifest["scenarios"]}
    plan: dict[str, Planned] = {}
    for case in manifest["selection"]["cases"]:
        scenario = scenarios.get(case["scenario"])
        if scenario is None:
            raise DocumentError(
                f"manifest: the selection has scenario {case['scenario']!r}, which is not in the manifest"
            )
        folder = report_folder(case["model"], scenario["id"], scenario["category"], case["run"])
        planned = Planned(f"reports/{folder}/{REPORT_NAME}", case, scenario)
        if planned.path in plan:
            raise DocumentError(f"manifest: the selection has two cases with the report path {planned.path}")
        plan[planned.path] = planned
    return plan


def compile_records(
    manifest: Mapping[str, Any],
    plan: Mapping[str, Planned],
    found: Mapping[str, Record | None],
    outcomes: Sequence[Outcome] | None = None,
    *,
    timestamp: str = "",
    not_bundled: Collection[str] = (),
) -> Verdict:
    """Return the ``final_verdict.json`` document from judged records.

    If some cases are not bundled, the verdict is FAIL if a bundled case fails, and ``NOT_DERIVED`` otherwise.

    Args:
        manifest: the effective manifest.
        plan: the manifest's cases, from ``planned_cases``.
        found: the record from ``judge_report`` for each report by path; None for a report without a planned case.
        outcomes: pytest's outcomes of the cases; None if unknown.
        timestamp: the time of the compilation, UTC.
        not_bundled: the ids of cases that were judged elsewhere and deliberately left out of a pack.
    """
    said: dict[str, Outcome] = {}
    for outcome in sorted(outcomes or (), key=_gravity):
        # several tests may cover one case: any failure counts, and a skipped test is ignored
        said[outcome["case"]] = outcome
    scenarios = {row["id"]: row for row in manifest["scenarios"]}
    records: list[Record] = []
    missing: list[Planned] = []
    failed: list[str] = []
    left_out: list[str] = []
    for path, planned in plan.items():
        about = said.get(planned.case_id)
        record = found.get(path)
        if record is None and planned.case_id in not_bundled:
            left_out.append(planned.case_id)
            if about and _gravity(about) == 2:
                failed.append(f"{planned.case_id}: not bundled; pytest: {_said(about)}")
            continue
        if record is None:
            missing.append(planned)
            failed.append(f"{planned.case_id}: no report" + (f"; pytest: {_said(about)}" if about else ""))
            continue
        records.append(record)
        failed += [f"{planned.case_id}: {reason}" for reason in record["reasons"]]
        if outcomes is not None:
            failed += _disagreement(planned.case_id, record, about)
    failed += [f"{path}: a report without a planned case" for path in sorted(set(found) - set(plan))]
    counts = _counts(manifest, scenarios, records)
    fraction = manifest["selection"].get(SIGNAL_POLICY)
    if fraction is not None:
        expecting = [record for record in records if is_informational_stress(record) and expects_a_signal(record)]
        signalled = sum(signals(record) for record in expecting)
        if signalled < fraction * len(expecting):
            failed.append(
                f"informational stress: {signalled} of {len(expecting)} reports that should signal do, but the suite "
                f"requires a share of {fraction:g}"
            )
    verdict: Verdict = {
        "verdict": "FAIL" if failed else NOT_DERIVED if left_out else "PASS",
        "timestamp": timestamp,
        "manifest": {
            "path": "metadata/scenarios.json",
            "schema": manifest["schema"],
            "schema_version": manifest["schema_version"],
        },
        "criteria": {
            "clean_all_pass": counts["clean_pass"] == counts["clean_total"],
            "stress_required_fail": counts["catastrophic_required_fail"] == counts["catastrophic_required_total"],
            "error_injection_detected": counts["error_injection_detected"] == counts["error_injection_total"],
            "primary_guard_signal_required": counts["primary_guard_required_hits"]
            == counts["primary_guard_required_records"],
            **({} if fraction is None else {SIGNAL_POLICY: fraction}),
        },
        "failed_requirements": failed,
        "counts": counts,
        "missing": _missing(missing),
        "core_guard_order": list(CORE_GUARDS),
        "records": records,
    }
    if left_out:
        verdict["not_bundled"] = left_out
    return verdict


def _missing(cases: Sequence[Planned]) -> Missing:
    """Return the cases without a report: their ids by model and, if there are any, their plan."""
    by_model: dict[str, list[str]] = {}
    for planned in cases:
        by_model.setdefault(planned.case["model"], []).append(planned.case_id)
    rows: list[PlannedCase] = [
        {
            "case": planned.case_id,
            "model": planned.case["model"],
            "name": planned.scenario["id"],
            "run_num": planned.case["run"],
            "category": planned.scenario["category"],
            "strictness": planned.scenario["strictness"],
            "edit_spec": planned_edit(planned.scenario, planned.case["model"]),
        }
        for planned in cases
    ]
    return {"by_model": by_model, "cases": rows} if rows else {"by_model": by_model}


def read_outcomes(document: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return pytest's outcome of each case, from ``metadata/pytest_report.json``.

    Raises:
        DocumentError: when the document is not a pytest report.
    """
    check_schema(document, "pytest_report", where="metadata/pytest_report.json")
    return [
        {
            "case": parameter_id(test["nodeid"]),
            "outcome": test["outcome"],
            "message": test.get("message", ""),
        }
        for test in document["tests"]
        if "[" in test["nodeid"]
    ]


def judge_report(planned: Planned, report: Mapping[str, Any], digest: str) -> Record:
    """Return the verdict's record of one report: the expectation, the findings, and whether they match.

    Raises:
        DocumentError: when the scenario has an unknown detector.
    """
    case, scenario = planned.case, planned.scenario
    requirements = scenario["requirements"]
    all_of = [detect(detector, report) for detector in requirements["detectors_all_of"]]
    any_of = [detect(detector, report) for detector in requirements["detectors_any_of"]]
    # a scenario without detectors detects nothing
    detectors_hit = (
        bool(all_of or any_of)
        and all(row["hit"] for row in all_of)
        and (not any_of or any(row["hit"] for row in any_of))
    )
    flags = guard_flags(report)
    record: JsonObject = {
        "model": case["model"],
        "name": scenario["id"],
        "run_num": case["run"],
        "path": planned.path,
        "category": scenario["category"],
        "strictness": scenario["strictness"],
        "intent": scenario["intent"],
        "failure_class": scenario["failure_class"],
        "primary_guard": scenario["primary_guard"],
        "primary_guard_required": requirements["primary_guard_required"],
        "primary_guard_hit": primary_guard_hit(scenario["primary_guard"], report),
        "detectors_all_of": all_of,
        "detectors": any_of,
        "detectors_hit": detectors_hit,
        "guard_flags": flags,
        "any_core_guard_flag": any(flags.values()),
        "gates_hold": not report["assurance"]["blocking_reasons"],
        **{key: fact for guard in GUARDS for key, fact in guard.facts(report[guard.name]).items()},
        "ratio_vs_baseline": report["primary_metric"]["ratio_vs_baseline"],
        **{key: fact for metric in METRICS for key, fact in metric.facts(report[metric.name]).items()},
        # the edit that was applied; the scenario's name may not show it
        "edit_spec": edit_text(report["edit"]),
        "policy_digest": report["policy_provenance"]["policy_digest"],
        "preset_sha256": report["policy_provenance"].get("preset_sha256"),
        "report_sha256": digest,
    }
    reasons = [*_mismatches(case, scenario, report), *_unmet(record, scenario, report)]
    return cast("Record", {**record, "passed": not reasons, "reasons": reasons})


def _mismatches(case: Mapping[str, Any], scenario: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    """Return the differences that show that the report does not belong to this case."""
    meta, edit, generation = report["meta"], report["edit"], scenario["generation"]
    wanted: list[tuple[str, Any, Any]] = [
        ("meta.model_id", meta["model_id"], case["model"]),
        ("meta.scenario", meta["scenario"], case["scenario"]),
        ("meta.run", meta["run"], case["run"]),
    ]
    if generation["kind"] == "error":
        params = {**generation.get("params", {}), **generation.get("params_by_model", {}).get(case["model"], {})}
        wanted += [("edit.name", edit["name"], generation["error_type"])]
        wanted += [(f"edit.parameters.{key}", edit["parameters"].get(key), value) for key, value in params.items()]
    elif generation["kind"] == "brought":
        label = generation["edit_label"]
        if not is_planned(edit, label, generation.get("edit_label_source")):
            source = edit.get("label_source")
            wanted.append(("edit.label", edit["label"] if source is None else f"{edit['label']} ({source})", label))
        wanted.append(("edit.expected", edit.get("expected", []), generation.get("expected", [])))
        signed = generation.get("model_signatures", {})
        for side, block in (("baseline", "baseline_ref"), ("subject", "subject")):
            wanted.append((f"{block}.model_signature", report[block].get("model_signature"), signed.get(side)))
    else:
        spec = generation.get("edit_spec_by_model", {}).get(case["model"], generation["edit_spec"])
        wanted.append(("edit.name", edit["name"], spec.partition(":")[0]))
        if ":clean:" not in spec:
            wanted.append(("edit.spec", edit["spec"], spec))
    return [
        f"the report's {field} is {shorten(found)}, but planned was {shorten(plan)}"
        for field, found, plan in wanted
        if found != plan
    ]


def _unmet(record: Mapping[str, Any], scenario: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    strictness = scenario["strictness"]
    blocking = report["assurance"]["blocking_reasons"]
    missed = [row for row in record["detectors_all_of"] if not row["hit"]]
    reasons: list[str] = []
    if strictness == "must_pass":
        reasons += [f"must pass, but {line}" for line in blocking]
        if scenario["generation"].get("edit_spec") == "noop" and record["any_core_guard_flag"]:
            raised = [guard for guard, flag in record["guard_flags"].items() if flag]
            reasons.append(f"nothing was edited, but these guards signal: {', '.join(raised)}")
    if strictness == "must_detect" and not (record["detectors_all_of"] or record["detectors"]):
        reasons.append("must be detected, but its scenario has no detector")
    if strictness == "must_fail" and not blocking:
        reasons.append(f"must fail, but passes every gate ({_ratio(record)})")
    if scenario["category"] == CATEGORY:
        # the case must be servable; its perplexity is informational
        validation = report.get(VALIDATION)
        failed = ["it was not validated"] if validation is None else failed_checks(validation)
        reasons += [f"deployable, but {line}" for line in failed]
    if strictness != "informational":
        reasons += [f"detector {_describe(row)} did not hit: measured {row['seen']!r}" for row in missed]
        if record["detectors"] and not any(row["hit"] for row in record["detectors"]):
            reasons.append("none of the detectors hit: " + ", ".join(_describe(row) for row in record["detectors"]))
        if record["primary_guard_required"] and not record["primary_guard_hit"]:
            reasons.append(f"its primary guard {record['primary_guard']} did not signal")
    return reasons


def _describe(detector: Mapping[str, Any]) -> str:
    terms = (f"{key} {value!r}" for key, value in detector.items() if key not in ("kind", "seen", "hit"))
    return f"{detector['kind']} ({', '.join(terms)})"


def _ratio(record: Mapping[str, Any]) -> str:
    ratio = record["ratio_vs_baseline"]
    return "no ratio" if ratio is None else f"ratio {ratio:.4g}"


def _said(outcome: Outcome) -> str:
    return ", ".join(part for part in (outcome["outcome"], outcome["message"]) if part)


def _gravity(outcome: Outcome) -> int:
    return {"skipped": 0, "passed": 1}.get(outcome["outcome"], 2)


def _disagreement(name: str, record: Mapping[str, Any], outcome: Outcome | None) -> list[str]:
    if outcome is None:
        return [f"{name}: has a report, but pytest did not run it"]
    if record["passed"] and outcome["outcome"] != "passed":
        return [f"{name}: its report passes, but pytest says {_said(outcome)}"]
    if not record["passed"] and outcome["outcome"] == "passed":
        return [f"{name}: its report does not pass, but pytest says passed"]
    return []


def _counts(
    manifest: Mapping[str, Any], scenarios: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> dict[str, int]:
    cases = manifest["selection"]["cases"]

    def planned(**wanted: Any) -> int:
        return sum(all(scenarios[case["scenario"]][key] == value for key, value in wanted.items()) for case in cases)

    def seen(**wanted: Any) -> int:
        return sum(all(record[key] == value for key, value in wanted.items()) for record in records)

    catastrophic = {row["id"] for row in scenarios.values() if row["requirements"]["catastrophic_required"]}
    required = [record for record in records if record["name"] in catastrophic]
    informational = [record for record in records if is_informational_stress(record)]
    return {
        "models_total": len({case["model"] for case in cases}),
        "cases_total": len(cases),
        "informational_total": planned(strictness="informational"),
        "records_total": len(records),
        "records_passed": seen(passed=True),
        "clean_total": planned(category="clean"),
        "clean_pass": seen(category="clean", passed=True, gates_hold=True),
        "stress_total": planned(category="stress"),
        "stress_fail": sum(r["category"] == "stress" and r["any_core_guard_flag"] for r in records),
        "catastrophic_required_total": sum(case["scenario"] in catastrophic for case in cases),
        "catastrophic_required_present": len(required),
        "catastrophic_required_fail": sum(record["passed"] and not record["gates_hold"] for record in required),
        "informational_stress_total": len(informational),
        "informational_stress_signaled": sum(signals(record) for record in informational),
        "error_injection_total": planned(category="error_injection"),
        "error_injection_detected": seen(category="error_injection", detectors_hit=True),
        "primary_guard_required_records": sum(record["primary_guard_required"] for record in records),
        "primary_guard_required_hits": sum(r["primary_guard_required"] and r["primary_guard_hit"] for r in records),
    }
