"""The end of a run for a CI service: a summary in Markdown, annotations of failed cases, and a badge.

Example::

    badge(verdict)      # {"schemaVersion": 1, "label": "InvarLock", "message": "PASS, 84 of 84 cases", ...}

The badge is an endpoint badge of shields.io; annotations are workflow commands of GitHub Actions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from invarlock.errors import printable
from invarlock.reports.markdown import code_block, code_span, inline
from invarlock.verdict.rendering import count_sentences, headline
from invarlock.verdict.words import NO_REPORT, expectation_words, expected_words, seen_words

Row = Mapping[str, Any]
# GitHub shows up to ten annotations per step, and a summary of up to one megabyte.
MAX_ANNOTATIONS = 10
MAX_ROWS = 500
BADGE_NAME = "badge.json"
_COLOURS = {"PASS": "brightgreen", "FAIL": "red"}


def badge(verdict: Row) -> dict[str, Any]:
    """Return the verdict as an endpoint badge of shields.io."""
    counts = verdict["counts"]
    return {
        "schemaVersion": 1,
        "label": "InvarLock",
        "message": f"{verdict['verdict']}, {counts['records_passed']} of {counts['cases_total']} cases",
        "color": _COLOURS.get(verdict["verdict"], "lightgrey"),
    }


def job_summary(verdict: Row, lines: Sequence[str], artifacts: str | None = None) -> str:
    """Return the summary of a run in Markdown: the expectation of each scenario and the result on each model.

    Args:
        verdict: the verdict of the run.
        lines: the lines that the run printed at its end.
        artifacts: the URL of the job's artifacts, None if unknown.
    """
    missing: Sequence[Row] = verdict.get("missing", {}).get("cases", ())
    rows = [*verdict["records"], *missing]
    models = sorted({row["model"] for row in rows})
    cells: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in rows:
        scenario = cells.setdefault((row["name"], row["strictness"]), {})
        scenario.setdefault(row["model"], []).append(_cell(row))
    found = sorted(cells.items(), key=lambda item: (not _is_bad(item[1]), item[0][1], item[0][0]))
    table = [
        f"| scenario | expected | {' | '.join(_escaped(model) for model in models)} |",
        f"| --- | --- |{' --- |' * len(models)}",
    ]
    for (name, strictness), by_model in found[:MAX_ROWS]:
        seen = " | ".join(", ".join(by_model.get(model, ["–"])) for model in models)
        table.append(f"| {_escaped(name)} | {expected_words(strictness)} | {seen} |")
    if len(found) > MAX_ROWS:
        table.append(f"\nand {len(found) - MAX_ROWS} more scenarios")
    where = f"[Artifacts of this run]({artifacts}): open `index.html` of the evidence pack.\n\n" if artifacts else ""
    failed = verdict["failed_requirements"]
    reasons = f"**Failed requirements**\n\n{code_block(failed[:MAX_ROWS])}\n" if failed else ""
    printed = f"<details><summary>What the run printed</summary>\n\n{code_block(lines)}\n</details>\n"
    counts = "\n".join(count_sentences(verdict))
    shown = "\n".join(table)
    return f"## InvarLock: {inline(headline(verdict))}\n\n{counts}\n\n{where}{reasons}{shown}\n\n{printed}"


def failure_annotations(verdict: Row) -> Iterator[str]:
    """Yield a workflow command of GitHub Actions for each failed requirement."""
    for reason in verdict["failed_requirements"][:MAX_ANNOTATIONS]:
        case, separator, words = reason.partition(": ")
        title = f"InvarLock: {case}" if separator else "InvarLock"
        yield f"::error title={_property(title)}::{_data(words if separator else reason)}"


def _cell(row: Row) -> str:
    if "passed" not in row:
        return f"❌ {NO_REPORT.lower()}"
    mark = {"": "➖", "as expected": "✅"}.get(expectation_words(row), "❌")
    return f"{mark} {seen_words(row)}" + ("" if row["passed"] else ", not as expected")


def _is_bad(by_model: Mapping[str, list[str]]) -> bool:
    return any(cell.startswith("❌") for cells in by_model.values() for cell in cells)


def _escaped(value: str) -> str:
    """Return a value for a cell of a Markdown table."""
    return code_span(value.replace("|", "/"))


def _data(text: str) -> str:
    return printable(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
