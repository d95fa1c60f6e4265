"""Judging a case by its report, and explaining why it is not as expected.

A suites folder imports this module when its cases are collected, so functions import the modules that need NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invarlock.catalog.cases import Case
from invarlock.text_tables import text_table
from invarlock.verdict.documents import Record


def judge_case(case: Case, report: Mapping[str, Any]) -> Record:
    """Return the verdict's record of a case's report."""
    # imported here: it imports NumPy
    from invarlock.verdict.compiling import Planned, judge_report

    key = {"model": case.model.id, "scenario": case.scenario.id, "run": case.run}
    return judge_report(Planned(case.report_folder, key, case.scenario.document), report, "")


def explain(record: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Explain why a case is not as expected: the reasons, then a table of gates, measured values and limits."""
    # imported here: it imports NumPy
    from invarlock.reports.gates import judge_gates

    rows = [("gate", "measured", "limit", "")]
    for gate in judge_gates(report, report["resolved_policy"]):
        rows.append((gate.flag, gate.measured, gate.limit, "passed" if gate.holds else "failed"))
    name = f"{record['name']} ({record['edit_spec']})"
    return "\n".join([f"{name} on {record['model']} is not as expected", *record["reasons"], "", *text_table(rows)])
