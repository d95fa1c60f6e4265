"""Which cases a run has: the suite that ``-m`` names, the scenario ids, and what pytest itself deselects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from invarlock.catalog.cases import Case, plan_cases
from invarlock.catalog.models import Model, Models, Text
from invarlock.catalog.scenarios import Scenario
from invarlock.catalog.slots import fill_slots
from invarlock.errors import UsageError
from invarlock.settings import Settings
from invarlock.settings.table import MODEL_SLOTS

DEFAULT_SUITE = "smoke"
# of checkpoints that the user brings
BYOE_SUITE = "byoe"
CATEGORY_MARKS = ("clean", "stress", "error_injection", "deployable")
# Categories that only run when they are named: by -m, --scenario-ids or a node id.
OPT_IN_CATEGORIES = ("deployable",)
SENTINEL_MARK = "sentinel"
DEVICE_MARKS = ("cpu", "gpu")
# a name in an expression of -m, as pytest reads it
_NAME = re.compile(r"[\w:+\-.\[\]\\/]+")


@dataclass(frozen=True)
class Catalog:
    """What a suites folder holds, and the suite that this run is of."""

    models: Models
    scenarios: tuple[Scenario, ...]
    cases: tuple[Case, ...]
    suite: str
    categories: tuple[str, ...] = CATEGORY_MARKS
    sentinels: bool = False
    embedded_text: Text | None = None

    def selects(self, case: Case, scenario_ids: Sequence[str] | None) -> bool:
        """Tell whether a case is one of the run's suite, scenarios and categories."""
        wanted = scenario_ids is None or case.scenario.id in scenario_ids
        return wanted and self.suite in case.suites and case.scenario.category in self.categories

    def has_model(self, model: Model) -> bool:
        """Tell whether a model is one of the run's suite."""
        return model.id in self.models.suites[self.suite].models

    def model_marks(self, model: Model) -> list[str]:
        """Return the marks of a null run: its model's suites, its model, and the device it needs."""
        suites = [suite for suite in self.models.suites.values() if model.id in suite.models]
        return [*(suite.name for suite in suites), model.short_name, *sorted({suite.requires for suite in suites})]

    def marks(self, case: Case) -> list[str]:
        """Return the marks of a case: its suites, its category, its model, and the device it needs."""
        needs = {self.models.suites[name].requires for name in case.suites}
        return [*case.suites, case.scenario.category, case.model.short_name, *sorted(needs)]

    def known_marks(self) -> list[str]:
        """Return every mark that a case can have."""
        models = [model.short_name for model in self.models.models.values()]
        return [*self.models.suites, *CATEGORY_MARKS, *DEVICE_MARKS, SENTINEL_MARK, *models]

    def planned(self, case_ids: Sequence[str]) -> list[Case]:
        """Return the cases of some ids, in the plan's order."""
        wanted = set(case_ids)
        return [case for case in self.cases if case.id in wanted]

    def model(self, model_id: str) -> Model:
        return self.models.models[model_id]


def is_byoe(mark_expression: str, settings: Settings) -> bool:
    """Tell whether a run is of checkpoints that the user brings."""
    named = re.search(rf"\b{BYOE_SUITE}\b", mark_expression) is not None
    return named or settings["baseline"] is not None or bool(settings["subjects"])


def make_catalog(
    models: Models,
    scenarios: tuple[Scenario, ...],
    mark_expression: str,
    node_ids: Sequence[str],
    settings: Settings,
) -> Catalog:
    """Return the catalog of a run.

    The suite is the one that ``-m`` names; without one, that of the node ids given, else ``smoke``.

    Raises:
        UsageError: when ``-m`` or node ids name several suites, a scenario id is unknown, or a slot holds no model.
    """
    scenario_ids = settings["scenario_ids"]
    cases = tuple(plan_cases(models, scenarios, settings["clean_runs"], settings["stress_runs"]))
    known = {scenario.id: scenario for scenario in scenarios}
    for name in scenario_ids or ():
        if name not in known:
            raise UsageError(f"--scenario-ids: {name!r} is unknown; known: {', '.join(sorted(known))}")
    marks = _NAME.findall(mark_expression)
    named = [suite for suite in models.suites if suite in marks]
    if len(named) > 1:
        raise UsageError(f"-m names the suites {' and '.join(named)}; a run has one")
    suite = named[0] if named else _suite_of(cases, node_ids) or _default_suite(models)
    texts = [row.text for row in models.suites.values() if row.text is not None and row.text.dataset == "embedded"]
    slots = [settings[f"model_{slot}"] for slot in range(1, MODEL_SLOTS + 1)]
    if any(given is not None for given in slots):
        models = fill_slots(models, suite, slots)
        cases = tuple(plan_cases(models, scenarios, settings["clean_runs"], settings["stress_runs"]))
    left_out = set() if settings["error_injection"] else {"error_injection"}
    asked = {*marks, *(known[name].category for name in scenario_ids or ())}
    asked |= {case.scenario.category for case in cases if case.id in _case_ids(node_ids)}
    left_out |= set(OPT_IN_CATEGORIES) - asked
    categories = tuple(name for name in CATEGORY_MARKS if name not in left_out)
    sentinels = SENTINEL_MARK in marks or any("::test_sentinel[" in node for node in node_ids)
    return Catalog(models, scenarios, cases, suite, categories, sentinels, texts[0] if texts else None)


def _case_ids(node_ids: Sequence[str]) -> set[str]:
    return {node.partition("[")[2].removesuffix("]") for node in node_ids if "[" in node}


def _default_suite(models: Models) -> str:
    return DEFAULT_SUITE if DEFAULT_SUITE in models.suites else next(iter(models.suites))


def _suite_of(cases: Sequence[Case], node_ids: Sequence[str]) -> str | None:
    """Return the first suite that has all cases named by node ids; None when none is named.

    Raises:
        UsageError: when no suite has them all.
    """
    wanted = _case_ids(node_ids)
    named = [case for case in cases if case.id in wanted]
    if not named:
        return None
    shared = set.intersection(*(set(case.suites) for case in named))
    if not shared:
        suites = ", ".join(dict.fromkeys(case.suites[0] for case in named))
        raise UsageError(f"the cases named are of the suites {suites}; a run has one")
    return next(suite for suite in named[0].suites if suite in shared)
