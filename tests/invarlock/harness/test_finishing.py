"""The end of a run: what its settings require of the pack, and what the run leaves if a requirement is not met."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.runs.run_directory import RunDirectory

from invarlock.catalog.models import read_models
from invarlock.catalog.scenarios import read_scenarios
from invarlock.harness.ending.finishing import Ending, finish_run
from invarlock.harness.selection.mark_expressions import MarkExpression
from invarlock.harness.selection.selected_cases import make_catalog
from invarlock.harness.state.run import Run
from invarlock.jsonio import read_json
from invarlock.settings import resolve_settings

SUITES = Path(__file__).parents[3] / "suites"


def end(directory: Path, key: Path, **options: Any) -> Ending:
    """Repeat the end of a run whose cases are done."""
    settings = resolve_settings({"signing_key": str(key), **options}, {})
    catalog = make_catalog(
        read_models(SUITES / "models.toml"),
        read_scenarios(SUITES / "scenarios.json"),
        MarkExpression.parse(""),
        [],
        settings,
    )
    run = Run(SUITES, settings, catalog, RunDirectory(directory), 1, datetime.now(UTC), {})
    return finish_run(run, read_json(directory / "state" / "pytest_report.json"), interrupted=False)


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ("noop_control", "no pack was built: --release-review requires PASS, but the verdict is FAIL"),
        # the run was on the host, under the profile dev
        (None, "no pack was built: the pack would not verify: manifest.json: "),
    ],
)
def test_a_release_review_that_is_not_met_leaves_no_pack(
    run: Path, real_run: Any, lost: str | None, reason: str
) -> None:
    if lost is not None:
        shutil.rmtree(run / "embedded__mistral-tiny/reports" / lost)

    ending = end(run, real_run.key_path, release_review=True)

    assert (ending.passed, reason in ending.lines[-1]) == (False, True), ending.lines
    assert not (run / "evidence_pack").exists()
    assert read_json(run / "reports/final_verdict.json")["verdict"] == ("PASS" if lost is None else "FAIL")


def test_without_report_assurance_pack_and_terminal_say_so(run: Path, real_run: Any) -> None:
    ending = end(run, real_run.key_path, report_assurance="off")

    assert ending.passed
    assert (
        "reports:        not verified in the pack, only checksums were checked (--report-assurance off)" in ending.lines
    )
    assert " --report-assurance off --expected-fingerprint sha256:" in ending.lines[-1]
    assert "--strict" not in ending.lines[-1]
    manifest = read_json(run / "evidence_pack/manifest.json")
    assert manifest["verification"]["report_assurance"] == "off"


def test_pages_that_are_missing_or_stale_are_rendered_at_the_end(run: Path, real_run: Any) -> None:
    missing, stale, kept = sorted(run.glob("embedded__*/reports/**/evaluation.html"))
    wanted = [path.read_bytes() for path in (missing, stale, kept)]
    missing.unlink()
    stale.write_bytes(b"<html></html>")
    before = kept.stat().st_mtime_ns

    ending = end(run, real_run.key_path, no_pack=True)

    assert ending.passed
    assert [path.read_bytes() for path in (missing, stale, kept)] == wanted
    assert kept.stat().st_mtime_ns == before
