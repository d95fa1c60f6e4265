"""What each way of comparing a detector with a report hits, and what it does not hit."""

from typing import Any

import pytest

from invarlock.errors import DocumentError
from invarlock.verdict.detectors import detect, expects_a_signal, is_informational_stress, signals

ACCEPTABLE = {"kind": "validation_flag", "flag": "primary_metric_acceptable", "expected": False}
INVARIANTS = {"kind": "invariants_status", "allowed": ["fail"]}
PROBE = {"kind": "rmt_probe", "field": "detected", "expected": True}
RATIO = {"kind": "primary_metric", "field": "ratio_vs_baseline", "min": 1.5}


@pytest.mark.parametrize(
    ("detector", "report", "seen", "hit"),
    [
        (ACCEPTABLE, {"validation": {"primary_metric_acceptable": False}}, False, True),
        (ACCEPTABLE, {"validation": {"primary_metric_acceptable": True}}, True, False),
        # a flag that was not evaluated is no hit, whatever is expected
        (ACCEPTABLE, {"validation": {}}, None, False),
        # 0 equals False in Python, and is no flag
        (ACCEPTABLE, {"validation": {"primary_metric_acceptable": 0}}, 0, False),
        (INVARIANTS, {"invariants": {"status": "fail"}}, "fail", True),
        (INVARIANTS, {"invariants": {"status": "warn"}}, "warn", False),
        (PROBE, {"rmt_probe": {"detected": True}}, True, True),
        (PROBE, {"rmt_probe": {"detected": False}}, False, False),
        (PROBE, {}, None, False),
        (RATIO, {"primary_metric": {"ratio_vs_baseline": 1.5}}, 1.5, True),
        (RATIO, {"primary_metric": {"ratio_vs_baseline": 1.6}}, 1.6, True),
        (RATIO, {"primary_metric": {"ratio_vs_baseline": 1.499}}, 1.499, False),
        (RATIO, {"primary_metric": {"ratio_vs_baseline": None}}, None, False),
    ],
)
def test_a_detector_hits_what_it_names_and_nothing_else(
    detector: dict[str, Any], report: dict[str, Any], seen: object, hit: bool
) -> None:
    found = detect(detector, report)

    assert found == {**detector, "seen": seen, "hit": hit}
    assert type(found["seen"]) is type(seen)


def test_an_unknown_kind_is_an_error_and_no_miss() -> None:
    with pytest.raises(DocumentError, match="no_such_kind"):
        detect({"kind": "no_such_kind", "expected": True}, {"validation": {}})


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"detectors": [1], "detectors_all_of": [], "intent": "subtle_detectable"}, True),
        ({"detectors": [], "detectors_all_of": [1], "intent": "subtle_detectable"}, True),
        ({"detectors": [], "detectors_all_of": [], "intent": "subtle_detectable"}, False),
        ({"detectors": [1], "detectors_all_of": [1], "intent": "negative_control"}, False),
    ],
)
def test_a_negative_control_expects_no_signal(record: dict[str, Any], expected: bool) -> None:
    assert expects_a_signal(record) is expected


def test_a_record_signals_by_a_guard_or_by_its_detectors() -> None:
    quiet = {"any_core_guard_flag": False, "detectors_hit": False}

    assert not signals(quiet)
    assert signals({**quiet, "any_core_guard_flag": True})
    assert signals({**quiet, "detectors_hit": True})


def test_only_informational_stress_leaves_the_verdict_alone() -> None:
    assert is_informational_stress({"category": "stress", "strictness": "informational"})
    assert not is_informational_stress({"category": "stress", "strictness": "must_fail"})
    assert not is_informational_stress({"category": "clean", "strictness": "informational"})
