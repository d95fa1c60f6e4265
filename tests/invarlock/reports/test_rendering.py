"""The page of a report: what it shows, and that nothing a report says can make it do anything."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from html_pages import Page
from packs import FAULT, REPORT, STRESS

from invarlock.guards.spectral_page import page_section
from invarlock.pages.markup import join, text
from invarlock.reports.gates import judge_gates
from invarlock.reports.rendering import render_report

SHA256 = "5" * 64
HOSTILE = "</style></td>\"'><script>alert(1)</script>&\x1b[31m\u202e\n"
# Keys that are not ours: the maker of the report or of a checkpoint chose them.
FREE_KEYS = ("modules", "families", "versions", "parameters", "overrides", "proposed_scales", "telemetry")


@pytest.fixture
def report(real_run: Any) -> Any:
    return read(real_run.pack / REPORT)


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


@pytest.mark.parametrize("path", [REPORT, STRESS, FAULT])
def test_a_page_says_what_its_report_says(real_run: Any, path: str) -> None:
    document = read(real_run.pack / path)

    page = Page(render_report(document, SHA256))

    shown = [document["assurance"]["verdict"], document["meta"]["model_id"], document["edit"]["spec"], SHA256]
    shown += [document["subject"]["digest"], document["baseline_ref"]["digest"], document["run_id"]]
    tensors = document["invariants"]["metrics"]
    shown.append(f"{tensors['tensors']} tensors, {tensors['changed_tensors']} changed (the baseline has ")
    shown.append(f"kind: missing 0, unexpected 0, reshaped {tensors['reshaped']}, dtype 0, scope {tensors['scope']}")
    for gate in judge_gates(document, document["resolved_policy"]):
        shown += [gate.flag, gate.measured, gate.limit]
    for guard in document["guards"]:
        shown += [f"Guard {guard}", document[guard]["measurement_contract_hash"]]
        shown += [row["reason"] for row in document[guard]["violations"][:5]]
    assert [text for text in shown if text not in page.text] == []
    assert ("no ratio" in page.text) == (document["primary_metric"]["ratio_vs_baseline"] is None)


def test_the_title_names_the_subject_and_the_baseline(report: Any) -> None:
    pages = [Page(render_report(report, SHA256))]
    report["subject"]["name"] = "w4a16"
    pages.append(Page(render_report(report, SHA256)))

    model = report["meta"]["model_id"]
    titles = (f"{report['meta']['scenario']} compared with {model}", f"w4a16 compared with {model}")
    assert [page.text.count(title) for page, title in zip(pages, titles, strict=True)] == [2, 2]


def test_a_page_marks_the_matrices_that_are_capped_and_no_other(real_run: Any) -> None:
    block = read(real_run.pack / STRESS)["spectral"]
    changed = [name for name, row in block["modules"].items() if row["log_ratio"]]
    assert len(changed) > 3
    for name, row in block["modules"].items():
        row["capped"] = name in changed[::2]

    rows = re.findall("<tr>.*?</tr>", join(page_section(block)), re.DOTALL)

    shown = {name: row for name in changed for row in rows if f"<code>{text(name)}</code>" in row}
    assert {name for name, row in shown.items() if "capped" in row} == shown.keys() & set(changed[::2])
    assert len(shown) > 3


def test_a_page_is_whole_in_itself_and_lets_nothing_be_loaded(report: Any) -> None:
    data = render_report(report, SHA256)

    page = Page(data)
    style = re.search(rb"<style>(.*)</style>", data, re.DOTALL)
    assert style is not None
    policy = next(value for tag, name, value in page.attributes if (tag, name) == ("meta", "content"))
    allowed = base64.b64encode(hashlib.sha256(style[1]).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"
    assert {"script", "link", "img", "iframe", "object", "a", "form", "base"}.isdisjoint(page.elements)
    assert {name for _, name, _ in page.attributes}.isdisjoint({"src", "href", "style", "onclick", "xlink:href"})
    assert b"//" not in data
    assert b"url(" not in data
    assert b"@import" not in data


def hostile(value: Any, names: bool = False) -> Any:
    """Return a document with every text of it, and every name that somebody else chose, made hostile."""
    if isinstance(value, dict):
        return {f"{HOSTILE}{key}" if names else key: hostile(inner, key in FREE_KEYS) for key, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner) for inner in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) else value


@pytest.mark.parametrize("path", [REPORT, STRESS, FAULT])
def test_no_text_of_a_report_makes_markup(real_run: Any, path: str) -> None:
    document = read(real_run.pack / path)
    bad = hostile(document)
    # which guards were run are names of ours
    bad["guards"] = document["guards"]
    for metric in ("primary_metric_tail", "tasks"):
        bad[metric]["status"] = document[metric]["status"]

    harmless, page = Page(render_report(document, SHA256)), Page(data := render_report(bad, SHA256))

    assert set(page.elements) <= set(harmless.elements)
    assert {(tag, name) for tag, name, _ in page.attributes} <= {(tag, name) for tag, name, _ in harmless.attributes}
    assert "<script>alert(1)</script>" in page.text
    assert b"<script" not in data
    assert all(character.isprintable() or character == "\n" for character in data.decode())


def test_control_characters_are_escaped_and_letters_of_any_script_are_shown() -> None:
    shown = text("a\u202eb\x1b[31m\n<é 漢字>\xa0\u200b\U000e0041'\"&")

    assert shown == "a\\u202eb\\x1b[31m\\n&lt;é 漢字&gt;\\xa0\\u200b\\U000e0041&#x27;&quot;&amp;"
    assert text("x" * 1000) == "x" * 299 + "…"


def test_a_page_does_not_depend_on_the_order_of_a_mapping(report: Any) -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(inner) for key, inner in reversed(value.items())}
        return [turned(inner) for inner in value] if isinstance(value, list) else value

    assert render_report(turned(report), SHA256) == render_report(report, SHA256)


def test_a_page_stays_small_however_large_its_report_is(real_run: Any) -> None:
    report = read(real_run.pack / STRESS)
    usual = len(render_report(report, SHA256))
    final = report["evaluation_windows"]["final"]
    for column in final:
        final[column] = (final[column] * 65536)[:65536]
    spectral = report["spectral"]
    rows = [*spectral["modules"].values()] * 200
    spectral["modules"] = {f"{'x' * 500}{number}": row for number, row in enumerate(rows)}
    spectral["violations"] = [{"module": "m", "severity": "cap", "reason": "y" * 100_000}] * 10_000
    report["meta"]["versions"] = {f"library {number}": "z" * 500 for number in range(5000)}
    report["edit"]["parameters"] = {str(number): number for number in range(100_000)}

    assert len(render_report(report, SHA256)) < 3 * usual


def test_losses_that_are_not_finite_leave_a_gap_and_are_counted(report: Any) -> None:
    losses = report["evaluation_windows"]["final"]["logloss"]
    losses[3] = losses[5] = None

    page = render_report(report, SHA256).decode()

    bars = "".join(re.findall(r' d="([^"]*)"', page))
    assert bars.count("M") == len(losses) - 2
    assert "; 2 not finite" in page


def test_absurd_numbers_still_give_a_drawing(report: Any) -> None:
    final = report["evaluation_windows"]["final"]
    final["logloss"][:3] = [9 * 10**307, 0, 5e-324]
    final["baseline_logloss"][:3] = [0, 9 * 10**307, 0]
    report["primary_metric"] |= {"ratio_vs_baseline": 9 * 10**307, "ci": [5e-324, 9 * 10**307]}
    report["telemetry"]["score_seconds"] = 10**307

    assert "from -9e+307 to 9e+307" in Page(render_report(report, SHA256)).text
