"""The differences between two verified reports: their conditions, gates and measurements.

Example::

    diff = diff_reports(first, second)
    render_report_diff(diff)    # ["verdict: PASS -> FAIL", …, "10 gates compared, 4 have another result"]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from invarlock.packer.diffing import MEASURED, pair_text, shown_pair, verdict_pills

from invarlock.documents import JsonObject
from invarlock.guards import GUARDS
from invarlock.judgement.gate import Gate
from invarlock.metrics import METRICS
from invarlock.pages.document import html_document
from invarlock.pages.markup import Markup, breakable, element, join
from invarlock.pages.parts import counted, data_table, definition_list, pill
from invarlock.reports.gates import judge_gates
from invarlock.reports.rendering import subject_text
from invarlock.verdict.detectors import guard_flags

Report = Any
# A report has no expected result, and the reasons of its verdict are its gates.
MEASUREMENTS = tuple(key for key in MEASURED if key not in ("passed", "reasons"))
KINDS = {"passed": "pass", "failed": "fail", "warns": "warn"}
NO_GATE = "no gate"
DIGEST_CHARACTERS = len("sha256:") + 12


def diff_reports(first: Report, second: Report) -> JsonObject:
    """Return the differences between two reports; values are pairs ``[first, second]``.

    ``verdicts``, ``subjects`` and ``baselines`` have the values of both. ``conditions`` and ``measurements`` have the
    values that differ, by name. ``gates`` has a row for each gate whose result, measured value or limit differs; these
    are null for a report that lacks the gate.
    """
    reports = (first, second)
    gates = [{gate.flag: gate for gate in judge_gates(report, report["resolved_policy"])} for report in reports]
    rows = [_row(flag, [own.get(flag) for own in gates]) for flag in dict.fromkeys([*gates[0], *gates[1]])]
    return {
        "verdicts": [report["assurance"]["verdict"] for report in reports],
        "subjects": [_checkpoint(subject_text(report), report["subject"]["digest"]) for report in reports],
        "baselines": [_checkpoint(report["meta"]["model_id"], report["baseline_ref"]["digest"]) for report in reports],
        "conditions": _changed(*map(_conditions, reports)),
        "gates": [row for row in rows if any(row[key][0] != row[key][1] for key in ("results", "measured", "limits"))],
        "gates_compared": len(rows),
        "measurements": _changed(*map(_measurements, reports)),
    }


def render_report_diff(diff: Mapping[str, Any]) -> list[str]:
    """Return the differences as lines of text."""
    lines = []
    for name, key in (("verdict", "verdicts"), ("subject", "subjects"), ("baseline", "baselines")):
        first, second = diff[key]
        lines.append(f"{name}: {first}, in both reports" if first == second else f"{name}: {first} -> {second}")
    lines += [f"{key.replace('_', ' ')}: {' -> '.join(pair_text(*pair))}" for key, pair in diff["conditions"].items()]
    for row in _ordered(diff["gates"]):
        first, second = (result or NO_GATE for result in row["results"])
        parts = [f"{first} in both" if first == second else f"{first} -> {second}"]
        if None not in row["results"]:
            parts.append(" -> ".join(dict.fromkeys(row["measured"])))
            if row["limits"][0] != row["limits"][1]:
                parts.append(f"limit {' -> '.join(row['limits'])}")
        lines.append(f"{row['gate']}: {'; '.join(parts)}")
    lines += [f"{key}: {' -> '.join(pair_text(*pair))}" for key, pair in diff["measurements"].items()]
    return [*lines, _summary(diff)]


def render_report_diff_page(diff: Mapping[str, Any], names: tuple[str, str]) -> bytes:
    """Return the differences as an HTML page, styled like a report's page; ``names`` are the names of the reports."""
    subjects, baselines = diff["subjects"], diff["baselines"]
    body = join(
        (
            element(
                "header",
                element("p", "InvarLock comparison of two reports", class_="kind"),
                element("h1", _summary(diff)),
                definition_list(
                    {
                        "first report": names[0],
                        "second report": names[1],
                        "verdict": join(verdict_pills(diff["verdicts"], "reports")),
                        **_both_or_each("subject", subjects),
                        **_both_or_each("baseline", baselines),
                    }
                ),
            ),
            element("main", *_tables(diff)),
            element("footer", element("p", "Both reports verified when this page was made.")),
        )
    )
    return html_document(_summary(diff), body, is_wide=True)


