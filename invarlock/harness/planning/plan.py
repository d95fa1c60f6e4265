"""The plan of a session, as a document and as text.

Collecting shows the plan and imports nothing more. ``pytest --collect-only`` needs no PyTorch, NumPy or PyNaCl: modules
that check, measure or pack are imported in the functions that use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from invarlock.catalog.cases import Case, planned_edit
from invarlock.catalog.models import Model
from invarlock.catalog.scenarios import EditGeneration
from invarlock.catalog.tuned_params import NO_TUNED_PARAMS, TunedParams
from invarlock.documents.runs import PlanDocument
from invarlock.errors import InvarLockError, UsageError
from invarlock.harness.planning.sizing import disk_bytes, model_needs
from invarlock.harness.state.run import Run
from invarlock.nearest import did_you_mean
from invarlock.problems import Code

CALIBRATE_ONLY = "calibrate-only"
RUN_ONLY = "run-only"
# The property of a test in which a worker counts the null runs that it took from the preset cache.
REUSED = "null_runs_reused"


@dataclass(frozen=True)
class PlannedNullRun:
    """A null run of a model, identified by its number."""

    model: Model
    run: int

    @property
    def id(self) -> str:
        """The bracketed part of the null run's node id, such as ``mistral-7b-v0.1-null_run1``."""
        return f"{self.model.short_name}-null_run{self.run}"


def repeated_scenarios(run: Run, cases: Sequence[Case]) -> list[str]:
    """Return the scenarios whose cases ``--repeats`` measures again.

    Args:
        run: the run.
        cases: all selected cases of all shards.

    Raises:
        UsageError: if ``--repeat-scenario`` names a scenario that is not selected.
    """
    if not run.settings.repeats or not cases:
        return []
    selected = list(dict.fromkeys(case.scenario.id for case in cases))
    given = run.settings.repeat_scenarios
    for name in given or ():
        if name not in selected:
            raise UsageError(
                f"--repeat-scenario: {name!r} is not a selected scenario{did_you_mean(name, selected)}; "
                f"selected: {', '.join(selected)}",
                code=Code.SELECTION_INVALID,
            )
    clean = next((case.scenario.id for case in cases if case.scenario.category == "clean"), selected[0])
    return list(given) if given else [clean]


def plan_document(run: Run, cases: Sequence[Case], repeated: Sequence[str] = ()) -> PlanDocument:
    """Return ``state/plan.json``: the cases in their order, and the memory and disk space that each model needs.

    Args:
        run: the run.
        cases: the cases of the run.
        repeated: the scenarios that are measured more than once.
    """
    needs = model_needs(run, cases)
    return {
        "suite": run.catalog.suite,
        "workers": run.workers,
        "cases": [case.id for case in cases],
        "repeated": list(repeated),
        "models": [need.document() for need in needs],
        "disk_bytes": disk_bytes(run, needs),
    }


def plan_lines(run: Run, cases: Sequence[Case]) -> list[str]:
    """Return the plan as text: the suite, then one line per model."""
    needs = model_needs(run, cases)
    lines = [f"invarlock: suite {run.catalog.suite}: {_count(len(cases), 'case')} on {_count(len(needs), 'model')}"]
    for need in needs:
        size = f"{_size(need.memory_bytes)} of memory, {_size(disk_bytes(run, [need]))} of disk"
        what = size if need.model.weight_bytes else "of unknown size"
        lines.append(f"invarlock:   {need.model.id}: {_count(need.cases, 'case')}, {what}")
    known = [need for need in needs if need.model.weight_bytes]
    total = f"invarlock: {_size(disk_bytes(run, known))} of disk for checkpoints at the same time"
    return [*lines, total if len(known) == len(needs) else f"{total}, without models of unknown size"]


def scenario_lines(run: Run, cases: Sequence[Case]) -> list[str]:
    """Return a line for each scenario with its edit or fault, or one for each model if the models differ.

    A ``clean`` edit is shown with the parameters selected for the model, or as ``clean`` if there are none.
    """
    try:
        tuned = run.tuned_params()
    except InvarLockError:
        # the error is reported during planning
        tuned = NO_TUNED_PARAMS
    lines = []
    for name in dict.fromkeys(case.scenario.id for case in cases):
        models: dict[str, list[str]] = {}
        for case in cases:
            if case.scenario.id == name and case.run == 1:
                models.setdefault(_made_by(case, tuned), []).append(case.model.short_name)
        edits = [edit if len(models) == 1 else f"{edit} ({', '.join(names)})" for edit, names in models.items()]
        lines.append(f"invarlock:   {name}: {', '.join(edits)}")
    return lines


def _made_by(case: Case, tuned: TunedParams) -> str:
    generation = case.scenario.generation
    if isinstance(generation, EditGeneration):
        try:
            return str(tuned.resolve(generation.for_model(case.model.id), case.model.id))
        except UsageError:
            pass
    return planned_edit(case.scenario.document, case.model.id)


def calibration_lines(run: Run, null_runs: Sequence[PlannedNullRun]) -> list[str]:
    """Return the plan of null runs as text: a heading, then one line per model."""
    models = {null_run.model.id for null_run in null_runs}
    counts = [(model, sum(null_run.model.id == model for null_run in null_runs)) for model in sorted(models)]
    lines = [f"invarlock: presets of suite {run.catalog.suite}: {_count(len(null_runs), 'null run')}, no cases"]
    return [*lines, *(f"invarlock:   {model}: {_count(count, 'null run')}" for model, count in counts)]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _size(count: int) -> str:
    return f"{count / 1e9:.0f} GB" if count >= 10**10 else f"{max(count, 10**6) / 1e6:.0f} MB"
