"""The edit metadata next to a report: each field is derived from the report or its scenario, or is counted."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from invarlock.packer.verify.edit_records import edit_record_problems
from packs import SCENARIOS, STRESS

from invarlock.problems import Code

PATH = "reports/model/edit_metadata.json"
Documents = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]


@pytest.fixture
def documents(real_run: Any) -> Documents:
    """The destructive edit's metadata, report and scenario, which a test may change."""
    report = real_run.pack / STRESS
    metadata = json.loads(report.with_name("edit_metadata.json").read_bytes())
    rows = json.loads((real_run.pack / SCENARIOS).read_bytes())["scenarios"]
    document = json.loads(report.read_bytes())
    return metadata, document, next(row for row in rows if row["id"] == document["meta"]["scenario"])


def found(metadata: Any, report: Any, scenario: Any) -> list[tuple[Code, str]]:
    problems = list(edit_record_problems(PATH, metadata, report, scenario))
    assert {problem.where for problem in problems} <= {PATH}
    return [(problem.code, problem.field) for problem in problems]


def test_the_record_of_an_edit_follows_from_the_report(documents: Documents) -> None:
    assert found(*documents) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda m: m.update(scope="ffn"), "scope"),
        (lambda m: m.update(subject_digest=f"sha256:{'0' * 64}"), "subject_digest"),
        (lambda m: m.update(deployable_as_hf_checkpoint=not m["deployable_as_hf_checkpoint"]),
         "deployable_as_hf_checkpoint"),
        (lambda m: m["coverage"].update(total_params=m["coverage"]["total_params"] + 1), "coverage.total_params"),
        (lambda m: m["coverage"].update(edited_tensors=0), "coverage.edited_tensors"),
        (lambda m: m["coverage"].update(edited_tensors=10_000), "coverage.edited_tensors"),
        (lambda m: m["coverage"].update(edited_params=m["coverage"]["total_params"] + 1), "coverage.edited_params"),
    ],
)  # fmt: skip
def test_a_field_that_does_not_follow_is_named(
    change: Callable[[Any], object], field: str, documents: Documents
) -> None:
    change(documents[0])

    assert (Code.EDIT_METADATA_DIFFERS, field) in found(*documents)


def test_as_many_tensors_as_there_are_may_be_edited_and_none_more(documents: Documents) -> None:
    metadata, report, scenario = documents
    stored = len(report["invariants"]["raw"]["subject"]["tensors"])
    changed = report["invariants"]["metrics"]["changed_tensors"]
    assert changed < stored

    wrong = {}
    for number in (changed - 1, changed, stored, stored + 1):
        metadata["coverage"]["edited_tensors"] = number
        wrong[number] = [field for _, field in found(metadata, report, scenario)]

    field = ["coverage.edited_tensors"]
    assert wrong == {changed - 1: field, changed: [], stored: [], stored + 1: field}


@pytest.mark.parametrize(
    ("dtype", "counted"), [("F32", True), ("BF16", True), ("F8_E4M3", True), ("I64", False), ("U8", False)]
)
def test_numbers_of_a_baseline_that_are_not_floats_are_no_parameters(
    dtype: str, counted: bool, documents: Documents
) -> None:
    metadata, report, scenario = documents
    report["invariants"]["raw"]["baseline"]["tensors"]["more"] = {"dtype": dtype, "shape": [7, 3]}

    assert ((Code.EDIT_METADATA_DIFFERS, "coverage.total_params") in found(metadata, report, scenario)) is counted


def test_every_parameter_may_be_edited(documents: Documents) -> None:
    coverage = documents[0]["coverage"]
    coverage.update(edited_params=coverage["total_params"], coverage_ratio=1.0)

    assert found(*documents) == []


def test_malformed_records_and_records_of_no_scenario_are_problems(documents: Documents) -> None:
    metadata, report, scenario = documents

    assert found(metadata, report, None) == [(Code.EDIT_METADATA_DIFFERS, "")]
    assert {code for code, _ in found({}, report, scenario)} == {Code.EDIT_METADATA_MALFORMED}
    assert {code for code, _ in found([], report, scenario)} == {Code.EDIT_METADATA_MALFORMED}


@pytest.mark.parametrize(("key", "value"), [("deployable_as_hf_checkpoint", True),
                                            ("optimized_deployment_backend", "awq")])  # fmt: skip
def test_scenario_and_metadata_agree_about_the_subject(key: str, value: Any, documents: Documents) -> None:
    metadata, report, scenario = documents
    assert metadata[key] != value
    scenario[key] = value

    assert (Code.EDIT_METADATA_DIFFERS, key) in found(metadata, report, scenario)


def test_the_source_of_a_label_is_named(documents: Documents) -> None:
    metadata, report, scenario = documents
    report["edit"]["label_source"] = "declared"

    assert found(metadata, report, scenario) != []
