"""The differences between two reports outside a pack."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from html_pages import Page
from invarlock.packer.cli import main
from invarlock.packer.report_diffing import diff_reports, render_report_diff, render_report_diff_page
from packs import FAULT, REPORT, STRESS

from invarlock.digests import sha256_hex
from invarlock.jsonio import dump_json
from invarlock.reports.derivation import compose, strip
from invarlock.reports.rendering import render_report
from invarlock.reports.sidecars import PAGE_NAME, REPORT_NAME

SAME = "9 gates compared, 0 have another result"
HOSTILE = "</td>\"'><script>alert(1)</script>&\x1b[31m\u202e"


@pytest.fixture
def reports(real_run: Any, tmp_path: Path) -> tuple[Path, Path]:
    """Copy a report that passes and a report that fails into folders of their own, with their pages."""
    return tuple(
        report_in(tmp_path / name, json.loads((real_run.pack / path).read_bytes()))
        for name, path in (("passing", REPORT), ("failing", STRESS))
    )  # type: ignore[return-value]


def report_in(folder: Path, document: Any) -> Path:
    """Write a report and its page, as ``evaluate`` does."""
    folder.mkdir()
    data = dump_json(document)
    (folder / REPORT_NAME).write_bytes(data)
    (folder / PAGE_NAME).write_bytes(render_report(document, sha256_hex(data)))
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["diff", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_report_does_not_differ_from_itself(reports: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, reports[0], reports[0] / REPORT_NAME)

    lines = out.splitlines()
    assert (code, lines[0], lines[-1]) == (
        0,
        "verdict: PASS, in both reports",
        SAME,
    )
    assert [line.endswith(", in both reports") for line in lines] == [True, True, True, False]


def test_verdict_subject_gates_and_measurements_are_compared(
    reports: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [json.loads((folder / REPORT_NAME).read_bytes()) for folder in reports]

    text = said(capsys, *reports)[1].splitlines()
    code, out, _ = said(capsys, *reports, "--json")

    diff = json.loads(out)
    assert (code, diff["verdicts"], text[0]) == (0, ["PASS", "FAIL"], "verdict: PASS -> FAIL")
    digests = [document["subject"]["digest"] for document in documents]
    assert all(digest.startswith(shown.split()[-1]) for digest, shown in zip(digests, diff["subjects"], strict=True))
    assert len(set(diff["baselines"])) == 1
    (row,) = [row for row in diff["gates"] if row["gate"] == "primary_metric_acceptable"]
    assert row["results"] == ["passed", "failed"]
    assert f"primary_metric_acceptable: passed -> failed; {' -> '.join(row['measured'])}" in text
    ratios = [document["primary_metric"]["ratio_vs_baseline"] for document in documents]
    assert diff["measurements"]["ratio_vs_baseline"] == ratios
    other = sum(row["results"][0] != row["results"][1] for row in diff["gates"])
    assert text[-1].startswith(f"9 gates compared, {other} ")


def test_the_first_gates_are_those_with_another_result(real_run: Any) -> None:
    first, second = (json.loads((real_run.pack / path).read_bytes()) for path in (REPORT, STRESS))

    diff = diff_reports(first, second)

    lines = [line for line in render_report_diff(diff) if "_acceptable: " in line or "_stable: " in line]
    results = [" in both; " in line for line in lines]
    assert results == sorted(results)


def test_other_limits_conditions_and_missing_gates_are_shown(real_run: Any) -> None:
    first = json.loads((real_run.pack / REPORT).read_bytes())
    raw = json.loads(dump_json(strip(copy.deepcopy(first))))
    raw["policy_provenance"]["overrides"] = {"fidelity.intent": "change"}
    second = json.loads(dump_json(compose(raw)))

    diff = diff_reports(first, second)
    lines = render_report_diff(diff)

    assert diff["conditions"]["overrides"] == [[], ["fidelity.intent change"]]
    assert "overrides: none -> fidelity.intent change" in lines
    assert "fidelity_kl_acceptable: passed -> no gate" in lines
    raw["policy_provenance"]["overrides"] = {"primary_metric.ratio_limit": 1.5}
    stricter = diff_reports(first, json.loads(dump_json(compose(raw))))
    assert any(
        line.endswith("; limit 1.1 for the upper end -> 1.5 for the upper end") for line in render_report_diff(stricter)
    )


def test_a_subject_that_was_not_scored_is_compared(real_run: Any) -> None:
    first, second = (json.loads((real_run.pack / path).read_bytes()) for path in (REPORT, FAULT))

    diff = diff_reports(first, second)

    assert diff["measurements"]["ratio_vs_baseline"][1] is None
    assert any(
        line.startswith("ratio_vs_baseline: ") and line.endswith(" -> none") for line in render_report_diff(diff)
    )


def test_a_report_that_does_not_verify_is_not_compared(
    reports: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = reports[1] / REPORT_NAME
    document = json.loads(path.read_bytes())
    document["primary_metric"]["ratio_vs_baseline"] = 1.0
    path.write_bytes(dump_json(document))

    code, out, err = said(capsys, *reports)
    as_json = said(capsys, *reports, "--json")

    assert (code, out) == (7, "")
    assert err.startswith(f"{path}: NOT VERIFIED\n  primary_metric.ratio_vs_baseline")
    assert (as_json[0], json.loads(as_json[1])["summary"]["ok"]) == (7, False)


def test_a_report_and_a_pack_are_not_compared(
    real_run: Any, reports: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = {
        (reports[0], real_run.pack): (2, "give two packs or two reports [options_conflict]"),
        (reports[0], real_run.pack / "manifest.json"): (2, "belongs to the pack"),
        (reports[0], tmp_path / "none"): (3, "no such file or folder"),
        (*reports, "--allow-unsigned"): (2, "an option of packs"),
    }
    for arguments, (expected, words) in refused.items():
        code, _, err = said(capsys, *arguments)
        assert (code, words in err) == (expected, True), err


def test_a_report_of_a_pack_is_compared_with_a_report(
    real_run: Any, reports: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = said(capsys, reports[0], real_run.pack / REPORT)

    assert (code, out.splitlines()[-1]) == (0, SAME)


def test_the_differences_are_a_page(
    reports: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "diff.html"

    code, out, _ = said(capsys, *reports, "--html", page)

    text = Page(page.read_bytes()).text
    assert (code, out.splitlines()[-1]) == (0, f"page: {page}")
    shown = [
        "InvarLock comparison of two reports",
        "Gates that differ",
        "primary_metric_acceptable",
        "ratio vs baseline",
    ]
    assert [words for words in shown if words not in text] == []


def test_no_text_of_a_report_makes_markup(real_run: Any) -> None:
    first, second = (json.loads((real_run.pack / path).read_bytes()) for path in (REPORT, STRESS))
    diff = diff_reports(first, second)

    def hostile(value: Any) -> Any:
        if isinstance(value, dict):
            return {f"{HOSTILE}{key}" if key == "text" else key: hostile(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [hostile(inner) for inner in value]
        return f"{value}{HOSTILE}" if isinstance(value, str) and value not in ("passed", "failed", "warns") else value

    page = Page(data := render_report_diff_page(hostile(diff), ("one", HOSTILE)))

    assert {"script", "a", "img"}.isdisjoint(page.elements)
    assert b"\x1b" not in data
    assert "<script>alert(1)</script>" in page.text


def test_folders_may_be_moved(reports: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(reports[0], tmp_path / "moved")

    assert said(capsys, reports[0], tmp_path / "moved")[0] == 0
