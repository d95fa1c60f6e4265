"""Packs with part of a run: the report of one case, although the verdict is about several."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.build.building import build_pack
from packs import FAULT, REPORT, STRESS, TIME, VERDICT, content, edit_json, strict
from processes import packer

from invarlock.errors import ReportError

Reseal = Callable[[Path], None]


def report_of(run: Path, path: str) -> Path:
    model = path.split("/")[1]
    return run / model / path.replace(f"reports/{model}/", "reports/")


@pytest.fixture
def partial(run: Path, real_run: Any, tmp_path: Path) -> Path:
    """A pack with only the clean report of a run, built by the command."""
    done = packer(
        "build", tmp_path / "partial", "--final-verdict", run / "reports/final_verdict.json",
        "--report", report_of(run, REPORT), "--signing-key", real_run.key_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0,
        f"built {tmp_path / 'partial'}: verdict not derived: the pack has 1 of 3 cases",
    ), done.stderr
    return tmp_path / "partial"


def test_the_quick_start_works_as_it_is_written(run: Path, tmp_path: Path) -> None:
    folder = Path(os.path.relpath(report_of(run, REPORT), tmp_path))
    state = Path(os.path.relpath(run / "state", tmp_path))

    made = packer("keygen", "./tmp/evidence_pack_signing_key.pem", cwd=tmp_path)
    built = packer(
        "build", "./tmp/evidence_pack", "--final-verdict", state.parent / "reports/final_verdict.json",
        "--source-repo", state / "source_repo.json", "--environment", state / "environment.json",
        "--material", f"model_revisions={state / 'model_revisions.json'}", "--report", folder,
        "--signing-key", "./tmp/evidence_pack_signing_key.pem", cwd=tmp_path,
    )  # fmt: skip
    read = packer("verify", "./tmp/evidence_pack", "--strict", "--report-assurance", "report", cwd=tmp_path)

    assert (made.returncode, built.returncode, read.returncode) == (0, 0, 0), made.stderr + built.stderr + read.stderr
    assert (tmp_path / "tmp").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "tmp/evidence_pack_signing_key.pem").stat().st_mode & 0o777 == 0o600


def test_a_pack_of_one_report_says_first_that_its_verdict_is_not_derived(partial: Path) -> None:
    result = strict(partial)
    text = packer("verify", partial, "--strict").stdout.splitlines()

    assert (result.code, result.verdict, result.reports_verified) == (0, "NOT_DERIVED", True)
    assert text[1:3] == [
        "verdict not derived: the pack has 1 of 3 cases",
        "covered: 1 edit that must pass, on 1 model",
    ]
    assert "whether a fault is detected" in text[3]
    assert "verdict PASS" in result.missing_for_strong
    assert strict(partial, require_pass=True).code == 7
    verdict = json.loads((partial / VERDICT).read_bytes())
    assert verdict["not_bundled"] == ["mistral-tiny-nan_injection-run1", "mistral-tiny-prune_50pct_stress-run1"]
    assert (verdict["failed_requirements"], verdict["missing"]) == ([], {"by_model": {}})
    assert "**Verdict not derived: the pack has 1 of 3 cases**" in (partial / "README.md").read_text()
    assert (
        (partial / "results/final_verdict.txt")
        .read_text()
        .startswith("Verdict: not derived: the pack has 1 of 3 cases")
    )
    assert json.loads((partial / "manifest.json").read_bytes())["evidence_level"] == "medium"


def test_bundled_files_are_verified(partial: Path, reseal: Reseal) -> None:
    edit_json(partial / REPORT, lambda report: report["primary_metric"].update(ratio_vs_baseline=0.5))
    reseal(partial)

    assert strict(partial).code == 7


@pytest.mark.parametrize(
    "change",
    [
        lambda verdict: verdict.update(verdict="PASS"),
        lambda verdict: verdict.update(not_bundled=verdict["not_bundled"][:1]),
        lambda verdict: verdict["not_bundled"].append("mistral-tiny-noop_control-run1"),
        lambda verdict: verdict.update(not_bundled={"a": 1}),
        lambda verdict: verdict.update(not_bundled=[["a"]]),
        lambda verdict: verdict.pop("not_bundled"),
    ],
)
def test_files_that_are_not_bundled_are_checked(partial: Path, reseal: Reseal, change: Callable[[Any], object]) -> None:
    edit_json(partial / VERDICT, change)
    reseal(partial)

    assert strict(partial).code == 7


def test_a_report_that_is_taken_out_of_a_whole_pack_still_fails_it(pack: Path, reseal: Reseal) -> None:
    shutil.rmtree((pack / FAULT).parent)
    reseal(pack)

    assert strict(pack).code == 7


def test_a_verdict_without_a_record_of_a_given_report_is_refused(run: Path, real_run: Any, tmp_path: Path) -> None:
    whole = content(run)
    files = {path: data for path, data in whole.files.items() if "noop_control" not in path}
    files.pop("metadata/pytest_report.json")
    claimed = {"records": [{"path": REPORT}], "timestamp": TIME}

    with pytest.raises(ReportError, match=f"no record for {FAULT}"):
        build_pack(tmp_path / "pack", replace(whole, files=files, claimed_verdict=claimed), real_run.key, TIME)


def test_a_verdict_that_contradicts_the_given_report_is_refused(run: Path, real_run: Any, tmp_path: Path) -> None:
    edit_json(run / "reports/final_verdict.json", lambda verdict: verdict["records"][2].update(ratio_vs_baseline=2.0))

    done = packer(
        "build", tmp_path / "partial", "--final-verdict", run / "reports/final_verdict.json",
        "--report", report_of(run, STRESS), "--signing-key", real_run.key_path,
    )  # fmt: skip

    assert (done.returncode, len(done.stderr.splitlines())) == (7, 1)
    assert "ratio_vs_baseline: 2.0, derived" in done.stderr
    assert not (tmp_path / "partial").exists()


@pytest.mark.parametrize("content", ["[]", "{}", '{"records": {}}', '{"records": [1]}', "null"])
def test_a_malformed_verdict_is_refused(run: Path, tmp_path: Path, content: str) -> None:
    (run / "reports/final_verdict.json").write_text(content)

    done = packer(
        "build", tmp_path / "partial", "--final-verdict", run / "reports/final_verdict.json",
        "--report", report_of(run, REPORT),
    )  # fmt: skip

    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "not a final_verdict.json" in done.stderr


@pytest.mark.parametrize(
    ("lost", "option"),
    [
        ("embedded__mistral-tiny/baseline", "--baseline"),
        ("presets", "--presets"),
        ("state/scenarios.json", "--scenarios"),
    ],
)
def test_what_the_run_directory_lacks_is_named_by_its_option(run: Path, tmp_path: Path, lost: str, option: str) -> None:
    gone = run / lost
    if gone.is_dir():
        shutil.rmtree(gone)
    else:
        gone.unlink()

    done = packer(
        "build", tmp_path / "partial", "--final-verdict", run / "reports/final_verdict.json",
        "--report", report_of(run, REPORT),
    )  # fmt: skip

    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert option in done.stderr
