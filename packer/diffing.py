"""What changed between two packs: scenario by scenario, ratio by ratio. Both are verified first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Case = tuple[str, str, int]
# What a record of the verdict says that a person would ask about, in the order of the output.
COMPARED = ("passed", "ratio_vs_baseline", "guard_flags", "invariants_status", "spectral_caps_applied", "reasons")
# What stands over the cases.
HEADLINES = ("verdict", "counts")


def diff_verdicts(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return what differs between two derived verdicts.

    ``cases`` has a row for each case whose record differs, ``only_in_first`` and ``only_in_second`` the cases that the
    other does not have. Values stand as ``[first, second]``.
    """
    ours, theirs = _records(first), _records(second)
    rows = []
    for case in sorted(ours.keys() & theirs.keys()):
        changed = {
            key: [ours[case][key], theirs[case][key]] for key in COMPARED if ours[case][key] != theirs[case][key]
        }
        if changed:
            rows.append({"model": case[0], "scenario": case[1], "run": case[2], "changed": changed})
    return {
        **{key: [first[key], second[key]] for key in HEADLINES if first[key] != second[key]},
        "only_in_first": [_name(case) for case in sorted(ours.keys() - theirs.keys())],
        "only_in_second": [_name(case) for case in sorted(theirs.keys() - ours.keys())],
        "cases": rows,
        "cases_compared": len(ours.keys() & theirs.keys()),
    }


def render_diff(diff: Mapping[str, Any]) -> list[str]:
    """Return the lines that tell a person what differs."""
    names = ("the first", "the second")
    signed = zip(names, diff.get("signed", (True, True)), strict=True)
    lines = [f"{name} pack is not signed: anybody could have made it" for name, is_signed in signed if not is_signed]
    if "verdict" in diff:
        lines.append(f"verdict: {diff['verdict'][0]} -> {diff['verdict'][1]}")
    for name, key in (("only in the first", "only_in_first"), ("only in the second", "only_in_second")):
        lines += [f"{name}: {case}" for case in diff[key]]
    for row in diff["cases"]:
        changes = [f"{key} {_value(old)} -> {_value(new)}" for key, (old, new) in row["changed"].items()]
        lines.append(f"{_name((row['model'], row['scenario'], row['run']))}: {'; '.join(changes)}")
    compared, changed = diff["cases_compared"], len(diff["cases"])
    return [*lines, f"{compared} cases compared, {changed} differ"]


def _records(verdict: Mapping[str, Any]) -> dict[Case, Mapping[str, Any]]:
    return {(record["model"], record["name"], record["run_num"]): record for record in verdict["records"]}


def _name(case: Case) -> str:
    return f"{case[0]} {case[1]} run {case[2]}"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        raised = [key for key, flag in value.items() if flag]
        return ", ".join(raised) or "no guard"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return str(value)
