"""Limits of a tier fitted to null runs and reports: exact on null runs made by hand, and each file's reason."""

from __future__ import annotations

import json
import math
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nulls import null_run, without_previews

from invarlock.errors import MissingFileError, UsageError
from invarlock.jsonio import dump_json
from invarlock.reports.tier_fitting import FEW, fit_tier, proposal_lines

KEPT = Path(__file__).parents[2] / "data/kept_packs/0.1.0.tar.xz"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def kept_reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    """Return the reports of a sealed pack by the name of their edit."""
    folder = tmp_path_factory.mktemp("kept")
    with tarfile.open(KEPT) as archive:
        archive.extractall(folder, filter="data")
    reports = [json.loads(path.read_bytes()) for path in folder.rglob("evaluation.report.json")]
    return {report["edit"]["name"]: report for report in reports if "edit" in report}


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, Any], Path]:
    def write(name: str, document: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(document if isinstance(document, bytes) else dump_json(document))
        return path

    return write


def rows(proposal: Json) -> dict[str, Json]:
    return {row["limit"]: row for row in proposal["limits"]}


def test_limits_follow_from_null_runs(put: Callable[[str, Any], Path], tmp_path: Path) -> None:
    put("a/null_run_1.json", null_run(1, (-0.002, 0.001, 0.002), (0.0, 0.02, 0.04)).document)
    put("b/null_run_2.json", null_run(2, (0.0, 0.003, 0.005), (0.0, 0.01, 0.03), preview_delta=0.1).document)

    proposal = fit_tier(tmp_path, "balanced")

    found = rows(proposal)
    assert (proposal["tier"], proposal["left_out"]) == ("balanced", [])
    assert [source["path"] for source in proposal["sources"]] == ["a/null_run_1.json", "b/null_run_2.json"]
    # six log ratios, once for each of two matrices; 1.1 times their quantile
    deadband = found["spectral.deadband_ratio"]
    assert (deadband["n"], deadband["change"]) == (12, "tighter, few values")
    assert deadband["observed"] == pytest.approx(0.005, rel=1e-3)
    assert deadband["proposed"] == pytest.approx(math.exp(1.1 * deadband["observed"]))
    # two families of three changes in each run; 97.5 % of 0, 0, 0.01, 0.02, 0.03, 0.04, each twice
    growth = found["rmt.epsilon"]
    assert (growth["n"], growth["observed"]) == (12, pytest.approx(0.04))
    assert growth["proposed"] == pytest.approx(0.044)
    assert found["rmt.probe_epsilon"]["n"] == 12
    # the preview of the second run lost 0.1 nats: its final text was better by as much
    assert found["primary_metric.drift_band"]["n"] == 6
    assert found["primary_metric.drift_band"]["observed"] == pytest.approx(0.1, rel=1e-6)
    assert found["primary_metric.drift_band"]["proposed"] == pytest.approx([math.exp(-0.11), math.exp(0.11)])
    assert found["primary_metric.ratio_limit"] == {
        "limit": "primary_metric.ratio_limit", "present": pytest.approx(1.1), "n": 0, "observed": None,
        "proposed": None, "change": "nothing measured",
    }  # fmt: skip


def test_what_a_passing_report_measured_counts_and_a_fault_does_not(
    put: Callable[[str, Any], Path], tmp_path: Path, kept_reports: dict[str, Json]
) -> None:
    put("clean/evaluation.report.json", kept_reports["noop"])
    put("again/evaluation.report.json", kept_reports["noop"])
    faults = [name for name in kept_reports if name.endswith("_injection")]
    put("fault/evaluation.report.json", kept_reports[faults[0]])
    put("baseline/evaluation.report.json", {"draws": {}})
    changed = json.loads(dump_json(kept_reports["noop"]))
    changed["primary_metric"]["ratio_vs_baseline"] = 2.0
    put("changed/evaluation.report.json", changed)

    proposal = fit_tier(tmp_path, "balanced")

    # the second of two equal files is not counted twice, and a baseline's own report is neither used nor refused
    assert [source["path"] for source in proposal["sources"]] == ["again/evaluation.report.json"]
    reasons = {row["path"].partition("/")[0]: row["reason"] for row in proposal["left_out"]}
    assert reasons.keys() == {"fault", "changed"}
    assert reasons["fault"] == f"a fault ({faults[0]})"
    assert reasons["changed"].startswith("does not verify: ")
    found = rows(proposal)
    assert found["primary_metric.ratio_limit"]["n"] == 1
    # the same losses: a limit of no change at all
    assert found["primary_metric.ratio_limit"]["proposed"] == pytest.approx(1.0)
    assert found["primary_metric.ratio_limit"]["change"] == "tighter, few values"
    assert found["spectral.null_scale"]["change"] == "nothing measured"


def test_a_file_that_cannot_be_used_is_listed_with_its_reason(
    put: Callable[[str, Any], Path], tmp_path: Path, kept_reports: dict[str, Json]
) -> None:
    put("null_run_1.json", null_run(1).document)
    put("null_run_2.json", [1, 2])
    put("null_run_3.json", b"{")
    put("null_run_4.json", {**null_run(4).document, "run": 0})
    other = json.loads(dump_json(null_run(5).document))
    other["windows"]["final"]["logloss"][0] = math.pi * 1e5
    put("null_run_5.json", other)
    (tmp_path / "null_run_6.json").mkdir()
    failing = [report for report in kept_reports.values() if report["assurance"]["verdict"] != "PASS"]
    destructive = next(report for report in failing if not report["edit"]["name"].endswith("_injection"))
    put("stress/evaluation.report.json", destructive)

    proposal = fit_tier(tmp_path, "conservative")

    reasons = {row["path"]: row["reason"] for row in proposal["left_out"]}
    assert reasons.pop("null_run_2.json") == "not an object"
    assert "null_run_3.json" in reasons.pop("null_run_3.json")
    assert "null run" in reasons.pop("null_run_4.json")
    assert reasons.pop("null_run_5.json")
    assert "null_run_6.json" in reasons.pop("null_run_6.json")
    assert list(reasons.values()) == ["does not pass"]
    assert len(proposal["sources"]) == 1


def test_a_folder_without_measurements_is_refused(put: Callable[[str, Any], Path], tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such folder"):
        fit_tier(tmp_path / "none", "balanced")
    with pytest.raises(MissingFileError, match="nothing to fit"):
        fit_tier(tmp_path, "balanced")
    put("null_run_2.json", [1, 2])
    with pytest.raises(MissingFileError, match="such as not an object"):
        fit_tier(tmp_path, "balanced")
    with pytest.raises(UsageError, match="tier"):
        fit_tier(tmp_path, "strictest")


def test_null_runs_without_preview_windows_have_no_drift_to_fit(
    put: Callable[[str, Any], Path], tmp_path: Path
) -> None:
    put("null_run_1.json", without_previews(null_run(1, (-0.002, 0.001, 0.002))).document)

    proposal = fit_tier(tmp_path, "balanced")

    assert proposal["left_out"] == []
    assert rows(proposal)["spectral.deadband_ratio"]["n"] == 6
    assert (
        rows(proposal)["primary_metric.drift_band"]["n"],
        rows(proposal)["primary_metric.drift_band"]["observed"],
    ) == (0, None)


def test_thirty_nine_values_are_few_and_forty_are_not(
    put: Callable[[str, Any], Path], tmp_path: Path, kept_reports: dict[str, Json]
) -> None:
    # three of the drift in each null run, and one in a report
    for run in range(1, 14):
        put(f"null_run_{run}.json", null_run(run).document)
    before = rows(fit_tier(tmp_path, "balanced"))["primary_metric.drift_band"]

    put("evaluation.report.json", kept_reports["noop"])
    after = rows(fit_tier(tmp_path, "balanced"))["primary_metric.drift_band"]

    assert [(row["n"], row["change"]) for row in (before, after)] == [(39, "tighter, few values"), (40, "tighter")]


def test_a_proposal_is_shown_as_a_table(put: Callable[[str, Any], Path], tmp_path: Path) -> None:
    for run in range(1, 8):
        put(f"null_run_{run}.json", null_run(run, (0.0, 0.1, 0.2), (0.0, 0.2, 0.4), preview_delta=0.9).document)

    proposal = fit_tier(tmp_path, "balanced")

    # 42 values are no longer few
    found = rows(proposal)
    assert (found["rmt.epsilon"]["n"], found["rmt.epsilon"]["change"]) == (42, "looser")
    assert found["rmt.epsilon"]["n"] >= FEW > found["primary_metric.drift_band"]["n"]
    assert found["primary_metric.drift_band"]["change"] == "looser, few values"
    lines = list(proposal_lines(proposal))
    assert lines[0].split() == ["limit", "present", "proposed", "values"]
    assert next(line for line in lines if line.startswith("rmt.epsilon ")).split() == [
        "rmt.epsilon", f"{found['rmt.epsilon']['present']:.4g}", "0.44", "42", "looser",
    ]  # fmt: skip
    assert " to " in next(line for line in lines if line.startswith("primary_metric.drift_band"))
    assert next(line for line in lines if line.startswith("primary_metric.ratio_limit")).split() == [
        "primary_metric.ratio_limit", "1.1", "-", "0", "nothing", "measured",
    ]  # fmt: skip
    assert lines[-1] == "fitted to 7 files, 0 not used; the tier is unchanged"
    assert len(lines) == len(proposal["limits"]) + 2
