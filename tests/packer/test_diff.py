"""The differences between two packs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from html_pages import Page
from invarlock.packer.build.building import build_pack
from invarlock.packer.cli import main
from invarlock.packer.diffing import render_diff, render_diff_page
from invarlock.packer.inspection import inspect_pack
from packs import REPORT, SCENARIOS, STRESS, TIME, content, edit_json, page, page_of, sha256
from processes import packer

from invarlock.jsonio import dump_json
from invarlock.reports.derivation import compose, strip


def test_a_pack_does_not_differ_from_itself(real_run: Any) -> None:
    done = packer("diff", real_run.pack, real_run.pack)

    signer = json.loads((real_run.pack / "manifest.json").read_bytes())["signing_key_fingerprint"]
    said = f"verdict: PASS, in both packs\nsigner: {signer}, in both packs\n3 cases compared, 0 differ\n"
    assert (done.returncode, done.stdout) == (0, said)


def test_ratios_flags_and_missing_cases_are_listed(run: Path, real_run: Any, tmp_path: Path) -> None:
    whole = content(run)
    files = {path: data for path, data in whole.files.items() if "nan_injection" not in path}
    files.pop("metadata/pytest_report.json")
    raw = json.loads(dump_json(strip(json.loads(files[STRESS]))))
    raw["evaluation_windows"]["final"]["logloss"][0] += 0.5
    files[STRESS] = dump_json(compose(raw))
    runtime = json.loads(files[STRESS.replace("evaluation.report", "runtime.manifest")])
    runtime["report"]["sha256"] = sha256(files[STRESS])
    files[STRESS.replace("evaluation.report", "runtime.manifest")] = dump_json(runtime)
    files[page_of(STRESS)] = page(files[STRESS])
    other = build_pack(tmp_path / "other", replace(whole, files=files, claimed_verdict=None), real_run.key, TIME).path

    text = packer("diff", real_run.pack, other).stdout.splitlines()
    document = json.loads(packer("diff", real_run.pack, other, "--json").stdout)

    assert text[0] == "verdict: PASS -> FAIL"
    assert document["verdicts"] == ["PASS", "FAIL"]
    (row,) = [line for line in text if line.startswith("embedded/mistral-tiny prune_50pct_stress run 1: ")]
    assert "ratio_vs_baseline " in row
    assert document["verdict"] == ["PASS", "FAIL"]
    changed = {row["scenario"]: row["changed"] for row in document["cases"]}
    old, new = changed["prune_50pct_stress"]["ratio_vs_baseline"]
    assert new > old
    assert "noop_control" not in changed


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        (1.01528731, 1.4, "1.015 -> 1.4"),
        (1.01528731, 1.01529999, "1.01529 -> 1.0153"),
        (1.0, 1.0000000000000002, "1 -> 1.0000000000000002"),
        (None, 2.5, "none -> 2.5"),
    ],
)
def test_a_number_has_four_digits_or_as_many_as_show_the_difference(old: float | None, new: float, shown: str) -> None:
    row = {"model": "m", "scenario": "s", "run": 1, "changed": {"ratio_vs_baseline": [old, new]}}
    diff = {"only_in_first": [], "only_in_second": [], "cases": [row], "cases_compared": 1}

    assert render_diff(diff)[0] == f"m s run 1: ratio_vs_baseline {shown}"


def test_a_small_difference_shows_on_the_page_too() -> None:
    changed = {"ratio_vs_baseline": [1.01528731, 1.01528999], "fidelity_same_top_share": [0.912341, 0.912342]}
    row = {"model": "m", "scenario": "s", "run": 1, "changed": changed}
    diff = {
        "only_in_first": [],
        "only_in_second": [],
        "cases": [row],
        "cases_compared": 1,
        "verdicts": ["PASS", "PASS"],
    }

    page = render_diff_page(diff, ("a", "b")).decode()

    assert all(number in page for number in ("1.01528731", "1.01528999", "0.912341", "0.912342")), page


HOSTILE = "</td>\"'><script>alert(1)</script>&\x1b[31m\u202e"


def test_the_differences_are_a_page_that_nothing_in_a_pack_can_change() -> None:
    changed = {"passed": [True, False], "ratio_vs_baseline": [1.01, None], "edit_spec": ["a", HOSTILE]}
    row = {"model": HOSTILE, "scenario": HOSTILE, "run": 2, "changed": changed}
    diff = {"verdicts": ["PASS", "FAIL"], "only_in_first": [HOSTILE], "only_in_second": [], "cases": [row]}
    diff |= {"cases_compared": 3, "signed": [True, False], "signers": ["sha256:0f", HOSTILE]}

    page = Page(data := render_diff_page(diff, ("one", HOSTILE)))

    shown = ["1 of 3 cases differ", "+1 % perplexity", "as expected", "not as expected", ", run 2", "is not signed"]
    assert [text for text in shown if text not in page.text] == []
    assert {"script", "a", "img"}.isdisjoint(page.elements)
    assert b"\x1b" not in data
    assert all(word in page.text for word in ("first signer", "sha256:0f", "second signer"))
    same = {"verdicts": ["FAIL", "FAIL"], "only_in_first": [], "only_in_second": [], "cases": [], "cases_compared": 3}
    text = " ".join(Page(render_diff_page(same, ("one", "two"))).text.split())
    assert "0 of 3 cases differ" in text
    assert "FAIL in both packs" in text


def test_diff_writes_a_page(real_run: Any, tmp_path: Path) -> None:
    page = tmp_path / "diff.html"

    assert main(["diff", str(real_run.pack), str(real_run.pack), "--html", str(page)]) == 0

    assert "0 of 3 cases differ" in Page(page.read_bytes()).text


def test_an_unsigned_pack_is_compared_where_that_is_allowed_and_is_said_to_be_unsigned(
    run: Path, real_run: Any, tmp_path: Path
) -> None:
    unsigned = build_pack(tmp_path / "unsigned", content(run), None, TIME).path

    assert packer("diff", real_run.pack, unsigned).returncode == 5
    allowed = packer("diff", real_run.pack, unsigned, "--allow-unsigned")
    assert (allowed.returncode, allowed.stdout.splitlines()[0][:29]) == (0, "the second pack is not signed")
    document = json.loads(packer("diff", unsigned, real_run.pack, "--allow-unsigned", "--json").stdout)
    assert document["signed"] == [False, True]


def test_a_pack_that_does_not_verify_is_not_compared(real_run: Any, pack: Path) -> None:
    edit_json(pack / REPORT, lambda report: report["primary_metric"].update(ratio_vs_baseline=0.5))

    done = packer("diff", real_run.pack, pack)

    assert (done.returncode, done.stdout) == (6, "")
    assert "NOT VERIFIED (exit code 6)" in done.stderr


def test_a_weakened_plan_differs_though_every_measurement_is_the_same(run: Path, real_run: Any, tmp_path: Path) -> None:
    whole = content(run)
    plan = json.loads(whole.files[SCENARIOS])
    for row in plan["scenarios"]:
        row["strictness"] = "informational"
        row["requirements"].update(detectors_all_of=[], primary_guard_required=False, catastrophic_required=False)
    weak = replace(whole, files={**whole.files, SCENARIOS: dump_json(plan)}, claimed_verdict=None)
    other = build_pack(tmp_path / "weak", weak, real_run.key, TIME).path

    document = json.loads(packer("diff", real_run.pack, other, "--json").stdout)
    text = packer("diff", real_run.pack, other).stdout.splitlines()

    changed = {row["scenario"]: row["changed"] for row in document["cases"]}
    assert changed["noop_control"] == {"strictness": ["must_pass", "informational"]}
    assert changed["nan_injection"]["strictness"] == ["must_detect", "informational"]
    assert changed["nan_injection"]["detectors_all_of"][1] == []
    assert "3 cases compared, 3 differ, 3 with other requirements" in text


def test_the_problems_of_an_invalid_pack_are_available_as_json(
    pack: Path, real_run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (pack / REPORT).write_text("{}")

    code = main(["diff", str(real_run.pack), str(pack), "--json"])

    document = json.loads(capsys.readouterr().out)
    assert (code, document["ok"], document["pack"]) == (6, False, str(pack))
    assert [(row["code"], row["where"], row["field"]) for row in document["errors"]] == [
        ("checksum_differs", REPORT, "")
    ]


def test_inspecting_names_what_is_wrong_by_code(pack: Path) -> None:
    edit_json(pack / "manifest.json", lambda manifest: manifest["subject"].update(path="results/none.json"))
    (pack / "link").symlink_to("README.md")

    summary = inspect_pack(pack)

    assert [row["code"] for row in summary["unsafe"]] == ["not_a_regular_file"]
    assert [row["code"] for row in summary["signature_problems"]] == ["signature_does_not_hold"]
    assert [(row["code"], row["field"]) for row in summary["provenance"]["references_broken"]] == [
        ("reference_dangles", "subject")
    ]
