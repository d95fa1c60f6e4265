"""Cases: scenario × model × run, and the effective manifest that lists the cases of a run.

The effective manifest is ``scenarios.json`` reduced to the selected scenarios, with a ``selection`` added. Planning,
verdict and verification read it, so that a one-sided selection stays one-sided everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from invarlock.catalog.models import Model, Models, folder_name
from invarlock.catalog.scenarios import Scenario
from invarlock.documents.catalog import EffectiveManifest
from invarlock.errors import DocumentError, UsageError
from invarlock.problems import Code

SCHEMA = "evidence_pack_scenarios_v1"
# The key of a suite's policy, in models.toml and in the ``selection`` of an effective manifest.
SIGNAL_POLICY = "informational_stress_min_signal_fraction"


@dataclass(frozen=True)
class Case:
    """One run of one scenario on one model, and the suites that include it."""

    model: Model
    scenario: Scenario
    run: int
    suites: tuple[str, ...]

    @property
    def id(self) -> str:
        """The bracketed part of the node id: ``mistral-7b-v0.1-quant_4bit_clean-run1``."""
        return case_id(self.model.id, self.scenario.id, self.run)

    @property
    def report_folder(self) -> str:
        """The folder of the case's report below ``reports/``, in a pack and in a run."""
        return report_folder(self.model.id, self.scenario.id, self.scenario.category, self.run)


def case_id(model_id: str, scenario: str, run: int) -> str:
    """Return the bracketed part of a case's node id."""
    return f"{model_id.rsplit('/', 1)[-1].lower()}-{scenario}-run{run}"


def planned_edit(scenario: Mapping[str, Any], model_id: str) -> str:
    """Return the edit spec or fault name that makes the subject of a case, from its scenario's row.

    The parameters of a ``clean`` spec are the tuned parameters of the model.
    """
    generation = scenario["generation"]
    if generation["kind"] == "error":
        return str(generation["error_type"])
    if generation["kind"] == "brought":
        return str(generation["edit_label"])
    return str(generation.get("edit_spec_by_model", {}).get(model_id, generation["edit_spec"]))


def report_folder(model_id: str, scenario: str, category: str, run: int) -> str:
    """Return the folder of a case's report: faults under ``errors``, edits by run."""
    if category == "error_injection":
        return f"{folder_name(model_id)}/errors/{scenario}"
    return f"{folder_name(model_id)}/{scenario}/run_{run}"


def plan_cases(
    models: Models, scenarios: Sequence[Scenario], clean_runs: int | None = None, stress_runs: int | None = None
) -> list[Case]:
    """Return the cases of all suites, small models first, then by model, in the catalog's order.

    Args:
        models: the models and their suites.
        scenarios: the scenarios of the catalog.
        clean_runs: number of runs of each clean scenario; None uses the suite's number.
        stress_runs: number of runs of each stress scenario.

    Raises:
        DocumentError: when two models would share node ids.
    """
    names: dict[str, str] = {}
    for model in models.models.values():
        other = names.setdefault(model.short_name, model.id)
        if other != model.id:
            raise DocumentError(
                f"models.toml: {other!r} and {model.id!r} would share node ids; rename one", code=Code.SUITE_MALFORMED
            )
    cases = []
    for model in sorted(models.models.values(), key=lambda model: model.weight_bytes):
        suites = [suite for suite in models.suites.values() if model.id in suite.models]
        for scenario in scenarios:
            having = [suite for suite in suites if scenario.in_suite(suite)]
            if not having:
                continue
            runs = {
                "clean": max(suite.clean_runs for suite in having) if clean_runs is None else clean_runs,
                "stress": max(suite.stress_runs for suite in having) if stress_runs is None else stress_runs,
            }
            cases += [
                Case(model, scenario, run, tuple(suite.name for suite in having))
                for run in range(1, runs.get(scenario.category, 1) + 1)
            ]
    return cases


def effective_manifest(
    suite: str,
    cases: Sequence[Case],
    scenarios: Iterable[Scenario],
    expression: Mapping[str, Any],
    min_signal_fraction: float | None = None,
) -> EffectiveManifest:
    """Return the effective manifest of the selected cases.

    Args:
        suite: the suite's name.
        cases: the selected cases.
        scenarios: the scenarios of the catalog.
        expression: the options that selected the cases.
        min_signal_fraction: the suite's ``informational_stress_min_signal_fraction``.

    Raises:
        UsageError: when nothing is selected.
    """
    if not cases:
        raise UsageError("no case is selected; list the cases with --collect-only", code=Code.SELECTION_INVALID)
    chosen = {case.scenario.id for case in cases}
    models = {case.model.id: case.model for case in cases}
    rows = sorted((case.model.id, case.scenario.id, case.run) for case in cases)
    manifest = {
        "schema": SCHEMA,
        "schema_version": 1,
        "scenarios": [dict(scenario.document) for scenario in scenarios if scenario.id in chosen],
        "selection": {
            "suite": suite,
            "models": [
                {"model_id": model.id, "revision": model.revision, "licence": model.licence}
                for model in sorted(models.values(), key=lambda model: model.id)
            ],
            "scenario_ids": sorted(chosen),
            "expression": dict(expression),
            "cases": [{"model": model, "scenario": scenario, "run": run} for model, scenario, run in rows],
            **({} if min_signal_fraction is None else {SIGNAL_POLICY: min_signal_fraction}),
        },
    }
    return cast("EffectiveManifest", manifest)
