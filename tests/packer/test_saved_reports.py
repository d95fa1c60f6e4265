"""Reports on disk: resuming, judging and merging use the same checks, and each test violates one of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.runs.saved_reports import read_saved_report
from packs import edit_json

from invarlock.problems import Code

MODEL = "embedded__mistral-tiny"
Break = Callable[[Path], object]


@pytest.fixture
def report(run: Path) -> Path:
    return next(path for path in sorted(run.glob(f"{MODEL}/reports/**/evaluation.report.json")) if "noop" in str(path))


def scenario(run: Path, report: Path) -> dict[str, Any]:
    name = json.loads(report.read_bytes())["meta"]["scenario"]
    rows = json.loads((run / "state" / "scenarios.json").read_bytes())["scenarios"]
    row: dict[str, Any] = next(row for row in rows if row["id"] == name)
    return row


def test_a_report_that_a_run_left_has_no_problems(run: Path, report: Path) -> None:
    baseline = json.loads((run / MODEL / "baseline" / "evaluation.report.json").read_bytes())

    for known in (None, baseline):
        saved = read_saved_report(report, scenario(run, report), known)

        assert saved.problems == ()
        assert (saved.data, saved.document) == (report.read_bytes(), json.loads(report.read_bytes()))


BROKEN: dict[str, tuple[Break, Code]] = {
    "a derived number": (
        lambda path: edit_json(path, lambda document: document["primary_metric"].update(ratio_vs_baseline=0.5)),
        Code.NUMBER_DOES_NOT_FOLLOW,
    ),
    "half a file": (lambda path: path.write_bytes(path.read_bytes()[:1000]), Code.FILE_MALFORMED),
    "another report's manifest": (
        lambda path: edit_json(
            path.with_name("runtime.manifest.json"), lambda document: document["report"].update(sha256="0" * 64)
        ),
        Code.RUNTIME_MANIFEST_DIFFERS,
    ),
    "no manifest": (lambda path: path.with_name("runtime.manifest.json").unlink(), Code.FILE_MISSING),
    "another timing": (
        lambda path: edit_json(
            path.with_name("evaluate_timing.json"), lambda document: document.update({next(iter(document)): 1e9})
        ),
        Code.TIMING_DIFFERS,
    ),
    "no edit metadata": (lambda path: path.with_name("edit_metadata.json").unlink(), Code.FILE_MISSING),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_report_that_is_not_whole_or_does_not_follow_is_named(what: str, run: Path, report: Path) -> None:
    change, code = BROKEN[what]
    row = scenario(run, report)

    change(report)

    assert code in {problem.code for problem in read_saved_report(report, row).problems}


def test_a_report_of_another_baseline_is_named_where_the_baseline_is_known(run: Path, report: Path) -> None:
    baseline = json.loads((run / MODEL / "baseline" / "evaluation.report.json").read_bytes())
    baseline["baseline"]["digest"] = f"sha256:{'0' * 64}"

    found = read_saved_report(report, scenario(run, report), baseline).problems

    assert {problem.code for problem in found} == {Code.BASELINE_DIFFERS}
