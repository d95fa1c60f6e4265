"""``invarlock evaluate`` with results on tasks, and of a subject whose configuration computes something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_records import made_records
from shipped_checkpoints import EMBEDDED, write_baseline

from invarlock.cli import main
from invarlock.jsonio import dump_json
from invarlock.reports.derivation import compose, strip
from invarlock.reports.policy import overrides_of
from invarlock.reports.verification import verify_report

pytestmark = pytest.mark.slow

TEXT = EMBEDDED / "text" / "austen_heldout.txt.xz"
SMALL = ("--seq-len", "64", "--preview-windows", "8", "--final-windows", "16")


def evaluate(tmp_path: Path, *more: str) -> tuple[int, dict[str, Any]]:
    arguments = ["--baseline", str(tmp_path / "baseline"), "--subject", str(tmp_path / "subject"), *SMALL, *more]
    output = tmp_path / "out"
    code = main(["evaluate", *arguments, "--text", str(TEXT), "--output-dir", str(output)])
    report = output / "evaluation.report.json"
    return code, json.loads(report.read_bytes()) if report.is_file() else {}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for side in ("baseline", "subject"):
        write_baseline("mistral-tiny", tmp_path / side)
    return tmp_path


def test_records_that_are_named_are_judged_and_verify(folder: Path) -> None:
    path = folder / "records.json"
    path.write_bytes(dump_json(made_records(lost=100)))

    code, report = evaluate(folder, "--records", str(path))

    assert code == 1
    assert report["validation"]["tasks_regression_acceptable"] is False
    assert report["validation"]["primary_metric_acceptable"] is True
    assert report["tasks"]["overall"]["flips"] == {"lost": 100, "gained": 0}
    assert [reason.split(":")[0] for reason in report["assurance"]["blocking_reasons"]] == [
        "tasks_regression_acceptable"
    ]
    assert main(["verify", str(folder / "out/evaluation.report.json")]) == 0


def test_records_next_to_a_subject_are_found_and_a_config_that_computes_something_else_fails(folder: Path) -> None:
    (folder / "subject/task_records.json").write_bytes(dump_json(made_records(lost=0)))
    path = folder / "subject/config.json"
    config = json.loads(path.read_bytes())
    config["rope_parameters"]["rope_theta"] = 11000.0
    config["eos_token_id"] = 5
    path.write_text(json.dumps(config))

    code, report = evaluate(folder)

    assert code == 1
    assert report["tasks"]["status"] == "pass"
    assert report["validation"]["primary_metric_acceptable"] is True
    assert [(row["tensor"], row["severity"], row["reason"]) for row in report["invariants"]["violations"]] == [
        ("config.json", "warn", "eos_token_id is 5, in the baseline not set; it is used to generate text"),
        ("config.json", "fail", "rope_parameters.rope_theta is 11000.0, in the baseline 10000.0"),
    ]
    assert main(["verify", str(folder / "out/evaluation.report.json")]) == 0
    raw = strip(report)
    meant = compose({**raw, "policy_provenance": {**raw["policy_provenance"], "overrides": overrides_of("change")}})
    assert {row["severity"] for row in meant["invariants"]["violations"]} == {"warn"}
    assert meant["validation"]["invariants_pass"] is True
    assert verify_report(meant) == []


def test_records_that_are_malformed_are_refused_before_anything_is_measured(folder: Path) -> None:
    records = made_records(lost=0)
    records["tasks"][0]["subject"]["scores"][0] = 0.5
    (folder / "subject/task_records.json").write_bytes(dump_json(records))

    assert evaluate(folder) == (2, {})
