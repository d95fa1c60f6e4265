"""Task records in a report: sealed in a pack, derived again, and checked leaf by leaf."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from packs import REPORT, Path_, change, forge, leaves, pack_files, places, put, strict
from task_files import restore_files

from invarlock.jsonio import check_schema, dump_json
from invarlock.reports.derivation import compose, strip
from invarlock.reports.rendering import render_report
from invarlock.reports.verification import verify_report
from invarlock.task_records.importing import import_records

pytestmark = pytest.mark.slow

# Leaves of records from which nothing is derived, each with the reason.
FREE = {"sources": "raw: which files the records were read from", "tool": "raw: what wrote those files"}


@pytest.fixture
def records(tmp_path: Path) -> Any:
    kept = restore_files(tmp_path / "kept")
    return import_records([kept / "lm_eval/baseline"], [kept / "lm_eval/subject"])


@pytest.fixture
def report(real_run: Any, records: dict[str, Any]) -> Any:
    raw = strip(json.loads((real_run.pack / REPORT).read_bytes()))
    return compose(json.loads(dump_json({**raw, "task_records": records})))


def few(report: dict[str, Any], samples: int) -> Any:
    """Return a report with only the first samples of each task."""
    raw = copy.deepcopy(strip(report))
    for row in raw["task_records"]["tasks"]:
        for key in ("samples", "targets", "prompts"):
            row[key] = row[key][:samples]
        for side in ("baseline", "subject"):
            row[side] = {key: values and values[:samples] for key, values in row[side].items()}
    return compose(raw)


def test_a_report_with_records_verifies_and_says_what_they_are(report: dict[str, Any]) -> None:
    check_schema(report, "evaluation_report", where="report")

    assert verify_report(report) == []
    assert [row["task"] for row in report["tasks"]["tasks"]] == ["next_word", "next_words"]
    assert report["validation"]["tasks_interval_acceptable"] is False  # 80 samples
    assert report["assurance"]["verdict"] == "FAIL"
    page = render_report(report, "0" * 64).decode()
    assert "Tasks: scores of the subject minus those of the baseline" in page
    assert "next_words" in page


def test_every_leaf_of_records_is_bound_or_listed(report: dict[str, Any]) -> None:
    small = few(report, 3)
    assert verify_report(small) == []

    unbound = {path for path in leaves(small["task_records"]) if not verify_report(changed(small, path))}

    assert {path[0] for path in unbound} == set(FREE) - {"tool"}
    assert all(path[0] in FREE for path in unbound)


def changed(report: dict[str, Any], path: Path_) -> dict[str, Any]:
    other = json.loads(dump_json(report))
    change(other["task_records"], path)
    return dict(other)


@pytest.mark.parametrize("field", ["overall", "tasks", "samples_sha256", "status"])
def test_a_derived_number_that_was_changed_does_not_follow(report: dict[str, Any], field: str) -> None:
    for path in leaves(report["tasks"][field]):
        evil = json.loads(dump_json(report))
        change(evil["tasks"], (field, *path))
        assert any(problem.field.startswith("tasks") for problem in verify_report(evil)), path


def test_records_in_a_pack_are_derived_again(real_run: Any, report: dict[str, Any], pack: Path) -> None:
    files = pack_files(pack)
    evil = json.loads(dump_json(report))
    evil["task_records"]["tasks"][1]["subject"]["scores"][0] = (
        1 - evil["task_records"]["tasks"][1]["subject"]["scores"][0]
    )
    for name, data in forge(files, REPORT, dump_json(evil), real_run.key).items():
        put(pack / name, data)

    result = strict(pack)

    assert result.code == 7
    assert any(where == REPORT and "task_records" in field for _, where, field in places(result))
