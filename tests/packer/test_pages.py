"""The pages of reports in a pack: they are optional and derived, and ``build`` includes those that exist."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from html_pages import Page
from invarlock.packer.build.building import build_pack
from invarlock.packer.runs.lone_pages import lone_page_problems
from invarlock.packer.verify.verifying import VerifyOptions, verify_pack
from packs import (
    FAULT,
    REPORT,
    STRESS,
    TIME,
    contain,
    content,
    edit_json,
    messages,
    page,
    page_of,
    places,
    render_overview,
    sign,
    strict,
)

from invarlock.errors import ReportError
from invarlock.jsonio import read_json
from invarlock.problems import Code
from invarlock.settings import resolve_settings


def test_every_report_of_a_run_has_its_page_in_the_pack(real_run: Any) -> None:
    pages = sorted(str(path.relative_to(real_run.pack)) for path in real_run.pack.rglob("*.html"))

    assert pages == sorted(["index.html", *map(page_of, (REPORT, STRESS, FAULT))])
    assert max((real_run.pack / name).stat().st_size for name in pages) < 60_000


def test_a_pack_without_pages_or_with_some_verifies(pack: Path, reseal: Any) -> None:
    (pack / page_of(STRESS)).unlink()
    render_overview(pack)
    reseal(pack)
    assert strict(pack).code == 0
    for other in pack.rglob("*.html"):
        other.unlink()
    readme = (pack / "README.md").read_text()
    (pack / "README.md").write_text("".join(line for line in readme.splitlines(True) if "index.html" not in line))
    reseal(pack)

    assert (strict(pack).code, strict(pack).warnings[:-1]) == (0, ())


def test_a_pack_made_by_another_version_is_named_as_such(pack: Path, reseal: Any) -> None:
    page = pack / page_of(REPORT)
    page.write_bytes(page.read_bytes().replace(b"<h2>Gates</h2>", b"<h2>The gates</h2>"))
    edit_json(pack / "manifest.json", lambda m: m.update(invarlock_version="0.0.9"))
    edit_json(pack / "manifest.json", lambda m: m["builder"].update(version="0.0.9"))
    reseal(pack)

    found = strict(pack)

    assert found.code == 7
    assert found.problems[-1].code is Code.OTHER_VERSION


def test_an_unsealed_page_is_refused_even_where_other_files_only_warn(pack: Path, reseal: Any) -> None:
    page = pack / page_of(REPORT)
    forged = page.read_bytes().replace(b"noop_control", b"quant_4bit_clean")
    page.unlink()
    reseal(pack)
    (pack / "notes.txt").write_text("mine")
    page.write_bytes(forged)

    found = verify_pack(pack, VerifyOptions())

    assert (found.code, messages(found)) == (6, f"{page_of(REPORT)}: not in checksums.sha256")
    assert "notes.txt: not in checksums.sha256" in found.warnings


def test_build_renders_the_pages_again_where_there_are_some(run: Path, real_run: Any, tmp_path: Path) -> None:
    first, *others = sorted(run.glob("embedded__*/reports/**/evaluation.html"))
    others[0].unlink()
    first.write_bytes(first.read_bytes().replace(b"passed", b"PASSED"))

    built = build_pack(tmp_path / "out", content(run), real_run.key, TIME)

    pages = {page.parent.parent.name: page.read_text() for page in built.path.rglob("evaluation.html")}
    assert len(pages) == len(others)
    assert [page for page in pages.values() if "PASSED" in page or ">Overview</a>" not in page] == []
    assert strict(built.path).code == 0


def test_a_page_says_what_was_expected_and_leads_to_the_others(real_run: Any) -> None:
    found = {path: Page((real_run.pack / page_of(path)).read_bytes()) for path in (FAULT, REPORT, STRESS)}

    assert "FAILdetected, as expected: this is a fault that must be detected" in found[FAULT].text
    assert "PASSas expected: this is an edit that must pass" in found[REPORT].text
    assert "FAILas expected: this is a destructive edit that must fail" in found[STRESS].text
    for path, shown in found.items():
        links = [value for tag, name, value in shown.attributes if (tag, name) == ("a", "href")]
        folder = (real_run.pack / path).parent
        assert [link for link in links if not (folder / link).is_file()] == []
        # the first and the last page link to only one neighbour
        assert len(links) == (3 if path == REPORT else 2)


def test_a_page_that_calls_an_unexpected_result_expected_is_refused(pack: Path, reseal: Any) -> None:
    page = pack / page_of(STRESS)
    page.write_bytes(page.read_bytes().replace(b"must fail", b"must pass"))
    reseal(pack)

    assert places(strict(pack)) == [(Code.PAGE_DIFFERS, page_of(STRESS), "")]


def test_the_page_of_a_report_verified_on_its_own_is_that_of_the_pack_around_it(pack: Path, tmp_path: Path) -> None:
    report = pack / STRESS
    alone = tmp_path / "alone"
    shutil.copytree(report.parent, alone)

    assert list(lone_page_problems(report)) == []
    # without the pack, the expected result is unknown, so the page differs
    assert [problem.code for problem in lone_page_problems(alone / report.name)] == [Code.PAGE_DIFFERS]
    (alone / "evaluation.html").write_bytes(page(report.read_bytes()))
    assert list(lone_page_problems(alone / report.name)) == []
    forged = report.with_name("evaluation.html")
    forged.write_bytes(forged.read_bytes().replace(b"must fail", b"must pass"))
    assert [problem.code for problem in lone_page_problems(report)] == [Code.PAGE_DIFFERS]
    forged.unlink()
    assert list(lone_page_problems(report)) == []


def test_strict_assurance_of_a_run_on_the_host_leaves_no_pack(run: Path, real_run: Any, tmp_path: Path) -> None:
    whole = replace(content(run), report_assurance="strict")

    with pytest.raises(ReportError) as caught:
        build_pack(tmp_path / "out", whole, real_run.key, TIME)
    assert caught.value.code is Code.NOT_PACKED
    assert Code.CONTAINER_REQUIRED in {problem.code for problem in caught.value.problems}
    assert not (tmp_path / "out").exists()


def test_a_pack_whose_maker_did_not_verify_its_reports_says_so(run: Path, real_run: Any, tmp_path: Path) -> None:
    pack = build_pack(tmp_path / "out", replace(content(run), report_assurance="off"), real_run.key, TIME).path

    found = strict(pack)

    assert read_json(pack / "manifest.json")["verification"]["report_assurance"] == "off"
    assert (found.code, found.reports_verified) == (0, True)
    assert "its maker did not verify the reports in this pack: report_assurance off" in found.warnings


def test_a_release_review_that_the_reports_do_not_support_is_refused(run: Path, real_run: Any, tmp_path: Path) -> None:
    wanted = {"report_assurance": "strict", "release_review": True}
    parameters = {name: {"value": value, "source": "option"} for name, value in wanted.items()}
    whole = replace(content(run), parameters=parameters, report_assurance="off")
    pack = build_pack(tmp_path / "out", whole, real_run.key, TIME).path

    found = strict(pack)

    assert found.code == 7
    claimed = (Code.REVIEW_NOT_SUPPORTED, "manifest.json", "invocation.parameters.release_review")
    assurance = (Code.SETTINGS_DIFFER, "manifest.json", "verification.report_assurance")
    assert places(found) == [assurance, claimed, claimed]


def test_a_release_review_that_the_reports_support_verifies(run: Path, real_run: Any, tmp_path: Path) -> None:
    settings = resolve_settings({"release_review": True, "signing_key": "maker.pem", "profile": "ci"}, {})
    files = contain(dict(content(run).files), profile="ci")
    whole = replace(
        content(run), files=files, claimed_verdict=None, report_assurance="strict", parameters=settings.document()
    )
    pack = build_pack(tmp_path / "out", whole, real_run.key, TIME).path

    found = strict(pack, report_assurance="strict", require_pass=True)

    manifest = read_json(pack / "manifest.json")
    assert (found.code, manifest["invocation"]["parameters"]["release_review"]["value"]) == (0, True), messages(found)

    del manifest["signing_key_fingerprint"]
    sign(pack, manifest, real_run.key)
    unnamed = strict(pack, report_assurance="strict", require_pass=True)
    claimed = (Code.REVIEW_NOT_SUPPORTED, "manifest.json", "invocation.parameters.release_review")
    assert places(unnamed)[0] == claimed
