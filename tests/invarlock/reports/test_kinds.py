"""The reports of a comparison and of its baseline have the same file name; each is named if given for the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from packs import BASELINE, REPORT

from invarlock.cli import main
from invarlock.errors import DocumentError
from invarlock.reports.kinds import Kind, check_report

FILES: dict[Kind, str] = {"evaluation_report": REPORT, "baseline_report": BASELINE}
SAID = {
    "evaluation_report": "one folder above",
    "baseline_report": "the folder baseline next to this report",
}


@pytest.fixture
def documents(real_run: Any) -> dict[Kind, Any]:
    return {kind: json.loads((real_run.pack / path).read_bytes()) for kind, path in FILES.items()}


@pytest.mark.parametrize(("kind", "other"), [tuple(FILES), tuple(FILES)[::-1]])
def test_a_report_of_the_other_kind_is_named(documents: dict[Kind, Any], kind: Kind, other: Kind) -> None:
    check_report(documents[kind], kind, where="mine.json")

    with pytest.raises(DocumentError, match=SAID[kind]) as caught:
        check_report(documents[other], kind, where="mine.json")

    assert str(caught.value).startswith("mine.json: ")


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("document", [None, [], {}, {"baseline_ref": 1, "draws": 1}])
def test_what_is_of_neither_kind_is_described_by_its_schema(kind: Kind, document: Any) -> None:
    with pytest.raises(DocumentError, match=f"does not match the {kind} format"):
        check_report(document, kind, where="mine.json")


def test_the_commands_say_which_report_they_need(real_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pack: Path = real_run.pack
    own, compared = str(pack / BASELINE), str(pack / REPORT)
    for arguments, code, words in (
        (["verify", compared, "--baseline-report", own], 0, "verified"),
        (["verify", compared, "--baseline-report", compared], 2, SAID["baseline_report"]),
        (["diff", compared, compared], 0, "0 have another result"),
    ):
        assert main(arguments) == code
        printed = capsys.readouterr()
        assert words in printed.out + printed.err
