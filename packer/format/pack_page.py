"""The page of a pack, ``index.html``: the expected and the observed outcome of each case, on one page.

Like every page it is a pure function of the JSON files: ``verify`` renders it again and compares the bytes. It loads
nothing; a small script only filters and sorts the table of cases.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from invarlock.packer.format import layout
from invarlock.packer.format.case_tables import cases_table, grid, margins
from invarlock.packer.format.preset_tables import presets_section

from invarlock.pages.case_table_script import SCRIPT
from invarlock.pages.document import html_document, link
from invarlock.pages.markup import Markup, element, join
from invarlock.pages.parts import code, counted, data_table, definition_list, pill
from invarlock.reports.page_facts import PageFacts
from invarlock.verdict.rendering import count_sentences, headline

# A pack may hold ten thousand cases; the lists of a page are cut after this many.
MAX_LINES = 60


@dataclass(frozen=True)
class PackFacts:
    """The input from which the page of a pack is rendered.

    Attributes:
        manifest: the document ``manifest.json``; blocks of it may be missing.
        verdict: the verdict that follows from the reports.
        evidence: what the pack covers and whether that is strong evidence, as ``covered: ...`` lines.
        cases: the facts of each report, by path.
        presets: the preset of each model, by its folder.
        paths: the files of the pack.
    """

    manifest: Mapping[str, Any]
    verdict: Mapping[str, Any]
    evidence: Sequence[str]
    cases: Mapping[str, PageFacts]
    presets: Mapping[str, Mapping[str, Any]]
    paths: Collection[str]


def render_pack_page(facts: PackFacts) -> bytes:
    """Return the page of a pack, as UTF-8."""
    body = join(
        (
            _header(facts),
            element(
                "main",
                *_failed(facts.verdict),
                element("h2", "Scenarios and models"),
                grid(facts.verdict, facts.paths),
                *margins(facts.verdict, facts.cases, facts.paths),
                *_warnings(facts),
                *cases_table(facts.verdict, facts.cases, facts.paths),
                *_models(facts),
                *presets_section(facts.presets, facts.paths),
                *_verifying(facts.manifest),
            ),
            element(
                "footer",
                element(
                    "p",
                    "This page was made from the JSON files of the pack. It proves nothing by itself: ",
                    element("code", "verify"),
                    " renders it again from the measurements and compares every byte.",
                ),
            ),
        )
    )
    return html_document(f"Evidence pack: {headline(facts.verdict)}", body, SCRIPT, is_wide=True)


def _header(facts: PackFacts) -> Markup:
    manifest, verdict = facts.manifest, facts.verdict
    words = headline(verdict)
    kind = {"PASS": "pass", "FAIL": "fail"}.get(verdict["verdict"], "note")
    signer = manifest.get("signing_key_fingerprint")
    source = manifest.get("invocation", {}).get("config_source", {})
    commit = source.get("commit")
    described = dict(line.partition(": ")[::2] for line in facts.evidence)
    return element(
        "header",
        element("p", "InvarLock evidence pack", class_="kind"),
        element("h1", "Verdict: ", pill(words.removeprefix("verdict "), kind)),
        *(
            element("p", line, class_="lead" if number == 0 else "")
            for number, line in enumerate(count_sentences(verdict))
        ),
        definition_list(
            {
                "what was tested": described.get("covered"),
                "what was not tested": described.get("not covered"),
                "strong evidence": described.get("strong evidence"),
                "served subjects": described.get("served subjects"),
                "signer": code(signer) if signer else "see manifest.signature.json, if that file is there",
                "date": manifest.get("generated_at"),
                "suite": manifest.get("suite"),
                "commit": None
                if commit is None
                else join((code(commit), " with uncommitted changes" if source.get("dirty") else "")),
                "made by": f"InvarLock {manifest['invarlock_version']}" if "invarlock_version" in manifest else None,
            }
        ),
    )


def _failed(verdict: Mapping[str, Any]) -> Iterator[Markup]:
    """Yield the failed requirements, and the cases that are not in the pack."""
    failed = verdict["failed_requirements"]
    if failed:
        yield element("section", element("h2", "Failed requirements"), _lines(failed), class_="box bad")
    left_out = verdict.get("not_bundled", ())
    if left_out:
        title = f"{counted(len(left_out), 'case')} of the run not in this pack"
        yield element("section", element("h2", title), _lines(left_out), class_="box")


def _lines(lines: Sequence[str]) -> Markup:
    more = [element("li", f"and {len(lines) - MAX_LINES} more")] if len(lines) > MAX_LINES else []
    return element("ul", *(element("li", line) for line in lines[:MAX_LINES]), *more)


def _warnings(facts: PackFacts) -> Iterator[Markup]:
    """Yield each warning once, with the reports that have it."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    others = 0
    for record in facts.verdict["records"]:
        case = facts.cases.get(record["path"])
        lines = () if case is None else case.warnings
        if record["strictness"] in ("must_fail", "must_detect"):
            others += bool(lines)
            continue
        for line in lines:
            found.setdefault(line, []).append(record)
    yield element("h2", "Warnings")
    about = "Warnings do not affect the verdict. They show what to look at."
    if others:
        about += f" {counted(others, 'report')} of destructive edits and faults also warn, on their own pages."
    yield element("p", about, class_="soft")
    rows = [(_named(records), line) for line, records in sorted(found.items(), key=lambda item: -len(item[1]))]
    yield data_table(
        ("reports", "warning"), rows[:MAX_LINES], "No edit that must pass and no informational edit has a warning."
    )
    if len(rows) > MAX_LINES:
        yield element("p", f"and {len(rows) - MAX_LINES} more, on the pages of the reports", class_="soft")


