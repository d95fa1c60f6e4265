"""The code and the place of problems that no attack of the catalogue causes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.verify import reports as claims
from packs import REPORT, SCENARIOS, edit_json, places, strict

from invarlock.output import output_error
from invarlock.problems import Code

Reseal = Callable[[Path], None]


def test_a_signer_that_the_trust_store_does_not_have(pack: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.json"
    store.write_text(json.dumps([f"sha256:{'0' * 64}"]))

    found = strict(pack, trust_store=store)

    assert places(found) == [(Code.SIGNER_UNKNOWN, "manifest.signature.json", "")]
    assert (found.code, found.authenticity) == (5, "mismatch")


def test_a_malformed_attestation(pack: Path) -> None:
    (pack / "manifest.attestation.json").write_text("{}")

    found = strict(pack)

    assert {place[:2] for place in places(found)} == {(Code.ATTESTATION_MALFORMED, "manifest.attestation.json")}
    assert found.code == 5


def test_a_report_without_its_edit_metadata(pack: Path, reseal: Reseal) -> None:
    path = REPORT.replace("evaluation.report", "edit_metadata")
    (pack / path).unlink()
    reseal(pack)

    found = strict(pack)

    assert places(found) == [(Code.EDIT_METADATA_MISSING, path, "")]
    assert found.code == 6


def test_reports_without_a_plan(pack: Path, reseal: Reseal) -> None:
    (pack / SCENARIOS).unlink()
    edit_json(pack / "manifest.json", lambda manifest: manifest.update(materials=[]))
    reseal(pack)

    found = strict(pack)

    assert (Code.PLAN_MISSING, SCENARIOS, "") in places(found)
    assert found.code == 7


def test_reports_of_another_suite_than_was_planned(pack: Path, reseal: Reseal) -> None:
    edit_json(pack / SCENARIOS, lambda scenarios: scenarios["selection"].update(suite="full"))
    reseal(pack)

    assert (Code.PLAN_DIFFERS, REPORT, "context.suite") in places(strict(pack))


def test_more_reports_than_a_receiver_looks_at(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "MAX_REPORTS", 2)

    found = strict(pack)

    assert places(found)[0] == (Code.TOO_MANY_REPORTS, "", "")
    assert (found.code, found.reports_verified) == (7, False)


def test_output_that_cannot_be_written() -> None:
    error: Any = output_error(OSError("no space"))

    assert (error.code, error.exit_code) == (Code.OUTPUT_UNWRITABLE, 2)
