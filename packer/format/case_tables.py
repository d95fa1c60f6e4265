"""The cases of a pack as tables: scenarios by models, the tightest limits, and every case with its numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from invarlock.packer.format import layout

from invarlock.pages.document import link
from invarlock.pages.markup import Markup, breakable, element, join
from invarlock.pages.numbers import change_text, share_text
from invarlock.pages.parts import data_table, number_cell, number_text, number_words, pill
from invarlock.reports.page_facts import PageFacts, StorageFacts
from invarlock.verdict.words import EXPECTED, NO_REPORT, expected_words, is_neutral, seen_words

Row = Mapping[str, Any]
# A pack may hold ten thousand cases; browsers open a page slowly if it lists more than this.
MAX_CASES = 1000
# The number of limits shown; these are the ones closest to being exceeded.
TIGHTEST = 8


def grid(verdict: Row, paths: Collection[str]) -> Markup:
    """Return a table of scenarios by models; each cell states the outcome and links to the report's page."""
    rows: Sequence[Row] = [*verdict["records"], *verdict.get("missing", {}).get("cases", ())]
    models = sorted({row["model"] for row in rows})
    cells: dict[tuple[str, str], dict[str, list[Markup]]] = {}
    kinds: dict[tuple[str, str, str], str] = {}
    for row in rows[:MAX_CASES]:
        scenario = (row["strictness"], row["name"])
        kind, shown = _seen(row, paths)
        cells.setdefault(scenario, {}).setdefault(row["model"], []).append(shown)
        key = (*scenario, row["model"])
        kinds[key] = min(kinds.get(key, kind), kind, key="fnp".index)
    heads = [element("th", breakable(_short(model)), scope="col", title=model) for model in models]
    body = []
    for strictness in sorted({strictness for strictness, _ in cells}, key=_order):
        names = sorted(name for expected, name in cells if expected == strictness)
        title = element("th", expected_words(strictness), scope="rowgroup", colspan=len(models) + 1)
        lines = [element("tr", title, class_="of")]
        for name in names:
            found = cells[strictness, name]
            line = [element("th", breakable(name), scope="row")]
            for model in models:
                parts = found.get(model)
                cell = (
                    element("td", "–")
                    if parts is None
                    else element("td", *parts, class_=kinds[strictness, name, model])
                )
                line.append(cell)
            lines.append(element("tr", *line))
        body.append(element("tbody", *lines))
    table = element(
        "table", element("thead", element("tr", element("th", "scenario", scope="col"), *heads)), *body, class_="grid"
    )
    legend = element(
        "p",
        "Green: as expected. Red: not as expected. Grey: informational, does not affect the verdict. A destructive "
        "edit that fails and a fault that is detected are as expected.",
        class_="soft",
    )
    return join((legend, element("div", table, class_="scroll", tabindex=0, role="region", aria_label="results")))


def _seen(row: Row, paths: Collection[str]) -> tuple[str, Markup]:
    """Return the kind of a cell (f: not as expected, n: informational, p: as expected) and its content."""
    run = element("small", f"run {row['run_num']}") if row["run_num"] > 1 else ""
    if "passed" not in row:
        return "f", join((NO_REPORT.lower(), run))
    words = element("small", "not as expected") if not row["passed"] else ""
    kind = "f" if not row["passed"] else "n" if is_neutral(row) else "p"
    return kind, _linked(row["path"], paths, seen_words(row), words, run)


def _linked(path: str, paths: Collection[str], *inner: object) -> Markup:
    """Return a link to the page of a report, or to the report itself if it has no page."""
    page = layout.sibling(path, layout.PAGE)
    return link(page if page in paths else path, *inner)


def margins(verdict: Row, cases: Mapping[str, PageFacts], paths: Collection[str]) -> Iterator[Markup]:
    """Yield the edits that must pass and are closest to a limit, closest first."""
    rows = [
        (record, cases[record["path"]].tightest)
        for record in verdict["records"]
        if record["strictness"] == "must_pass" and record["path"] in cases
    ]
    rows.sort(key=lambda row: -_share(row[1][1]))
    yield element("h2", "Closest to a limit")
    if not rows:
        yield element("p", "No case had to pass.", class_="soft")
        return
    yield element(
        "p",
        "Of the edits that must pass, those that use most of a limit: 0 % is no change, 100 % is at the limit. More "
        "than 100 % fails a gate, or causes a warning if the limit only warns.",
        class_="soft",
    )
    table = [
        (
            number_words(_used(share)),
            _linked(record["path"], paths, breakable(record["name"])),
            record["model"],
            element("code", name),
        )
        for record, (name, share) in rows[:TIGHTEST]
    ]
    yield data_table(("limit used", "scenario", "model", "limit"), table)