def _named(records: Sequence[Mapping[str, Any]]) -> str:
    first, more = records[0], len(records) - 1
    name = f"{first['name']} on {first['model'].rsplit('/', 1)[-1]}"
    return f"{name} and {counted(more, 'other report')}" if more else name


def _models(facts: PackFacts) -> Iterator[Markup]:
    manifest = facts.manifest
    baselines = {row.get("name"): row.get("path") for row in manifest.get("verification_baselines", ())}
    licences = manifest.get("model_licenses", {})
    rows = []
    for model in manifest.get("models", ()):
        path = baselines.get(model["model_id"].lower().replace("/", "__"))
        report = link(path, "baseline report") if path is not None and path in facts.paths else "–"
        pin = model.get("revision")
        rows.append((model["model_id"], code(pin) or "not pinned", licences.get(model["model_id"]) or "–", report))
    yield element("h2", "Models")
    yield data_table(("model", "pin", "licence", "measurements"), rows, "The manifest names no model.")


def _verifying(manifest: Mapping[str, Any]) -> Iterator[Markup]:
    signer = manifest.get("signing_key_fingerprint")
    pinned = f" --expected-fingerprint {signer}" if signer else " --allow-unsigned"
    strict = " --strict" if signer else ""
    yield element("h2", "How to verify this pack")
    yield element(
        "p",
        f"Install InvarLock {manifest.get('invarlock_version', '')} from a source that you trust. In the folder of "
        "this page:",
    )
    yield element("pre", element("code", f"python -m invarlock.packer verify .{strict}{pinned}"), tabindex=0)
    yield element(
        "p",
        "Verification needs no network and no PyTorch. It checks the signature and every checksum, derives every "
        "number and the verdict again from the raw measurements, and renders every page again. ",
        "Get the signer's fingerprint from the maker of the pack, not from this page." if signer else "",
    )
    names = (layout.README, "manifest.json", layout.VERDICT_JSON, layout.VERDICT_TEXT, "checksums.sha256")
    links = [element("li", link(name, name)) for name in names]
    yield element("p", "The files behind this page:")
    yield element("ul", *links)
