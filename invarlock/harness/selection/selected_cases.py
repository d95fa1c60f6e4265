"""The cases of a run: the suite selected by ``-m``, the scenario ids, and pytest's own deselection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

from invarlock.catalog.cases import Case, plan_cases
from invarlock.catalog.models import Model, Models, Text
from invarlock.catalog.node_ids import parameter_id
from invarlock.catalog.scenarios import Scenario
from invarlock.catalog.slots import fill_slots
from invarlock.errors import UsageError
from invarlock.harness.selection.mark_expressions import MarkExpression
from invarlock.nearest import did_you_mean
from invarlock.problems import Code
from invarlock.settings import Settings
from invarlock.settings.table import MODEL_SLOTS

DEFAULT_SUITE = "smoke"
# the suite of the user's own checkpoints
BYOE_SUITE = "byoe"
CATEGORY_MARKS = ("clean", "stress", "error_injection", "deployable")
# Categories that run only when -m, --scenario-ids or a node id names them.
OPT_IN_CATEGORIES = ("deployable",)
SENTINEL_MARK = "sentinel"
DEVICE_MARKS = ("cpu", "gpu")
# the maximum number of mark combinations tried when an expression is examined
MAX_COMBINATIONS = 1 << 12


@dataclass(frozen=True)
class Catalog:
    """The content of a suites folder, and the suite of this run.

    ``folder_marks`` are the folder's marks, including those of suites and models that the user's checkpoints replace.
    """

    models: Models
    scenarios: tuple[Scenario, ...]
    cases: tuple[Case, ...]
    suite: str
    categories: tuple[str, ...] = CATEGORY_MARKS
    sentinels: bool = False
    embedded_text: Text | None = None
    folder_marks: tuple[str, ...] = ()

    def selects(self, case: Case, scenario_ids: Sequence[str] | None) -> bool:
        """Return whether a case belongs to the run's suite, scenarios and categories."""
        wanted = scenario_ids is None or case.scenario.id in scenario_ids
        return wanted and self.suite in case.suites and case.scenario.category in self.categories

    def has_model(self, model: Model) -> bool:
        """Return whether a model belongs to the run's suite."""
        return model.id in self.models.suites[self.suite].models

    def model_marks(self, model: Model) -> list[str]:
        """Return the marks of a null run: its model's suites, its model, and the device it needs."""
        return _model_marks(self.models, model)

    def marks(self, case: Case) -> list[str]:
        """Return the marks of a case: its suites, its category, its model, and the device it needs."""
        return _marks(self.models, case)

    def known_marks(self) -> list[str]:
        """Return every mark that a case can have."""
        fixed = (BYOE_SUITE, *CATEGORY_MARKS, *DEVICE_MARKS, SENTINEL_MARK)
        return list(dict.fromkeys((*marks_of(self.models), *self.folder_marks, *fixed)))

    def planned(self, case_ids: Sequence[str]) -> list[Case]:
        """Return the cases with the given ids, in the plan's order."""
        wanted = set(case_ids)
        return [case for case in self.cases if case.id in wanted]

    def model(self, model_id: str) -> Model:
        """Return a model by its id."""
        return self.models.models[model_id]


def marks_of(models: Models) -> tuple[str, ...]:
    """Return the marks of suites and of models."""
    return (*models.suites, *(model.short_name for model in models.models.values()))


def is_byoe(expression: MarkExpression, models: Models, settings: Settings) -> bool:
    """Return whether a run validates the user's own checkpoints."""
    # the model of a user's baseline has a mark too, but its name is known only after the baseline is read
    fixed = {BYOE_SUITE, *models.suites, *CATEGORY_MARKS}
    others = [name for name in expression.names if name not in fixed]
    rows = (
        {BYOE_SUITE, "clean", *(name for name, there in zip(others, chosen, strict=True) if there)}
        for chosen in islice(product((True, False), repeat=len(others)), MAX_COMBINATIONS)
    )
    return expression.selects_by(BYOE_SUITE, rows) or settings.baseline is not None or bool(settings.subjects)


def named_suites(models: Models, cases: Sequence[Case], expression: MarkExpression) -> list[str]:
    """Return the suites that a mark expression names, that is, whose mark causes some of their cases to be selected."""
    rows = {frozenset(marks) for marks in _all_marks(models, cases)}
    return [suite for suite in models.suites if expression.selects_by(suite, rows)]


def check_mark_names(expression: MarkExpression, known: Sequence[str]) -> None:
    """Refuse an expression with a mark that is defined neither by the suites nor in pytest's configuration.

    Raises:
        UsageError: when a mark is unknown; the message names it and the most similar known mark.
    """
    for name in expression.names:
        if name not in known:
            raise UsageError(
                f"-m {expression.text!r}: no case has the mark {name!r}{did_you_mean(name, known)}; "
                "pytest --markers lists all, and pytest's configuration registers marks of your own tests",
                code=Code.SELECTION_INVALID,
            )


