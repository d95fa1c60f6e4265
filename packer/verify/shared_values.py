"""Values that the facts of many reports have in common, kept once."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from invarlock.packer.verify.report import ExaminedReport, ReportFacts


class SharedValues:
    """Keeps one object of equal ones: the reports of a run repeat their settings, versions and names of fields."""

    def __init__(self) -> None:
        self._seen: dict[tuple[tuple[str, type, Any], ...], Mapping[str, Any]] = {}

    def examined(self, report: ExaminedReport) -> ExaminedReport:
        """Return the same report with shared facts."""
        return report if report.facts is None else replace(report, facts=self.facts(report.facts))

    def facts(self, facts: ReportFacts) -> ReportFacts:
        """Return the same facts; their mappings of plain values are those of an earlier report if they are equal."""
        return replace(
            facts,
            context=self.one(facts.context),
            settings=self.one(facts.settings),
            validation=self.one(facts.validation),
            versions=self.one(facts.versions),
            telemetry={sys.intern(name): value for name, value in facts.telemetry.items()},
        )

    def one(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the first mapping that was given with these names and plain values, of the same types and order."""
        # 1, 1.0 and True are equal, but their texts differ
        return self._seen.setdefault(tuple((name, type(value), value) for name, value in values.items()), values)