def cases_table(verdict: Row, cases: Mapping[str, PageFacts], paths: Collection[str]) -> Iterator[Markup]:
    """Yield every case with its numbers: first those that are not as expected, then those closest to a limit."""
    records = sorted(verdict["records"], key=lambda record: _worst_first(record, cases.get(record["path"])))
    missing = verdict.get("missing", {}).get("cases", ())
    rows = [_missing(row) for row in missing] + [_case(record, cases, paths) for record in records]
    yield element("h2", f"All cases ({len(rows)})")
    yield element("div", class_="controls", id="controls")
    heads: tuple[str, ...] = (
        "?result",
        "scenario",
        "?model",
        "?expected",
        "edit or fault",
        "perplexity",
        "divergence (KL)",
        "same top token",
        "limit used",
        "stored as",
    )
    if any("ratio_by_slice" in record for record in records):
        heads = (*heads, "by slice")
        own = ["–"] * len(missing) + [_by_slice(record) for record in records]
        rows = [(*row, cell) for row, cell in zip(rows, own, strict=True)]
    yield data_table(heads, rows[:MAX_CASES], "none", id="cases")
    if len(rows) > MAX_CASES:
        yield element("p", f"and {len(rows) - MAX_CASES} more in {layout.VERDICT_JSON}", class_="soft")


def _case(record: Row, cases: Mapping[str, PageFacts], paths: Collection[str]) -> tuple[object, ...]:
    facts = cases.get(record["path"])
    kind = "fail" if not record["passed"] else "note" if is_neutral(record) else "pass"
    run = f", run {record['run_num']}" if record["run_num"] > 1 else ""
    return (
        pill(seen_words(record) + ("" if record["passed"] else ", not as expected"), kind),
        _linked(record["path"], paths, breakable(record["name"]), run),
        _short(record["model"]),
        expected_words(record["strictness"]),
        element("code", record["edit_spec"]),
        number_words(change_text(record["ratio_vs_baseline"])),
        number_cell(record["fidelity_kl_mean"]),
        number_words(share_text(record["fidelity_same_top_share"])),
        number_words("–" if facts is None else _used(facts.tightest[1])),
        "–" if facts is None or facts.storage is None else _storage(facts.storage),
    )


def _by_slice(record: Row) -> str:
    """Return the change of perplexity and the divergence in each slice."""
    divergences = record.get("fidelity_kl_by_slice", {})
    return "; ".join(
        f"{name} {change_text(ratio)}, KL {number_text(divergences.get(name))}"
        for name, ratio in sorted(record.get("ratio_by_slice", {}).items())
    )


def _missing(row: Row) -> tuple[object, ...]:
    nothing = number_words("–")
    return (
        pill(NO_REPORT.lower(), "fail"),
        breakable(row["name"]),
        _short(row["model"]),
        expected_words(row["strictness"]),
        element("code", row["edit_spec"]),
        *[nothing] * 4,
        "–",
    )


def _storage(storage: StorageFacts) -> str:
    size = "" if storage.share == 1.0 else f", {share_text(storage.share)} of the baseline's size"
    return f"{storage.form}, {storage.bits_per_weight:.3g} bits{size}"


def _used(share: float | None) -> str:
    return "not measured" if share is None else share_text(share)


def _share(share: float | None) -> float:
    return math.inf if share is None else share


def _worst_first(record: Row, facts: PageFacts | None) -> tuple[bool, int, float]:
    share = 0.0 if facts is None else _share(facts.tightest[1])
    return bool(record["passed"]), _order(record["strictness"]), -share if record["strictness"] == "must_pass" else 0.0


def _order(strictness: str) -> int:
    return list(EXPECTED).index(strictness) if strictness in EXPECTED else len(EXPECTED)


def _short(model: str) -> str:
    return model.rsplit("/", 1)[-1]
