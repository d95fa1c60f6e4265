"""The verdict as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from invarlock.errors import printable
from invarlock.text_tables import fit_line, text_table
from invarlock.verdict.words import NO_REPORT, expectation_words, expected_words, seen_words

# A description of the cases of each strictness; cases of the last one do not affect the verdict.
KINDS = {
    "must_pass": ("clean", "clean"),
    "must_fail": ("destructive", "destructive"),
    "must_detect": ("fault", "faults"),
}
INFORMATIONAL = "informational"
# Columns of the table that are left out on a narrow terminal, least important first.
OPTIONAL = ("edit or fault", "guards that signal", "KL", "expected")


def headline(verdict: Mapping[str, Any]) -> str:
    """Return the verdict in a few words; for a partial pack, they start with the number of its cases."""
    total, left_out = verdict["counts"]["cases_total"], len(verdict.get("not_bundled", ()))
    if not left_out:
        return str(verdict["verdict"])
    bundled = f"the pack has {total - left_out} of {total} cases"
    return f"verdict not derived: {bundled}" + (", not all as expected" if verdict["verdict"] == "FAIL" else "")


def render_verdict_text(verdict: Mapping[str, Any]) -> str:
    """Return ``final_verdict.txt``: the verdict, its reasons, the counts, and one line per scenario."""
    return "\n".join(map(printable, verdict_lines(verdict))) + "\n"


def verdict_lines(verdict: Mapping[str, Any], columns: int | None = None) -> list[str]:
    """Return the lines of a verdict, formatted for the width of a terminal.

    Args:
        verdict: the verdict document.
        columns: the width of the terminal, None for no limit.
    """
    lines = [f"Verdict: {headline(verdict).removeprefix('verdict ')}", "", *count_sentences(verdict)]
    if "not_bundled" in verdict:
        lines += ["", "Not bundled:", *(f"  - {case}" for case in verdict["not_bundled"])]
    if verdict["failed_requirements"]:
        lines += ["", "Failed requirements:", *(f"  - {reason}" for reason in verdict["failed_requirements"])]
    fitted = [part for line in lines for part in fit_line(line, columns)]
    return [*fitted, "", *scenario_table(verdict, columns)]


def count_sentences(verdict: Mapping[str, Any]) -> list[str]:
    """Return sentences on how many cases are as expected, how many are informational, and how many of those signal."""
    counts = verdict["counts"]
    models = f"{counts['models_total']} model" + ("s" if counts["models_total"] != 1 else "")
    lines = [
        f"{counts['records_passed']} of {counts['cases_total']} cases as expected on {models}: "
        f"{counts['clean_pass']} of {counts['clean_total']} clean edits pass, "
        f"{counts['catastrophic_required_fail']} of {counts['catastrophic_required_total']} destructive edits fail, "
        f"{counts['error_injection_detected']} of {counts['error_injection_total']} faults are detected.",
        *_kinds(verdict),
    ]
    total = counts["informational_stress_total"]
    if total:
        lines.append(f"{counts['informational_stress_signaled']} of {total} informational stress edits signal.")
    return lines


def _kinds(verdict: Mapping[str, Any]) -> list[str]:
    """Return the number of cases of each kind, which add up to all cases; empty for a partial pack."""
    rows = [*verdict["records"], *verdict.get("missing", {}).get("cases", ())]
    total = verdict["counts"]["cases_total"]
    found = [_number_of(count, *words) for kind, words in KINDS.items() if (count := _count(rows, strictness=kind))]
    silent = _count(rows, strictness=INFORMATIONAL)
    if not rows or len(rows) != total:
        return []
    if silent:
        faults = _count(rows, strictness=INFORMATIONAL, category="error_injection")
        both = f"{_number_of(silent - faults, 'edit', 'edits')}, {_number_of(faults, 'fault', 'faults')}"
        some = f" ({both})" if 0 < faults < silent else ""
        found.append(f"{silent} informational{some}, which do not affect the verdict")
    return [f"{_number_of(total, 'case', 'cases')}: {', '.join(found)}."]


def _number_of(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _count(rows: Sequence[Mapping[str, Any]], **wanted: str) -> int:
    return sum(all(row[key] == value for key, value in wanted.items()) for row in rows)


def _seen(record: Mapping[str, Any]) -> str:
    return expectation_words(record) or seen_words(record)


def _planned(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    run = f" run {row['run_num']}" if row["run_num"] > 1 else ""
    model = row["model"].rsplit("/", 1)[-1]
    return f"{row['name']}{run}", row["edit_spec"], expected_words(row["strictness"]), model


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def scenario_table(verdict: Mapping[str, Any], columns: int | None = None) -> list[str]:
    """Return a table with a row per scenario and model: the applied edit or fault, the ratio, the mean KL, the result.

    Cases without a report come last, with their plan.

    Args:
        verdict: the document.
        columns: the width of the terminal, None for no limit.
    """
    rows = [("scenario", "edit or fault", "expected", "model", "ratio", "KL", "guards that signal", "")]
    for record in verdict["records"]:
        ratio, kl = _number(record["ratio_vs_baseline"]), _number(record["fidelity_kl_mean"])
        raised = [guard for guard, flag in record["guard_flags"].items() if flag]
        rows.append((*_planned(record), ratio, kl, ", ".join(raised) or "-", _seen(record)))
    rows += [(*_planned(case), "-", "-", "-", NO_REPORT) for case in verdict.get("missing", {}).get("cases", ())]
    return text_table(rows, columns, OPTIONAL)
