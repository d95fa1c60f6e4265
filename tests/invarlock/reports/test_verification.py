"""What a verifier compares: every value of a document with the one derived, and reports with their baselines."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from packs import BASELINE, FAULT, REPORT, STRESS

from invarlock.problems import Code, Problem
from invarlock.reports.derivation import compose, strip
from invarlock.reports.verification import (
    MAX_PROBLEMS,
    RELATIVE_TOLERANCE,
    differences,
    shorten,
    verify_against_baseline,
    verify_baseline,
    verify_report,
)

EDIT, RAW = Code.EDIT_CONTRADICTS_ITSELF, Code.RAW_MEASUREMENTS_CONTRADICT
OTHER = f"sha256:{'0' * 64}"
LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    LEAVES,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=2), children, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_a_document_does_not_differ_from_itself(value: Any) -> None:
    assert list(differences(value, copy.deepcopy(value))) == []


@given(VALUES, VALUES)
def test_two_documents_differ_where_their_text_does(one: Any, other: Any) -> None:
    # numbers are compared by value and within a tolerance, which has a test of its own
    assume(_without_numbers(one) != _without_numbers(other))

    assert list(differences(one, other))
    assert list(differences({"a": [one]}, {"a": [other]}))


def _without_numbers(value: Any) -> str:
    if isinstance(value, dict):
        return str(sorted((key, _without_numbers(item)) for key, item in value.items()))
    if isinstance(value, list):
        return str([_without_numbers(item) for item in value])
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else repr(value)


@pytest.mark.parametrize(
    ("found", "derived", "places"),
    [
        ({"a": 1}, {}, [("a", "1 does not follow from the measurements")]),
        ({}, {"a": 1}, [("a", "missing, derived 1")]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, [("a.b[1]", "2, derived 3")]),
        ({"a": [1]}, {"a": [1, 2]}, [("a", "1 entries, derived 2")]),
        ({"a": [1], "b": 2}, {"a": {}, "b": 3}, [("a", "[1], derived {}"), ("b", "2, derived 3")]),
        ({"a": True}, {"a": 1}, [("a", "True, derived 1")]),
        ({"a": 1}, {"a": True}, [("a", "1, derived True")]),
        ({"a": 0.0}, {"a": False}, [("a", "0.0, derived False")]),
        ({"a": None}, {"a": 0}, [("a", "None, derived 0")]),
        ({"a": "1"}, {"a": 1}, [("a", "'1', derived 1")]),
        ({"a": 10**17}, {"a": 10**17 + 1}, [("a", f"{10**17}, derived {10**17 + 1}")]),
        ([1, 2], [1, 3], [("[1]", "2, derived 3")]),
        (1, 2, [("", "1, derived 2")]),
    ],
)
def test_a_difference_names_its_field_and_both_values(found: Any, derived: Any, places: list[tuple[str, str]]) -> None:
    assert list(differences(found, derived)) == [Problem(Code.NUMBER_DOES_NOT_FOLLOW, "", *place) for place in places]


def test_a_difference_is_of_the_file_and_the_code_that_are_given() -> None:
    found = list(differences({"b": 1}, {"b": 2}, "a", where="a.json", code=Code.PINS_DIFFER))

    assert found == [Problem(Code.PINS_DIFFER, "a.json", "a.b", "1, derived 2")]


@given(st.floats(1e-300, 1e300), st.sampled_from([-1, 1]))
def test_derived_numbers_may_differ_in_their_last_digit_and_no_further(value: float, sign: int) -> None:
    assert list(differences(value, value * (1 + sign * 0.9 * RELATIVE_TOLERANCE))) == []
    assert list(differences(value, value * (1 + sign * 1.2 * RELATIVE_TOLERANCE)))
    assert list(differences(value, -value))
    assert list(differences(value, 0.0))
    assert list(differences(0.0, value))


def test_a_value_is_shortened_for_a_message() -> None:
    assert [len(shorten("x" * count)) for count in (77, 78, 79, 500)] == [79, 80, 80, 80]
    assert shorten("x" * 500).endswith("...")


@pytest.fixture
def report(real_run: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((real_run.pack / STRESS).read_bytes())
    return document


@pytest.fixture
def baseline(real_run: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((real_run.pack / BASELINE).read_bytes())
    return document


@pytest.mark.parametrize("name", [REPORT, STRESS, FAULT])
def test_the_reports_of_a_run_verify_and_follow_from_their_baseline(
    name: str, real_run: Any, baseline: dict[str, Any]
) -> None:
    report = json.loads((real_run.pack / name).read_bytes())

    assert verify_report(report) == []
    assert verify_baseline(baseline) == []
    assert verify_against_baseline(report, baseline) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: r["meta"].update(model_id="another/model"), "meta.model_id"),
        (lambda r: r["meta"].update(revision="1" * 40), "meta.revision"),
        (lambda r: r["meta"].update(device="cuda"), "meta.device"),
        (lambda r: r["meta"].update(dtype="bfloat16"), "meta.dtype"),
        (lambda r: r["meta"]["seeds"].update(windows=99), "meta.seeds"),
        (lambda r: r["meta"]["seeds"].update(bootstrap=99), "meta.seeds"),
        *[
            (lambda r, key=key: r["context"].update({key: "other"}), f"context.{key}")
            for key in ("suite", "profile", "tier", "determinism", "execution_mode")
        ],
        (lambda r: r["baseline_ref"].update(digest=OTHER), "baseline_ref.digest"),
        (lambda r: r["baseline_ref"].update(tokenizer_sha256=OTHER), "baseline_ref.tokenizer_sha256"),
        (lambda r: r["dataset"].update(seq_len=9), "dataset"),
        (lambda r: r["dataset"]["windows"].update(final=9), "dataset"),
        (lambda r: r["meta"].update(run=9), "meta.run"),
        *[
            (
                lambda r, part=part, key=key: r["evaluation_windows"][part][key].reverse(),
                f"evaluation_windows.{part}.{key}",
            )
            for part in ("preview", "final")
            for key in ("window_ids", "baseline_logloss")
        ],
        (lambda r: r["evaluation_windows"]["final"]["token_counts"].append(1), "evaluation_windows.final.token_counts"),
        *[
            (
                lambda r, part=part: r["evaluation_windows"][part].update(slices=["another"]),
                f"evaluation_windows.{part}.slices",
            )
            for part in ("preview", "final")
        ],
        *[
            (lambda r, guard=guard: r[guard]["raw"]["baseline"].update(x=1), f"{guard}.raw.baseline")
            for guard in ("invariants", "spectral", "rmt", "variance")
        ],
    ],
)
def test_a_report_that_is_not_of_its_baseline_names_where(
    change: Callable[[Any], object], named: str, report: dict[str, Any], baseline: dict[str, Any]
) -> None:
    change(report)

    found = verify_against_baseline(report, baseline)

    assert [(problem.code, problem.field) for problem in found] == [(Code.BASELINE_DIFFERS, named)]


def test_a_draw_that_the_baseline_has_twice_is_none(report: dict[str, Any], baseline: dict[str, Any]) -> None:
    baseline["draws"].append(baseline["draws"][0])

    assert [problem.field for problem in verify_against_baseline(report, baseline)] == ["meta.run"]


def test_versions_and_statistics_of_windows_may_differ_from_the_baselines(
    report: dict[str, Any], baseline: dict[str, Any]
) -> None:
    report["meta"]["versions"] = {"python": "3.99"}
    report["dataset"]["windows"]["stats"] = {}

    assert verify_against_baseline(report, baseline) == []


@pytest.mark.parametrize("guard", ["invariants", "spectral"])
def test_a_baseline_measured_by_another_contract_is_named(guard: str, baseline: dict[str, Any]) -> None:
    baseline[guard]["raw"]["measurement_contract_hash"] = "0" * 16

    assert places(verify_baseline(baseline)) == [(Code.CONTRACT_NOT_KEPT, f"{guard}.raw")]


@pytest.mark.parametrize("guard", ["rmt", "variance"])
def test_a_draw_measured_by_another_contract_is_named(guard: str, baseline: dict[str, Any]) -> None:
    baseline["draws"][0][guard]["measurement_contract_hash"] = "0" * 16

    assert places(verify_baseline(baseline)) == [(Code.CONTRACT_NOT_KEPT, f"draws[0].{guard}")]
    baseline["run_id"] = "0" * 16
    assert places(verify_baseline(baseline))[0] == (Code.BASELINE_CONTRADICTS_ITSELF, "run_id")
    assert len(verify_baseline(baseline)) == 2


def places(problems: list[Problem]) -> list[tuple[Code, str]]:
    """Return the code and the field of each problem."""
    return [(problem.code, problem.field) for problem in problems]


def called(report: dict[str, Any], label: str, source: str | None) -> None:
    """Make the edit of a report one that has a label and no spec."""
    edit: dict[str, Any] = {"name": "custom", "label": label, "spec": "custom", "parameters": {}}
    report["edit"] = edit if source is None else {**edit, "label_source": source}


@pytest.mark.parametrize(
    ("label", "source"),
    [("custom", None), ("custom", "given"), ("merge", "given"), ("gptq", "inferred"), ("hqq", "quantization_config")],
)
def test_an_edit_without_a_spec_may_have_a_label(report: dict[str, Any], label: str, source: str | None) -> None:
    called(report, label, source)

    assert verify_report(compose(strip(report))) == []


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        (lambda r: r["edit"].update(label="noop"), EDIT, "edit.label"),
        (lambda r: r["edit"].update(name="custom", spec="custom", parameters={}), EDIT, "edit.label"),
        (lambda r: called(r, "custom", "inferred"), EDIT, "edit.label_source"),
        (lambda r: called(r, "noop", "given"), EDIT, "edit.label"),
        (lambda r: called(r, "mine", "inferred"), EDIT, "edit.label"),
        (lambda r: r["edit"].update(label_source="given"), EDIT, "edit.name"),
        (lambda r: r["edit"]["parameters"].update(sparsity=0.25), EDIT, "edit.parameters.sparsity"),
        (lambda r: r["edit"].update(spec="noop"), EDIT, "edit.name"),
        (lambda r: r["edit"].update(spec="magnitude_prune:clean:ffn"), EDIT, "edit.spec"),
        (lambda r: r["edit"].update(spec="unknown:1"), EDIT, "edit.spec"),
        (lambda r: r["policy_provenance"].update(preset_sha256=None), RAW, "policy_provenance.preset_limits"),
        (lambda r: r["evaluation_windows"]["final"]["logloss"].pop(), RAW, "evaluation_windows.final"),
        (
            lambda r: r["evaluation_windows"]["final"]["window_ids"].__setitem__(
                0, r["evaluation_windows"]["preview"]["window_ids"][0]
            ),
            RAW,
            "evaluation_windows.final.window_ids[0]",
        ),
        (lambda r: r["dataset"]["windows"].update(final=99), RAW, "dataset.windows.final"),
        (lambda r: r["dataset"]["windows"].update(preview=99), RAW, "dataset.windows.preview"),
        (
            lambda r: r["rmt"]["raw"]["subject"].update(measurement_contract_hash="0" * 16),
            Code.CONTRACT_NOT_KEPT,
            "rmt.raw.subject",
        ),
        (
            lambda r: r["variance"]["raw"]["baseline"].update(measurement_contract_hash="0" * 16),
            Code.CONTRACT_NOT_KEPT,
            "variance.raw.baseline",
        ),
        (
            lambda r: next(iter(r["rmt"]["raw"]["subject"]["modules"].values())).update(tokens=1),
            RAW,
            "rmt.raw.subject.modules.*.tokens",
        ),
        (
            lambda r: next(iter(r["rmt"]["raw"]["subject"]["modules"].values())).update(features=1),
            RAW,
            "rmt.raw.subject.modules.*.features",
        ),
        (
            lambda r: next(iter(r["spectral"]["raw"]["subject"]["modules"].values())).update(family="other"),
            RAW,
            "spectral.raw.subject.modules.*.family",
        ),
        (
            lambda r: next(iter(r["invariants"]["raw"]["subject"]["tensors"].values())).update(family="other"),
            RAW,
            "invariants.raw.subject.tensors.*.family",
        ),
        (lambda r: r["spectral"]["raw"]["changes"].popitem(), RAW, "spectral.raw.changes.*"),
        (lambda r: r.update(equivalence=[moved("units")]), RAW, "spectral.raw.canonical"),
        (lambda r: r.update(equivalence=[moved("units"), moved("units")]), RAW, "equivalence"),
        (lambda r: r["spectral"]["raw"].update(canonical=same_matrices(r)), RAW, "spectral.raw.canonical"),
        (
            lambda r: (
                r.update(equivalence=[moved("names")]),
                r["spectral"]["raw"].update(canonical=same_matrices(r)),
            ),
            RAW,
            "spectral.raw.canonical",
        ),
        (
            lambda r: (
                r.update(equivalence=[moved("units")]),
                r["spectral"]["raw"].update(canonical=same_matrices(r, sigma=9.0)),
            ),
            RAW,
            "spectral.raw.canonical.baseline.*",
        ),
    ],
)
def test_raw_measurements_that_contradict_each_other_are_named(
    change: Callable[[Any], object], code: Code, field: str, report: dict[str, Any]
) -> None:
    change(report)

    found = verify_report(report)

    assert any(problem.code is code and fnmatch(problem.field, field.replace("[", "[[]")) for problem in found), found


def moved(kind: str) -> dict[str, Any]:
    """Return a difference that was removed before the weights were compared."""
    return {"kind": kind, "largest": None, "modules": []}


def same_matrices(report: dict[str, Any], **changed: float) -> dict[str, Any]:
    """Return the stored matrices in place of those in a common form, each with some values changed."""
    raw = report["spectral"]["raw"]
    rows = {side: copy.deepcopy(raw[side]["modules"]) for side in ("baseline", "subject")}
    for row in rows["baseline"].values():
        row.update(changed)
    return {**rows, "changes": copy.deepcopy(raw["changes"])}


def test_the_number_of_listed_problems_is_bounded(report: dict[str, Any]) -> None:
    for row in report["invariants"]["raw"]["subject"]["tensors"].values():
        row["family"] = "other"
    assert len(report["invariants"]["raw"]["subject"]["tensors"]) > MAX_PROBLEMS

    assert len(verify_report(report)) == MAX_PROBLEMS
    assert math.isclose(RELATIVE_TOLERANCE, 2e-12)
