"""What CI services show of a run: a table, annotations, a badge."""

import json
from typing import Any

from invarlock.verdict.job_summary import badge, failure_annotations, job_summary

ROW = {"model": "a/b", "run_num": 1, "passed": True, "gates_hold": True, "any_core_guard_flag": False}
ROW |= {"detectors_hit": False}


def verdict(**fields: Any) -> dict[str, Any]:
    """Return a verdict of three cases with a report and one without."""
    counts = {"cases_total": 4, "records_passed": 2, "models_total": 2, "clean_total": 1, "clean_pass": 1}
    counts |= {"catastrophic_required_total": 1, "catastrophic_required_fail": 0, "error_injection_total": 2}
    counts |= {"error_injection_detected": 1, "informational_total": 0, "informational_stress_total": 0}
    records = [
        {**ROW, "name": "noop", "strictness": "must_pass"},
        {**ROW, "name": "nan", "strictness": "must_detect", "detectors_hit": True, "gates_hold": False},
        {**ROW, "name": "prune", "strictness": "must_fail", "passed": False},
    ]
    missing = {"model": "a/b", "name": "inf", "run_num": 1, "strictness": "must_detect"}
    failed = ["b-prune-run1: must fail, but passes every gate, 100 %", "b-inf-run1: no report"]
    found = {"verdict": "FAIL", "counts": counts, "records": records, "missing": {"cases": [missing]}}
    return {**found, "failed_requirements": failed, **fields}


def test_the_summary_is_a_table_with_what_failed_first() -> None:
    text = job_summary(verdict(), ["verdict: FAIL"], "https://example.org/runs/1#artifacts")

    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows == [
        "| scenario | expected | `a/b` |",
        "| --- | --- | --- |",
        "| `inf` | must be detected | ❌ no report |",
        "| `prune` | must fail | ❌ passes, not as expected |",
        "| `nan` | must be detected | ✅ detected |",
        "| `noop` | must pass | ✅ passes |",
    ]
    assert text.startswith("## InvarLock: FAIL\n\n2 of 4 cases as expected on 2 models")
    assert "[Artifacts of this run](https://example.org/runs/1#artifacts)" in text
    assert "b-inf-run1: no report" in text


def test_no_text_of_a_run_makes_markup_in_the_summary() -> None:
    hostile = "x|`</details><script>alert(1)</script>\n# y"
    bad = verdict(failed_requirements=[hostile])
    bad["records"][0].update(name=hostile, model=hostile)

    text = job_summary(bad, [hostile])

    for line in text.splitlines():
        if "<script>" in line:
            # within a code span or a code block
            before = line.partition("<script>")[0]
            assert line.startswith("x|`") or before.count("`") % 2 == 1, line
    assert not any(line.startswith("# ") for line in text.splitlines())


def test_each_failed_requirement_is_an_annotation_of_one_line() -> None:
    lines = list(failure_annotations(verdict(failed_requirements=["b-prune-run1: 100 % is\n::error::no", *["x"] * 20])))

    assert lines[0] == "::error title=InvarLock%3A b-prune-run1::100 %25 is\\n::error::no"
    assert lines[1] == "::error title=InvarLock::x"
    assert len(lines) == 10


def test_a_badge_is_that_of_an_endpoint_of_shields_io() -> None:
    assert json.loads(json.dumps(badge(verdict()))) == {
        "schemaVersion": 1,
        "label": "InvarLock",
        "message": "FAIL, 2 of 4 cases",
        "color": "red",
    }
    assert badge(verdict(verdict="PASS"))["color"] == "brightgreen"
    assert badge(verdict(verdict="NOT_DERIVED"))["color"] == "lightgrey"
