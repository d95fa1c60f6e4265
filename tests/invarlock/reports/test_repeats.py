"""Repeats: which fields drift, and by how much."""

import copy
import math
from typing import Any

from invarlock.problems import Code
from invarlock.reports.repeats import content_digest, drift, repeats_document, repeats_problems, summarise_repeats

REPORT: dict[str, Any] = {
    "run_id": "0" * 16,
    "telemetry": {"score_seconds": 1.0},
    "validation": {"spectral_stable": True, "guard_overhead_acceptable": True},
    "spectral": {"modules": {"model.layers.0.mlp.up_proj": {"sigma": 2.0}}, "status": "pass"},
    "losses": [1.0, 2.0, None],
}


def changed(**more: Any) -> dict[str, Any]:
    return {**copy.deepcopy(REPORT), **more}


def test_times_do_not_count() -> None:
    flags = {"spectral_stable": True, "guard_overhead_acceptable": False}
    other = changed(telemetry={"score_seconds": 9.0}, validation=flags)

    assert content_digest(other) == content_digest(REPORT)
    assert drift(REPORT, other) == {}
    assert repeats_document(REPORT, [other])["identical"] is True


def test_fields_that_drift_are_named_once_with_their_largest_relative_difference() -> None:
    other = changed(losses=[1.0, 2.2, None], spectral=copy.deepcopy(REPORT["spectral"]))
    other["spectral"]["modules"]["model.layers.0.mlp.up_proj"]["sigma"] = 1.0
    other["spectral"]["status"] = "fail"

    assert drift(REPORT, other) == {
        "losses.*": 0.0909090909091, "spectral.modules.*.sigma": 0.5, "spectral.status": None,
    }  # fmt: skip


def test_numbers_that_differ_only_in_type_or_sign_of_zero_drift_by_nothing() -> None:
    first, second = changed(losses=[0, 0.0, 2]), changed(losses=[0.0, -0.0, 2.0])

    assert content_digest(first) != content_digest(second)
    assert drift(first, second) == {"losses.*": 0.0}
    document = repeats_document(first, [second])
    assert (document["identical"], list(repeats_problems(document, first))) == (False, [])


def test_an_infinite_number_has_no_relative_difference() -> None:
    assert drift(changed(losses=[math.inf]), changed(losses=[1.0])) == {"losses.*": 0.0}
    assert drift(changed(losses=[-2.0]), changed(losses=[-math.inf])) == {"losses.*": 0.0}


def test_a_repeats_document_follows_from_its_report() -> None:
    document = repeats_document(REPORT, [changed(), changed(losses=[1.0, 2.0, 3.0])])

    assert list(repeats_problems(document, REPORT)) == []
    assert (document["identical"], document["runs"][1]["drift"]) == (False, {"losses.*": None})
    summary = summarise_repeats({"a": document})
    assert summary == {
        "repeats": 2, "identical": False, "cases": {"a": {"repeats": 2, "identical": False, "largest_drift": 0.0}}
    }  # fmt: skip


def test_a_repeats_document_that_does_not_follow_from_its_report_is_refused() -> None:
    document = repeats_document(REPORT, [changed(losses=[1.0, 2.5, None])])

    for wrong, field in (
        ({**document, "identical": True}, "identical"),
        ({**document, "digest": f"sha256:{'0' * 64}"}, "digest"),
        ({**document, "runs": [{**document["runs"][0], "drift": {}}]}, "runs[0]"),
        ({**document, "runs": []}, "runs"),
    ):
        found = [(problem.code, problem.where, problem.field) for problem in repeats_problems(wrong, REPORT)]
        assert (Code.REPEATS_DIFFER, "determinism_repeats.json", field) in found
