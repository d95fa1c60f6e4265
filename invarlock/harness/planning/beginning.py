"""Beginning a run: everything that can be known up front is checked, then the run directory is written.

All problems are reported at once, each with its remedy; in that case nothing is left behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from invarlock.catalog.cases import Case, effective_manifest
from invarlock.catalog.models import Model
from invarlock.documents.catalog import EffectiveManifest
from invarlock.errors import UsageError
from invarlock.harness.devices.inventory import Pool
from invarlock.harness.planning.plan import PlannedNullRun, plan_document, repeated_scenarios
from invarlock.harness.planning.preflight import CALIBRATION_CHECKS, pool_of, problems
from invarlock.harness.planning.presets import begin_presets
from invarlock.harness.planning.sharding import manifest_of_shard, shard_document
from invarlock.harness.selection.selected_cases import BYOE_SUITE
from invarlock.harness.sources.finding import PINS_NAME, find_sources, obtain_pins, used_models
from invarlock.harness.sources.texts import length_problems, suite_texts
from invarlock.harness.state.found_sources import Sources
from invarlock.harness.state.leftovers import remove_leftovers
from invarlock.harness.state.origin import record_origin
from invarlock.harness.state.run import Run
from invarlock.jsonio import check_schema, read_json, write_json
from invarlock.output import ShowLine
from invarlock.problems import Code, Problem
from invarlock.reports.verification import differences


def plan_run(run: Run, cases: Sequence[Case], show: ShowLine, whole: Sequence[Case] = ()) -> list[str]:
    """Check a run's cases, fetch its models and write ``state/``: manifest, pins, settings, parameters and plan.

    Returns lines for the user.

    Args:
        run: the run.
        cases: the cases of the run.
        show: called with a line for each file that is downloaded.
        whole: all cases of the whole run, if this run is a shard or a piece.

    Raises:
        UsageError: when there are problems; the message has one line for each.
    """
    shard, divided = run.settings.shard, run.settings.shard is not None or run.settings.piece is not None
    models = used_models(case.model for case in cases)
    others = [model for model in used_models(case.model for case in whole) if model not in models]
    run = replace(run, sources=find_sources(run, models, others))
    found = problems(run, cases)
    repeated: list[str] = []
    try:
        repeated = repeated_scenarios(run, whole if divided else cases)
    except UsageError as error:
        found += error.listed
    _refuse(found)
    pins = obtain_pins(run.sources, [model.id for model in models], show)
    _refuse(list(length_problems(run, pins, models)))
    selected = _pinned(whole if divided else cases, run.sources)
    policy = run.catalog.models.suites[run.catalog.suite].informational_stress_min_signal_fraction
    manifest = effective_manifest(run.catalog.suite, selected, run.catalog.scenarios, run.expression, policy)
    part = None if shard is None else shard_document(manifest, shard, whole)
    if shard is not None:
        manifest = manifest_of_shard(manifest, shard, whole, cases)
    check_schema(manifest, "scenarios", where="state/scenarios.json")
    if run.settings.resume:
        _check_same_run(run, manifest)
    documents = {
        "scenarios.json": manifest,
        "tuned_edit_params.json": run.tuned_params().document_of({one.model.id for one in selected}),
        PINS_NAME: pins.document(),
        "plan.json": plan_document(run, cases, repeated),
    }
    if part is not None:
        documents[run.directory.shard.name] = part
    return [*_begin(run, _models(cases), documents), *_repeat_remarks(run, cases, repeated)]


def _refuse(found: Sequence[Problem]) -> None:
    """Raise an error that lists each problem once, if there are any."""
    if found:
        once = list(dict.fromkeys(found))
        raise UsageError("\n".join(map(str, once)), code=Code.RUN_CANNOT_BEGIN, problems=once)


def _repeat_remarks(run: Run, cases: Sequence[Case], repeated: Sequence[str]) -> Iterator[str]:
    """Yield a line about what ``--repeats`` measures again; this shard may have no such case."""
    times = run.settings.repeats
    for name in repeated:
        count = sum(case.scenario.id == name for case in cases)
        if count:
            yield f"--repeats {times}: cases of {name} to measure again: {count}"
        else:
            yield f"--repeats {times}: this shard has no case of {name}, so none is repeated"


def plan_calibration(run: Run, null_runs: Sequence[PlannedNullRun], show: ShowLine) -> list[str]:
    """Check the requirements of null runs, fetch their models and write ``state/``; return lines for the user.

    Raises:
        UsageError: when there are problems; the message has one line for each.
    """
    cases = _cases_of(run, null_runs)
    run = replace(run, sources=find_sources(run, _models(cases), []))
    found = problems(run, cases, CALIBRATION_CHECKS)
    _refuse(found)
    pins = obtain_pins(run.sources, [model.id for model in _models(cases)], show)
    documents = {PINS_NAME: pins.document(), "plan.json": {**plan_document(run, cases), "cases": []}}
    return _begin(run, _models(cases), documents)


def _cases_of(run: Run, null_runs: Sequence[PlannedNullRun]) -> list[Case]:
    """Return the cases whose models get presets."""
    models = {null_run.model.id for null_run in null_runs}
    return [case for case in run.catalog.cases if case.model.id in models and run.catalog.suite in case.suites]


def _models(cases: Sequence[Case]) -> list[Model]:
    return list({case.model.id: case.model for case in cases}.values())


def _begin(run: Run, models: Sequence[Model], documents: Mapping[str, Any]) -> list[str]:
    """Write the inputs of a run to its run directory, and return lines for the user.

    The caller has the run directory's lock. If this function fails, the caller removes a newly created directory.

    Args:
        run: the run.
        models: the models of the run's cases.
        documents: documents for ``state/`` in addition to settings and devices, by file name.
    """
    pool = pool_of(run)
    remove_leftovers(run)
    # this file is written first, because a folder that has it can be resumed
    write_json(run.directory.state / "settings.json", run.settings.document())
    for name, document in documents.items():
        write_json(run.directory.state / name, document)
    record_origin(run)
    pool.write(run.directory.devices)
    begin_presets(run, models)
    return list(_remarks(run, pool))


def _pinned(cases: Sequence[Case], sources: Sources) -> list[Case]:
    """Return cases with the revision and licence of their models."""
    models = {model_id: source.pinned_model for model_id, source in sources.models.items()}
    return [replace(case, model=models[case.model.id]) for case in cases]


def _remarks(run: Run, pool: Pool) -> Iterator[str]:
    """Yield a remark if workers wait for devices, or devices for workers, and on texts that may not suit a model."""
    if run.catalog.suite == BYOE_SUITE and all(text.dataset == "embedded" for text in suite_texts(run)):
        names = " and ".join(text.name or "one text" for text in suite_texts(run))
        yield (
            f"your checkpoints are scored on texts that ship with the suites ({names}), which models may have been "
            "trained on; for a text of your own, set INVARLOCK_DATASET=local_jsonl and INVARLOCK_LOCAL_JSONL_FILE=FILE"
        )
    devices, workers = len(pool.devices), run.workers
    if run.settings.shard is not None and run.settings.determinism != "strict":
        yield "shards merge only if all measure the same baselines: use machines of one kind, or --determinism strict"
    what = "GPUs" if pool.kind == "gpu" else "CPU slots"
    if workers > devices:
        yield f"{workers} workers share {devices} {what} and have to wait"
    elif workers < devices:
        yield f"{workers} workers use {workers} of {devices} {what}, the others stay idle; -n {devices} uses all"


def _check_same_run(run: Run, manifest: EffectiveManifest) -> None:
    """Check that a resumed run has the same cases and scenarios.

    Raises:
        UsageError: naming the first difference.
    """
    path = run.directory.state / "scenarios.json"
    if not path.is_file():
        # the run directory has only presets so far
        return
    earlier = read_json(path)
    # only the selected cases matter, not the words that selected them
    found, current = (
        {**one, "selection": {**one.get("selection", {}), "expression": {}}} for one in (earlier, manifest)
    )
    wrong = next(differences(found, current), None)
    if wrong is not None:
        raise UsageError(
            f"--resume: {run.directory.path} is a different run: {wrong}; use the same selection and settings",
            code=Code.RUN_DIFFERS,
        )
