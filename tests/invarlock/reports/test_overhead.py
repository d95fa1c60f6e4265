"""The time that guards take, in the release profile: recorded, held against a budget, and deciding nothing."""

import json
from typing import Any

import pytest
from packs import REPORT

from invarlock.jsonio import dump_json
from invarlock.reports.derivation import compose, strip
from invarlock.reports.gates import judge_gates
from invarlock.reports.overhead import overhead_ratio

STAGES = {"load_seconds": 1.0, "score_seconds": 3.0, "measure_weights_seconds": 1.5, "measure_activations_seconds": 0.5}


def composed(real_run: Any, profile: str, telemetry: dict[str, float]) -> Any:
    raw = strip(json.loads((real_run.pack / REPORT).read_bytes()))
    raw["context"]["profile"] = profile
    raw["telemetry"] = telemetry
    return json.loads(dump_json(compose(raw)))


@pytest.mark.parametrize(
    ("more", "ratio"),
    [
        ({}, 1.5),
        ({"probe_seconds": 90.0, "make_subject_seconds": 9.0}, 1.5),
        ({"score_seconds": 0.0}, None),
        ({"score_seconds": None}, None),
        ({"load_seconds": None}, None),
        ({"measure_activations_seconds": -1.0}, None),
        ({"measure_weights_seconds": None}, None),
        ({"measure_weights_seconds": 0.0}, 1.125),
        ({"measure_weights_seconds": 0.0, "measure_activations_seconds": 0.0}, 1.0),
    ],
)
def test_the_ratio_is_of_guarded_to_bare_seconds(more: dict[str, float | None], ratio: float | None) -> None:
    assert overhead_ratio({**STAGES, **more}) == ratio


def test_a_release_report_compares_the_overhead_with_its_budget_and_passes_either_way(real_run: Any) -> None:
    quick = composed(real_run, "release", STAGES)
    slow = composed(real_run, "release", {**STAGES, "measure_weights_seconds": 60.0})

    flags = [report["validation"]["guard_overhead_acceptable"] for report in (quick, slow)]
    assert flags == [True, False]
    assert [report["resolved_policy"]["overhead"] for report in (quick, slow)] == [{"budget": 2.0}] * 2
    assert slow["assurance"] == quick["assurance"]
    gate = judge_gates(slow, slow["resolved_policy"])[-1]
    assert (gate.measured, gate.limit, gate.blocks) == ("16.12 times the bare evaluation", "2", False)


def test_other_profiles_and_subjects_that_were_not_scored_have_no_such_flag(real_run: Any) -> None:
    not_scored = {"load_seconds": 0.0, "score_seconds": 0.0, "measure_weights_seconds": 1.0}

    for report in (composed(real_run, "ci", STAGES), composed(real_run, "release", not_scored)):
        assert "guard_overhead_acceptable" not in report["validation"]