def _row(flag: str, gates: Sequence[Gate | None]) -> JsonObject:
    return {
        "gate": flag,
        "results": [None if gate is None else _result(gate) for gate in gates],
        "measured": [None if gate is None else gate.measured for gate in gates],
        "limits": [None if gate is None else gate.limit for gate in gates],
    }


def _result(gate: Gate) -> str:
    return "passed" if gate.holds else "failed" if gate.blocks else "warns"


def _checkpoint(name: str, digest: str | None) -> str:
    """Return a checkpoint as one text; a served subject has no digest."""
    return name if digest is None else f"{name} {digest[:DIGEST_CHARACTERS]}"


def _conditions(report: Report) -> dict[str, Any]:
    """Return what a report's numbers depend on besides its subject and baseline."""
    data, meta, policy = report["dataset"], report["meta"], report["policy_provenance"]
    texts = data.get("slices", [data])
    windows = [
        f"{text['windows']['preview']} preview and {text['windows']['final']} final of {text['seq_len']} tokens"
        for text in texts
    ]
    return {
        "text": data["source_sha256"],
        "windows": windows,
        "seeds": [f"{name} {seed}" for name, seed in sorted(meta["seeds"].items())],
        "tier": policy["tier"],
        "profile": report["context"]["profile"],
        "overrides": [f"{name} {value}" for name, value in sorted(policy["overrides"].items())],
        "preset": policy["preset_sha256"],
        "policy": policy["policy_digest"],
        "declared_changes": list(report["edit"].get("expected", ())),
        "device": f"{meta['device']}, {meta['dtype']}, attention {meta['attention']}",
        "subject_scored_as": report["scoring"]["scored_as"]["subject"],
        "subject_not_scored": report["scoring"]["not_scored"],
    }


def _measurements(report: Report) -> dict[str, Any]:
    """Return the measurements of a report under the names that the records of a verdict have."""
    found = {
        "ratio_vs_baseline": report["primary_metric"]["ratio_vs_baseline"],
        "guard_flags": guard_flags(report),
        **{key: fact for guard in GUARDS for key, fact in guard.facts(report[guard.name]).items()},
        **{key: fact for metric in METRICS for key, fact in metric.facts(report[metric.name]).items()},
    }
    # only reports of several texts have values by slice
    return {key: found.get(key, {} if key.endswith("_by_slice") else None) for key in MEASUREMENTS}


def _changed(first: Mapping[str, Any], second: Mapping[str, Any]) -> JsonObject:
    return {key: [value, second[key]] for key, value in first.items() if value != second[key]}


def _ordered(gates: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the gates with another result first."""
    return sorted(gates, key=lambda row: row["results"][0] == row["results"][1])


def _summary(diff: Mapping[str, Any]) -> str:
    other = sum(row["results"][0] != row["results"][1] for row in diff["gates"])
    verb = "has" if other == 1 else "have"
    return f"{counted(diff['gates_compared'], 'gate')} compared, {other} {verb} another result"


def _both_or_each(name: str, pair: Sequence[str]) -> dict[str, str]:
    if pair[0] == pair[1]:
        return {name: f"{pair[0]}, in both reports"}
    return {f"first {name}": pair[0], f"second {name}": pair[1]}


def _tables(diff: Mapping[str, Any]) -> Iterator[Markup]:
    gates = [
        (
            element("code", breakable(row["gate"])),
            *(NO_GATE if result is None else pill(result, KINDS[result]) for result in row["results"]),
            *("" if text is None else text for text in row["measured"]),
            " → ".join(dict.fromkeys(limit for limit in row["limits"] if limit is not None)),
        )
        for row in _ordered(diff["gates"])
    ]
    yield element("h2", "Gates that differ")
    heads = ("gate", "first", "second", "measured, first", "measured, second", "limit")
    yield data_table(heads, gates, "none")
    for title, rows in (("Other conditions", diff["conditions"]), ("Other measurements", diff["measurements"])):
        yield element("h2", title)
        cells = [(key.replace("_", " "), *shown_pair(key, *pair)) for key, pair in rows.items()]
        yield data_table(("what", "first", "second"), cells, "none")
