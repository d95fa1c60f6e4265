"""The page of a pack: its content, that it is derived, small and safe, and that no forged page verifies."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from html_pages import Page
from invarlock.packer.format.checksums import CONTROL_FILES
from invarlock.packer.format.pack_page import PackFacts, render_pack_page
from invarlock.packer.verify.reports import Findings, examine_reports
from invarlock.packer.verify.verifying import VerifyOptions, verify_pack
from memory_files import MemoryFiles
from packs import FAULT, REPORT, STRESS, messages, pack_files, page_of, places, strict
from processes import packer

from invarlock.pages.parts import number_text
from invarlock.problems import Code

HOSTILE = "</td>\"'><script>alert(1)</script>&\x1b[31m\u202e\nhttp://example.org/javascript:"


@pytest.fixture(scope="module")
def facts(real_run: Any) -> PackFacts:
    """The facts from which the page of the real pack is rendered."""
    files = {path: data for path, data in pack_files(real_run.pack).items() if path not in CONTROL_FILES}
    memory = MemoryFiles(files)
    found: Findings = examine_reports(memory)
    verdict, manifest = (json.loads((real_run.pack / name).read_bytes()) for name in (VERDICT, "manifest.json"))
    return PackFacts(
        manifest,
        verdict,
        found.pack_statement(manifest, memory.digests, verdict),
        {path: row.page for path, row in found.facts.items()},
        {folder: preset.document for folder, preset in found.presets.items()},
        memory.digests,
    )


VERDICT = "results/final_verdict.json"


def copy(document: Any) -> Any:
    """Return a document that may be changed."""
    return json.loads(json.dumps(document))


def test_the_page_shows_each_case_with_a_link_that_leads_to_its_page(real_run: Any) -> None:
    data = (real_run.pack / "index.html").read_bytes()

    page = Page(data)

    links = [unquote(value) for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert {page_of(path) for path in (REPORT, STRESS, FAULT)} <= set(links)
    assert [link for link in links if not (real_run.pack / link).is_file()] == []
    manifest = json.loads((real_run.pack / "manifest.json").read_bytes())
    commit = manifest["invocation"]["config_source"]["commit"]
    shown = ["PASS", manifest["signing_key_fingerprint"], manifest["generated_at"], commit, "embedded/mistral-tiny"]
    shown += ["passes", "fails", "detected", "must pass", "must fail", "must be detected", "float16_round_trip"]
    assert [text for text in shown if text not in page.text] == []


def test_the_page_of_a_run_is_named_by_the_run_its_readme_and_verify(real_run: Any) -> None:
    named = packer("verify", real_run.pack, "--strict").stdout

    assert f"overview: {real_run.pack / 'index.html'}" in named
    assert "index.html" in (real_run.pack / "README.md").read_text()


def test_a_forged_page_is_refused_however_it_was_sealed(pack: Path, reseal: Any) -> None:
    page = pack / "index.html"
    page.write_bytes(page.read_bytes().replace(b"fails", b"fairs"))
    reseal(pack)

    found = strict(pack)

    assert (found.code, places(found)) == (7, [(Code.PAGE_DIFFERS, "index.html", "")])
    assert not found.has_page


@pytest.mark.parametrize("name", ["index.html", "INDEX.html"])
def test_an_unsealed_page_is_refused_without_strict(pack: Path, reseal: Any, name: str) -> None:
    forged = (pack / "index.html").read_bytes()
    (pack / "index.html").unlink()
    reseal(pack)
    (pack / name).write_bytes(forged)

    found = verify_pack(pack, VerifyOptions())

    assert (found.code, messages(found)) == (6, f"{name}: not in checksums.sha256")


def test_a_case_that_is_not_as_expected_or_has_no_report_is_first(facts: PackFacts) -> None:
    verdict = copy(facts.verdict)
    failed, gone = verdict["records"][0], verdict["records"].pop()
    failed["passed"] = False
    gone = {key: gone[key] for key in ("model", "name", "run_num", "category", "strictness", "edit_spec")}
    verdict.update(verdict="FAIL", failed_requirements=["one thing"], missing={"by_model": {}, "cases": [gone]})

    page = Page(render_pack_page(replace(facts, verdict=verdict)))

    cases = page.text.partition("All cases (3)")[2]
    assert cases.index("no report") < cases.index("not as expected") < cases.index(verdict["records"][1]["name"])
    assert "Failed requirements" in page.text
    assert ("td", "class", "f") in page.attributes


def hostile(value: Any) -> Any:
    """Return a copy of a document with hostile markup appended to every text."""
    if isinstance(value, dict):
        return {key: hostile(inner) if key not in KEPT else inner for key, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner) for inner in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) else value


# our own code sets these values, so a maker cannot choose them
KEPT = ("verdict", "strictness", "path")


def test_no_text_of_a_pack_makes_markup_or_a_link_out_of_it(facts: PackFacts) -> None:
    bad = {name: hostile(getattr(facts, name)) for name in ("manifest", "verdict", "presets")}
    for record in bad["verdict"]["records"]:
        record["path"] = f'javascript:{record["path"]}"><script>'

    harmless, page = Page(render_pack_page(facts)), Page(data := render_pack_page(replace(facts, **bad)))

    assert set(page.elements) <= set(harmless.elements)
    assert {(tag, name) for tag, name, _ in page.attributes} <= {(tag, name) for tag, name, _ in harmless.attributes}
    assert data.count(b"<script") == 1
    targets = [value for _, name, value in page.attributes if name == "href"]
    assert [target for target in targets if re.match(r"[a-z]+:|/", target)] == []
    printed = data.decode()
    assert [character for character in printed if not (character.isprintable() or character == "\n")] == []


def test_a_learned_value_is_named_as_in_the_policy_with_the_statistic_that_it_comes_from(facts: PackFacts) -> None:
    (preset,) = facts.presets.values()

    page = Page(render_pack_page(facts))

    scale = preset["derivation"]["spectral"]["ffn"]
    scales = [number_text(scale[key]) for key in ("scale", "limit")]
    rows = [
        "value in the policy learned from measured learned value",
        f"spectral.null_scale_by_family ffn 1.4826 × median absolute deviation {' '.join(scales)}",
        "rmt.epsilon_by_family ffn 97.5 % quantile",
        "primary_metric.drift_band the tier, since no drift was measured – -5 % to +5 %",
    ]
    # the cells of a row have no space between them
    shown = "".join(page.text.split())
    assert [row for row in rows if "".join(row.split()) not in shown] == []


def test_the_page_depends_on_no_order_of_mappings(facts: PackFacts) -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(inner) for key, inner in reversed(value.items())}
        return [turned(inner) for inner in value] if isinstance(value, list) else value

    other = replace(facts, **{name: turned(getattr(facts, name)) for name in ("manifest", "verdict", "presets")})

    assert render_pack_page(other) == render_pack_page(facts)


def test_a_page_of_234_cases_stays_below_300_kilobytes(facts: PackFacts) -> None:
    records, cases = [], {}
    for number in range(234):
        record = dict(facts.verdict["records"][number % 3])
        path = f"reports/organisation__quite-a-long-model-{number % 9}/scenario_of_usual_length_{number // 9}/run_1/x"
        cases[path] = facts.cases[record["path"]]
        model = f"organisation/quite-a-long-model-{number % 9}"
        record |= {"path": path, "name": f"scenario_of_usual_length_{number // 9}", "model": model}
        records.append(record)
    presets = {f"model{number}": preset for number in range(9) for preset in facts.presets.values()}
    many = replace(facts, cases=cases, presets=presets, verdict={**facts.verdict, "records": records})

    page = render_pack_page(many)

    assert len(page) < 300_000
    # a pack that lacks whole blocks is still rendered
    assert b"Verdict" in render_pack_page(replace(facts, manifest={"format": "evidence-pack-v1"}))


def test_ten_thousand_cases_do_not_make_a_page_that_no_browser_opens(facts: PackFacts) -> None:
    verdict = copy(facts.verdict)
    verdict.update(records=verdict["records"] * 3334, failed_requirements=["x" * 500] * 10_000)

    assert len(render_pack_page(replace(facts, verdict=verdict))) < 1_500_000
