"""Reports here hold the few derived fields that the verdict reads."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from verdicts import compile_verdict

from invarlock.errors import DocumentError, UsageError
from invarlock.verdict.compiling import (
    compile_records,
    judge_report,
    planned_cases,
    read_outcomes,
)
from invarlock.verdict.rendering import render_verdict_text
from invarlock.verdict.summaries import ARTIFACT_KEYS, summarise, summarise_artifacts, summarise_seconds

SUITES = Path(__file__).parents[3] / "suites"
ROWS = {row["id"]: row for row in json.loads((SUITES / "scenarios.json").read_text())["scenarios"]}
MODEL = "embedded/mistral-tiny"
PATHS = {
    "noop_control": "reports/embedded__mistral-tiny/noop_control/run_1/evaluation.report.json",
    "prune_50pct_stress": "reports/embedded__mistral-tiny/prune_50pct_stress/run_1/evaluation.report.json",
    "nan_injection": "reports/embedded__mistral-tiny/errors/nan_injection/evaluation.report.json",
}


def manifest(*names: str) -> dict[str, Any]:
    return {
        "schema": "evidence_pack_scenarios_v1",
        "schema_version": 1,
        "scenarios": [copy.deepcopy(ROWS[name]) for name in names],
        "selection": {"cases": [{"model": MODEL, "scenario": name, "run": 1} for name in names]},
    }


def report(name: str, *, ratio: float | None = 1.0, invariants: str = "pass", caps: int = 0) -> dict[str, Any]:
    acceptable = ratio is not None and ratio <= 1.1
    gates = {"ratio": acceptable, "invariants": invariants == "pass"}
    specs = {"noop_control": ("noop", "noop"), "prune_50pct_stress": ("magnitude_prune", "magnitude_prune:0.8:all")}
    edit, spec = specs.get(name, (name, name))
    return {
        "meta": {"model_id": MODEL, "scenario": name, "run": 1},
        "edit": {"name": edit, "spec": spec, "parameters": {}},
        "primary_metric": {"ratio_vs_baseline": ratio},
        "primary_metric_tail": {},
        "tasks": {},
        "fidelity": {"kl_mean": 0.0, "same_top_share": 1.0},
        "validation": {"primary_metric_acceptable": acceptable, "preview_final_drift_acceptable": True},
        "invariants": {"status": invariants},
        "spectral": {"status": "warn" if caps else "pass", "metrics": {"caps_applied": caps, "capped_modules": []}},
        "rmt": {"status": "not_evaluated"},
        "variance": {"status": "not_evaluated"},
        "assurance": {"blocking_reasons": [f"{gate}: bad" for gate, holds in gates.items() if not holds]},
        "policy_provenance": {"policy_digest": f"sha256:{'0' * 64}"},
    }


HONEST = {
    "noop_control": report("noop_control"),
    "prune_50pct_stress": report("prune_50pct_stress", ratio=8.3, caps=20),
    "nan_injection": report("nan_injection", ratio=None, invariants="fail"),
}


def verdict(reports: dict[str, dict[str, Any]], outcomes: list[dict[str, str]] | None = None) -> dict[str, Any]:
    given = {PATHS[name]: (document, f"sha256:{'0' * 64}") for name, document in reports.items()}
    return dict(compile_verdict(manifest(*HONEST), given, outcomes, timestamp="2026-01-31T12:00:00Z"))


def test_an_honest_run_passes() -> None:
    document = verdict(HONEST)

    assert (document["verdict"], document["failed_requirements"]) == ("PASS", [])
    assert all(document["criteria"].values())
    assert [record["passed"] for record in document["records"]] == [True, True, True]
    assert document["counts"]["error_injection_detected"] == 1
    assert document["counts"]["primary_guard_required_hits"] == 2


def test_a_clean_edit_that_fails_a_gate_is_named() -> None:
    document = verdict(HONEST | {"noop_control": report("noop_control", ratio=1.5)})

    assert document["verdict"] == "FAIL"
    assert "mistral-tiny-noop_control-run1: must pass, but ratio: bad" in document["failed_requirements"]
    assert not document["criteria"]["clean_all_pass"]
    lines = render_verdict_text(document).splitlines()
    reasons = [f"  - {reason}" for reason in document["failed_requirements"]]
    first = lines.index("Failed requirements:") + 1
    assert lines[first : first + len(reasons)] == reasons


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_one_run_of_three_that_fails_fails_the_scenario(bad: int) -> None:
    plan = manifest("noop_control")
    plan["selection"]["cases"] = [{"model": MODEL, "scenario": "noop_control", "run": run} for run in (1, 2, 3)]
    given = {}
    for run in (1, 2, 3):
        seen = report("noop_control", ratio=1.5 if run == bad else 1.0)
        seen["meta"]["run"] = run
        given[PATHS["noop_control"].replace("run_1", f"run_{run}")] = (seen, f"sha256:{'0' * 64}")

    document = compile_verdict(plan, given, None, timestamp="2026-01-31T12:00:00Z")

    assert document["verdict"] == "FAIL"
    assert document["failed_requirements"][0] == f"mistral-tiny-noop_control-run{bad}: must pass, but ratio: bad"
    assert [record["passed"] for record in document["records"]] == [run != bad for run in (1, 2, 3)]
    assert (document["counts"]["clean_total"], document["counts"]["clean_pass"]) == (3, 2)


def test_clean_edits_and_faults_count_by_gates_and_by_detectors_that_are_there() -> None:
    plan = manifest(*HONEST)
    for row in plan["scenarios"]:
        row["strictness"] = "informational"
        row["requirements"].update(detectors_all_of=[], detectors_any_of=[], primary_guard_required=False)
    broken = {
        **HONEST,
        "noop_control": report("noop_control", ratio=1.649),
        "prune_50pct_stress": report("prune_50pct_stress"),
    }
    given = {PATHS[name]: (document, f"sha256:{'0' * 64}") for name, document in broken.items()}

    document = compile_verdict(plan, given)

    counts = document["counts"]
    assert document["verdict"] == "PASS"
    assert (counts["records_passed"], counts["informational_total"]) == (3, 3)
    assert (counts["clean_pass"], counts["clean_total"]) == (0, 1)
    assert (counts["catastrophic_required_fail"], counts["catastrophic_required_total"]) == (0, 1)
    assert (counts["error_injection_detected"], counts["error_injection_total"]) == (0, 1)
    assert not document["criteria"]["error_injection_detected"]
    assert "3 cases: 3 informational (2 edits, 1 fault), which do not affect the verdict." in render_verdict_text(
        document
    )


def test_a_fault_that_must_be_detected_and_has_no_detector_fails_the_run() -> None:
    plan = manifest("nan_injection")
    plan["scenarios"][0]["requirements"]["detectors_all_of"] = []
    given = {PATHS["nan_injection"]: (HONEST["nan_injection"], f"sha256:{'0' * 64}")}

    document = compile_verdict(plan, given)

    assert document["verdict"] == "FAIL"
    assert any("its scenario has no detector" in line for line in document["failed_requirements"])


def test_the_strictness_alone_determines_what_must_be_seen() -> None:
    plan = manifest("noop_control")
    plan["scenarios"][0]["strictness"] = "must_fail"
    given = {PATHS["noop_control"]: (report("noop_control"), f"sha256:{'0' * 64}")}

    document = compile_verdict(plan, given, None, timestamp="2026-01-31T12:00:00Z")

    assert document["verdict"] == "FAIL"
    assert "must fail, but passes every gate (ratio 1)" in document["failed_requirements"][0]


def test_a_signal_where_nothing_was_edited_fails_although_every_gate_passes() -> None:
    document = verdict(HONEST | {"noop_control": report("noop_control", caps=1)})

    assert document["failed_requirements"] == [
        "mistral-tiny-noop_control-run1: nothing was edited, but these guards signal: spectral"
    ]


def test_a_destructive_edit_that_passes_its_gates_fails_the_run() -> None:
    document = verdict(HONEST | {"prune_50pct_stress": report("prune_50pct_stress")})

    assert document["verdict"] == "FAIL"
    assert "must fail, but passes every gate (ratio 1)" in document["failed_requirements"][0]
    assert not document["criteria"]["stress_required_fail"]


def test_a_fault_that_no_detector_sees_fails_the_run() -> None:
    document = verdict(HONEST | {"nan_injection": report("nan_injection")})

    assert document["failed_requirements"] == [
        "mistral-tiny-nan_injection-run1: detector invariants_status (allowed ['fail']) did not hit: measured 'pass'",
        "mistral-tiny-nan_injection-run1: its primary guard invariants did not signal",
    ]
    assert not document["criteria"]["error_injection_detected"]


def test_a_missing_report_fails_the_run_with_the_error_of_pytest() -> None:
    reports = {name: document for name, document in HONEST.items() if name != "nan_injection"}
    outcomes = [
        {"case": f"mistral-tiny-{name}-run1", "outcome": "passed", "message": ""}
        for name in ("noop_control", "prune_50pct_stress")
    ]
    crash = {"case": "mistral-tiny-nan_injection-run1", "outcome": "failed", "message": "worker 'gw0' crashed"}

    document = verdict(reports, [*outcomes, crash])

    assert document["verdict"] == "FAIL"
    assert document["missing"]["by_model"] == {MODEL: ["mistral-tiny-nan_injection-run1"]}
    assert [case["case"] for case in document["missing"]["cases"]] == ["mistral-tiny-nan_injection-run1"]
    assert document["failed_requirements"] == [
        "mistral-tiny-nan_injection-run1: no report; pytest: failed, worker 'gw0' crashed"
    ]


def test_pytest_and_the_reports_must_agree() -> None:
    said = [{"case": f"mistral-tiny-{name}-run1", "outcome": "passed", "message": ""} for name in HONEST]
    errored = [*said[:2], {**said[2], "outcome": "error", "message": "teardown"}]

    assert verdict(HONEST, said)["verdict"] == "PASS"
    assert verdict(HONEST, errored)["failed_requirements"] == [
        "mistral-tiny-nan_injection-run1: its report passes, but pytest says error, teardown"
    ]
    assert verdict(HONEST, said[:2])["failed_requirements"] == [
        "mistral-tiny-nan_injection-run1: has a report, but pytest did not run it"
    ]
    lying = verdict(HONEST | {"noop_control": report("noop_control", ratio=1.5)}, said)
    assert "its report does not pass, but pytest says passed" in lying["failed_requirements"][-1]


def test_a_report_of_another_case_is_not_taken_for_this_one() -> None:
    swapped = verdict(HONEST | {"noop_control": HONEST["prune_50pct_stress"]})
    other = copy.deepcopy(HONEST["prune_50pct_stress"])
    other["edit"]["spec"] = "magnitude_prune:0.9:all"

    assert "meta.scenario is 'prune_50pct_stress', but planned was 'noop_control'" in str(
        swapped["failed_requirements"]
    )
    assert "edit.spec is 'magnitude_prune:0.9:all', but planned was 'magnitude_prune:0.8:all'" in str(
        verdict(HONEST | {"prune_50pct_stress": other})["failed_requirements"]
    )


def test_a_report_of_no_planned_case_fails_the_run() -> None:
    reports = {path: (HONEST[name], "") for name, path in PATHS.items()} | {"reports/x/y/run_1/r.json": ({}, "")}

    document = compile_verdict(manifest(*HONEST), reports)

    assert document["failed_requirements"] == ["reports/x/y/run_1/r.json: a report without a planned case"]


def test_informational_stress_affects_a_verdict_only_where_the_suite_requires_signals() -> None:
    # the first is a negative control, of which no signal is expected
    names = ["quant_8bit_stress", "quant_4bit_stress", "fp8_e5m2_stress"]

    def run(*caps: int, fraction: float | None = None) -> dict[str, Any]:
        plan = manifest(*names)
        if fraction is not None:
            plan["selection"]["informational_stress_min_signal_fraction"] = fraction
        reports = {}
        for name, count in zip(names, caps, strict=True):
            document = report(name, caps=count)
            generation = ROWS[name]["generation"]
            spec = generation["edit_spec_by_model"].get("embedded/mistral-tiny", generation["edit_spec"])
            document["edit"]["name"], document["edit"]["spec"] = spec.partition(":")[0], spec
            reports[f"reports/embedded__mistral-tiny/{name}/run_1/evaluation.report.json"] = (document, "")
        return dict(compile_verdict(plan, reports))

    silent, half = run(0, 0, 0), run(0, 0, 1)
    assert (silent["verdict"], silent["counts"]["informational_stress_signaled"]) == ("PASS", 0)
    assert "informational_stress_min_signal_fraction" not in silent["criteria"]
    assert run(0, 0, 1, fraction=0.5)["criteria"]["informational_stress_min_signal_fraction"] == 0.5
    assert "0 of 3 informational stress edits signal." in render_verdict_text(silent)
    assert render_verdict_text(half).count("no signal") == 2
    assert run(0, 0, 1, fraction=0.5)["verdict"] == "PASS"
    assert run(0, 0, 1, fraction=0.6)["failed_requirements"] == [
        "informational stress: 1 of 2 reports that should signal do, but the suite requires a share of 0.6"
    ]
    # the signal of a control stands for no other
    assert run(1, 0, 0, fraction=0.5)["verdict"] == "FAIL"


def test_a_part_of_a_run_is_not_derived_and_fails_where_a_case_of_it_fails() -> None:
    plan = manifest(*HONEST)
    cases = planned_cases(plan)
    records = {PATHS["noop_control"]: judge_report(cases[PATHS["noop_control"]], HONEST["noop_control"], "sha256:0")}
    bad = report("noop_control", ratio=1.2)
    failing = {PATHS["noop_control"]: judge_report(cases[PATHS["noop_control"]], bad, "sha256:0")}
    others = ["mistral-tiny-nan_injection-run1", "mistral-tiny-prune_50pct_stress-run1"]
    said = [{"case": others[0], "outcome": "failed", "message": "AssertionError"}]
    passed = {"case": "mistral-tiny-noop_control-run1", "outcome": "passed", "message": ""}

    part = compile_records(plan, cases, records, not_bundled=others)
    partly = compile_records(plan, cases, records, not_bundled=others[:1])
    failed = compile_records(plan, cases, failing, not_bundled=others)
    verdict = compile_records(plan, cases, records, [*said, passed], not_bundled=others)

    assert (part["verdict"], sorted(part["not_bundled"])) == ("NOT_DERIVED", others)
    assert render_verdict_text(part).splitlines()[0] == "Verdict: not derived: the pack has 1 of 3 cases"
    assert (partly["verdict"], partly["failed_requirements"]) == ("FAIL", [f"{others[1]}: no report"])
    assert failed["verdict"] == "FAIL"
    assert render_verdict_text(failed).splitlines()[0].endswith("the pack has 1 of 3 cases, not all as expected")
    assert (verdict["verdict"], len(verdict["failed_requirements"])) == ("FAIL", 1)
    assert "not_bundled" not in compile_records(plan, cases, records)


@pytest.mark.parametrize(
    ("label", "source", "shown"), [("awq", None, "'awq'"), ("awq", "given", "'awq (given)'"), ("gptq", None, None)]
)
def test_a_report_of_a_users_subject_has_the_planned_label(label: str, source: str | None, shown: str | None) -> None:
    plan = manifest("noop_control")
    plan["scenarios"][0]["generation"] = {"kind": "brought", "edit_label": "gptq"}
    case = planned_cases(plan)[PATHS["noop_control"]]
    own = report("noop_control")
    own["edit"] = {"name": "custom", "label": label, "spec": "custom", "parameters": {}}
    own["edit"] |= {} if source is None else {"label_source": source}
    own |= {"baseline_ref": {}, "subject": {}}

    record = judge_report(case, own, "sha256:0")

    wrong = [f"the report's edit.label is {shown}, but planned was 'gptq'"]
    assert record["reasons"] == ([] if shown is None else wrong)


def test_an_empty_selection_is_an_error_and_no_pass() -> None:
    plan = manifest()

    with pytest.raises(UsageError, match="the selection is empty"):
        compile_verdict(plan, {})


def test_an_unknown_detector_is_an_error_and_no_miss() -> None:
    plan = manifest("nan_injection")
    plan["scenarios"][0]["requirements"]["detectors_all_of"] = [{"kind": "horoscope"}]

    with pytest.raises(DocumentError, match="detector kind 'horoscope' is unknown"):
        compile_verdict(plan, {PATHS["nan_injection"]: (HONEST["nan_injection"], "")})


def test_outcomes_are_read_from_the_node_ids() -> None:
    tests = [{"nodeid": "suites/test_scenarios.py::test_scenario[a-b-run1]", "outcome": "passed"}]

    report = {"exitcode": 0, "summary": {"passed": 1}, "tests": tests}

    assert read_outcomes(report) == [{"case": "a-b-run1", "outcome": "passed", "message": ""}]
    with pytest.raises(DocumentError, match=r"metadata/pytest_report\.json: .*'nodeid' is a required property"):
        read_outcomes({**report, "tests": [{}]})


def test_the_summaries_add_up() -> None:
    summaries = summarise(verdict(HONEST | {"nan_injection": report("nan_injection")}))

    assert summaries["category_summary.json"]["error_injection"] == {
        "records": 1, "passed": 0, "with_guard_flag": 0, "failed": [PATHS["nan_injection"]],
    }  # fmt: skip
    assert summaries["guard_signal_summary.json"]["spectral"]["signals"] == 1
    assert summaries["guard_signal_summary.json"]["rmt"]["evaluated"] == 0
    assert [row["name"] for row in summaries["scenario_signal_summary.json"]] == list(HONEST)


def test_seconds_are_summed_by_stage_model_and_category() -> None:
    rows: list[tuple[str, str, dict[str, Any]]] = [
        ("b", "clean", {"scoring_seconds": 1.5, "baseline_report_reused": True, "render_deferred": True, "batch": 8}),
        ("a", "clean", {"scoring_seconds": 2.0, "edit_seconds": 0.25, "baseline_report_reused": False}),
        ("b", "stress", {"scoring_seconds": None, "edit_seconds": 4.0, "render_deferred": False}),
    ]

    found = summarise_seconds(iter(rows))

    assert (found["timing_files"], found["baseline_reports_reused"], found["renders_deferred"]) == (3, 1, 1)
    assert found["stages"] == {"edit_seconds": 4.25, "scoring_seconds": 3.5, "total_seconds": 7.75}
    assert found["by_model"] == {
        "a": {"edit_seconds": 0.25, "scoring_seconds": 2.0, "total_seconds": 2.25},
        "b": {"edit_seconds": 4.0, "scoring_seconds": 1.5, "total_seconds": 5.5},
    }
    assert found["by_category"]["stress"] == {"edit_seconds": 4.0, "scoring_seconds": 0.0, "total_seconds": 4.0}
    assert summarise_seconds([])["stages"] == {"total_seconds": 0.0}


def test_hits_of_a_guard_are_counted_where_it_is_the_primary_guard_and_required() -> None:
    signals = summarise(verdict(HONEST))["guard_signal_summary.json"]

    for row in signals.values():
        assert row["primary_hits"] <= row["primary_required"] <= len(HONEST)
        assert sum(row["signals_by_category"].values()) == row["signals"] <= row["evaluated"]
        assert list(row["signals_by_category"]) == sorted(row["signals_by_category"])
    assert sum(row["primary_required"] for row in signals.values()) < len(HONEST) * len(signals)


def test_reports_without_a_subject_are_counted_as_evidence_only() -> None:
    assert summarise_artifacts({})["by_class"] == {}
    assert summarise_artifacts({}, 2)["by_class"] == {"evidence_only_pack": 2}


def test_cases_without_a_report_are_named_by_summaries_and_text() -> None:
    reports = {name: report for name, report in HONEST.items() if name != "nan_injection"}
    case = "mistral-tiny-nan_injection-run1"

    document = verdict(reports)
    summaries, text = summarise(document), render_verdict_text(document)

    assert document["missing"]["by_model"] == {MODEL: [case]}
    assert summaries["category_summary.json"]["error_injection"] == {
        "records": 0, "passed": 0, "with_guard_flag": 0, "failed": [], "without_report": [case],
    }  # fmt: skip
    assert "without_report" not in summaries["category_summary.json"]["clean"]
    assert summaries["guard_intervention_summary.json"]["spectral"]["without_report"] == [case]
    rows = {row["name"]: row for row in summaries["scenario_signal_summary.json"]}
    assert (rows["nan_injection"]["edit_specs"], rows["nan_injection"]["records"]) == (["nan_injection"], 0)
    assert rows["nan_injection"]["without_report"] == [case]
    assert text.splitlines()[-1].split() == [
        "nan_injection", "nan_injection", "must", "be", "detected", "mistral-tiny", "-", "-", "-", "NO", "REPORT",
    ]  # fmt: skip


def test_reports_without_a_described_subject_are_counted_as_evidence_alone() -> None:
    row = dict.fromkeys(ARTIFACT_KEYS, "x")
    metadata = {"a": row | {"artifact_class": "fault_injection_fixture"}}

    assert summarise_artifacts(metadata, 2)["by_class"] == {"evidence_only_pack": 2, "fault_injection_fixture": 1}
    assert summarise_artifacts(metadata)["by_class"] == {"fault_injection_fixture": 1}


def test_the_text_says_the_verdict_first_and_names_what_failed() -> None:
    text = render_verdict_text(verdict(HONEST | {"nan_injection": report("nan_injection")}))

    assert text.startswith("Verdict: FAIL\n\n2 of 3 cases as expected on 1 model")
    assert "  - mistral-tiny-nan_injection-run1: its primary guard invariants did not signal" in text
    assert "NOT AS EXPECTED" in text


def test_signals_that_fail_nothing_are_listed_for_clean_and_informational_reports_alone() -> None:
    names = ("quant_4bit_clean", "spectral_moderate_scale", "nan_injection")
    row = json.loads(json.dumps(verdict(HONEST)["records"][0]))
    strictness = dict(zip(names, ("must_pass", "informational", "must_fail"), strict=True))
    flags = row["guard_flags"] | {"spectral": True}
    records = [
        row | {"name": name, "path": f"{name}/{passed}", "strictness": kind, "passed": passed, "guard_flags": flags}
        for name, kind in strictness.items()
        for passed in (True, False)
    ]

    summary = summarise({"records": records, "core_guard_order": ["spectral", "invariants"]})

    assert summary["guard_intervention_summary.json"] == {
        "spectral": {"records": ["quant_4bit_clean/True", "spectral_moderate_scale/True"], "total": 2},
        "invariants": {"records": [], "total": 0},
    }
