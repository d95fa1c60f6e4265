"""Cases: scenario × model × run, and the effective manifest that says which of them a run has.

The effective manifest is ``scenarios.json`` reduced to what was selected, with a ``selection`` beside it. Planning,
verdict and verification read it, so that a one-sided selection stays one-sided everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from invarlock.catalog.models import Model, Models, Suite, folder_name
from invarlock.catalog.scenarios import Scenario
from invarlock.errors import UsageError

SCHEMA = "evidence_pack_scenarios_v1"


@dataclass(frozen=True)
class Case:
    """One scenario on one model, once."""

    suite: str
    model: Model
    scenario: Scenario
    run: int

    @property
    def id(self) -> str:
        """The bracketed part of the node id: ``mistral-7b-v0.1-quant_4bit_clean-run1``."""
        return f"{self.model.short_name}-{self.scenario.id}-run{self.run}"

    @property
    def report_folder(self) -> str:
        """The folder of the case's report below ``reports/``, in a pack and in a run."""
        return report_folder(self.model.id, self.scenario.id, self.scenario.category, self.run)


def report_folder(model_id: str, scenario: str, category: str, run: int) -> str:
    """Return the folder of a case's report: faults under ``errors``, edits by run."""
    if category == "error_injection":
        return f"{folder_name(model_id)}/errors/{scenario}"
    return f"{folder_name(model_id)}/{scenario}/run_{run}"


def plan_cases(models: Models, suite: Suite, scenarios: Sequence[Scenario]) -> list[Case]:
    """Return all runnable cases of a suite, small models first, then by model, in the catalog's order.

    Raises:
        UsageError: when two models of the suite would share node ids.
    """
    chosen = models.of_suite(suite.name)
    names = [model.short_name for model in chosen]
    if len(set(names)) < len(names):
        raise UsageError(f"suite {suite.name!r}: two models share a short name, their node ids would clash: {names}")
    runs = {"clean": suite.clean_runs, "stress": suite.stress_runs}
    return [
        Case(suite.name, model, scenario, run)
        for model in chosen
        for scenario in scenarios
        if scenario.in_suite(suite.name) and scenario.not_runnable is None
        for run in range(1, runs.get(scenario.category, 1) + 1)
    ]


def effective_manifest(
    cases: Sequence[Case], scenarios: Iterable[Scenario], expression: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the manifest of the cases selected; ``expression`` holds the options that selected them.

    Raises:
        UsageError: when nothing is selected, or cases of several suites are.
    """
    if not cases:
        raise UsageError("no case is selected; see --collect-only for the cases there are")
    suites = {case.suite for case in cases}
    if len(suites) > 1:
        raise UsageError(f"cases of several suites are selected ({', '.join(sorted(suites))}); a run has one, use -m")
    chosen = {case.scenario.id for case in cases}
    models = {case.model.id: case.model for case in cases}
    rows = sorted((case.model.id, case.scenario.id, case.run) for case in cases)
    return {
        "schema": SCHEMA,
        "schema_version": 1,
        "scenarios": [dict(scenario.document) for scenario in scenarios if scenario.id in chosen],
        "selection": {
            "suite": cases[0].suite,
            "models": [
                {"model_id": model.id, "revision": model.revision, "licence": model.licence}
                for model in sorted(models.values(), key=lambda model: model.id)
            ],
            "scenario_ids": sorted(chosen),
            "expression": dict(expression),
            "cases": [{"model": model, "scenario": scenario, "run": run} for model, scenario, run in rows],
        },
    }