def make_catalog(
    models: Models,
    scenarios: tuple[Scenario, ...],
    expression: MarkExpression,
    node_ids: Sequence[str],
    settings: Settings,
) -> Catalog:
    """Return the catalog of a run.

    The suite is the one named in ``-m``, otherwise that of the given node ids, otherwise ``smoke``.

    Raises:
        UsageError: when ``-m`` names several suites or selects cases of other suites, when node ids belong to several
            suites, when a scenario id is unknown, or when a slot has no model.
    """
    scenario_ids = settings.scenario_ids
    cases = tuple(plan_cases(models, scenarios, settings.clean_runs, settings.stress_runs))
    known = {scenario.id: scenario for scenario in scenarios}
    for name in scenario_ids or ():
        if name not in known:
            found = did_you_mean(name, known)
            raise UsageError(
                f"--scenario-ids: {name!r} is unknown{found}; known: {', '.join(sorted(known))}",
                code=Code.SELECTION_INVALID,
            )
    suite = _suite(models, cases, expression, node_ids)
    texts = [text for row in models.suites.values() for text in row.texts if text.dataset == "embedded"]
    slots = [settings.value(f"model_{slot}") for slot in range(1, MODEL_SLOTS + 1)]
    if any(given is not None for given in slots):
        models = fill_slots(models, suite, slots)
        cases = tuple(plan_cases(models, scenarios, settings.clean_runs, settings.stress_runs))
    left_out = set() if settings.error_injection else {"error_injection"}
    rows = [set(_marks(models, case)) for case in cases]
    requested = {name for name in CATEGORY_MARKS if expression.selects_by(name, rows)}
    requested |= {known[name].category for name in scenario_ids or ()}
    requested |= {case.scenario.category for case in cases if case.id in _case_ids(node_ids)}
    left_out |= set(OPT_IN_CATEGORIES) - requested
    categories = tuple(name for name in CATEGORY_MARKS if name not in left_out)
    sentinels = expression.selects_by(SENTINEL_MARK, [{SENTINEL_MARK}]) or any(
        "::test_sentinel[" in n for n in node_ids
    )
    return Catalog(models, scenarios, cases, suite, categories, sentinels, texts[0] if texts else None)


def _suite(models: Models, cases: Sequence[Case], expression: MarkExpression, node_ids: Sequence[str]) -> str:
    """Return the suite of a run.

    Raises:
        UsageError: when ``-m`` or node ids name several suites, or cases that only other suites have.
    """
    suites = named_suites(models, cases, expression)
    if len(suites) > 1:
        raise UsageError(
            f"-m {expression.text!r}: selects cases of the suites {' and '.join(suites)}, but a run has one suite; "
            "select one, or run them one after the other",
            code=Code.SELECTION_INVALID,
        )
    if suites:
        return suites[0]
    suite = _suite_of(cases, node_ids) or _default_suite(models)
    selected = [marks for marks in _all_marks(models, cases) if expression.selects(marks)]
    others = [name for name in models.suites if any(name in marks for marks in selected)]
    # a mark that no case has belongs to one of the folder's own tests, or is unknown, which is reported later
    foreign = set(expression.names) - set().union(*_all_marks(models, cases), models.suites)
    if others and suite not in others and not foreign:
        raise UsageError(
            f"-m {expression.text!r}: selects no case of suite {suite}, but cases of {', '.join(others)}; "
            f"select one suite, such as -m '{others[0]} and ({expression.text.strip()})'",
            code=Code.SELECTION_INVALID,
        )
    return suite


def _marks(models: Models, case: Case) -> list[str]:
    """Return the marks of a case: its suites, its category, its model, and the device it needs."""
    needs = {models.suites[name].requires for name in case.suites}
    return [*case.suites, case.scenario.category, case.model.short_name, *sorted(needs)]


def _model_marks(models: Models, model: Model) -> list[str]:
    suites = [suite for suite in models.suites.values() if model.id in suite.models]
    return [*(suite.name for suite in suites), model.short_name, *sorted({suite.requires for suite in suites})]


def _all_marks(models: Models, cases: Sequence[Case]) -> Iterator[frozenset[str]]:
    """Yield the marks of each case, and of each model's null runs."""
    yield from (frozenset(_marks(models, case)) for case in cases)
    yield from (frozenset(_model_marks(models, model)) for model in models.models.values())


def _case_ids(node_ids: Sequence[str]) -> set[str]:
    return {parameter_id(node) for node in node_ids if "[" in node}


def _default_suite(models: Models) -> str:
    return DEFAULT_SUITE if DEFAULT_SUITE in models.suites else next(iter(models.suites))


def _suite_of(cases: Sequence[Case], node_ids: Sequence[str]) -> str | None:
    """Return the first suite that has all cases named by node ids, or None if no case is named.

    Raises:
        UsageError: when no suite has all of these cases.
    """
    wanted = _case_ids(node_ids)
    named = [case for case in cases if case.id in wanted]
    if not named:
        return None
    shared = set.intersection(*(set(case.suites) for case in named))
    if not shared:
        suites = ", ".join(dict.fromkeys(case.suites[0] for case in named))
        raise UsageError(
            f"the given cases belong to the suites {suites}, but a run has one; give cases of one suite",
            code=Code.SELECTION_INVALID,
        )
    return next(suite for suite in named[0].suites if suite in shared)
