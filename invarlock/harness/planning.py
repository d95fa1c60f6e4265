"""Before the first case: everything that can be known up front is checked, then the run directory is begun.

All problems are told at once, each with its remedy, and nothing is left behind when there is one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from invarlock.catalog.cases import Case, effective_manifest
from invarlock.catalog.scenarios import EditGeneration
from invarlock.catalog.tuned_params import read_tuned_params
from invarlock.errors import InvarLockError, UsageError
from invarlock.harness.run import Run
from invarlock.jsonio import check_schema, read_json, write_json
from invarlock.packer.keys import load_signing_key
from invarlock.reports.verification import differences

# Snapshots, subjects of two workers and a pack of the embedded models take 30 MB.
MIN_FREE_DISK_BYTES = 1_000_000_000


def plan_run(run: Run, cases: Sequence[Case]) -> None:
    """Check a run's cases and write ``state/``: the effective manifest, settings, tuned parameters and plan.

    Raises:
        UsageError: with all problems.
        InvarLockError: when the tuned parameters cannot be read.
    """
    problems = list(_problems(run, cases))
    if problems:
        raise UsageError("; ".join(problems))
    manifest = effective_manifest(run.catalog.suite, cases, run.catalog.scenarios, run.expression)
    check_schema(manifest, "scenarios", where="state/scenarios.json")
    state = run.directory.state
    if run.settings["resume"]:
        _check_same_run(run, manifest)
    write_json(state / "scenarios.json", manifest)
    write_json(state / "settings.json", run.settings.document())
    write_json(state / "tuned_edit_params.json", read_tuned_params(run.tuned_params_path).document)
    write_json(state / "model_revisions.json", {"models": manifest["selection"]["models"]})
    write_json(state / "plan.json", {"suite": run.catalog.suite, "cases": [case.id for case in cases]})


def _check_same_run(run: Run, manifest: dict[str, Any]) -> None:
    """Refuse to go on with a run that had other cases or other scenarios.

    Raises:
        UsageError: naming the first difference.
    """
    earlier = read_json(run.directory.state / "scenarios.json")
    # which words selected the cases does not matter, the cases do
    found, asked = ({**one, "selection": {**one.get("selection", {}), "expression": {}}} for one in (earlier, manifest))
    wrong = next(differences(found, asked), None)
    if wrong is not None:
        raise UsageError(f"--resume: {run.directory.path} is a run of something else: {wrong}")


def _problems(run: Run, cases: Sequence[Case]) -> Iterator[str]:
    directory, settings = run.directory.path, run.settings
    if settings["resume"]:
        if not (run.directory.state / "scenarios.json").is_file():
            yield f"--resume: {directory} holds no run; leave --resume out, or name a run's folder with --output-dir"
    elif directory.exists() and any(directory.iterdir()):
        yield f"--output-dir: {directory} exists and is not empty; name another folder, or go on with it: --resume"
    if not settings["no_pack"] and run.pack_path.exists():
        yield f"--pack-dir: {run.pack_path} exists; name another folder"
    if settings["signing_key"] is not None:
        try:
            load_signing_key(Path(settings["signing_key"]))
        except InvarLockError as error:
            yield f"--signing-key: {error}"
    for model in {case.model.id: case.model for case in cases}.values():
        if model.path is None:
            yield f"{model.id}: it comes from the hub, which this version cannot fetch from; use -m smoke"
    suite = run.catalog.models.suites[run.catalog.suite]
    if suite.text is None:
        yield f"suite {suite.name}: models.toml names no text for it; add a [suite.text] table"
    tuned = read_tuned_params(run.tuned_params_path)
    for case in cases:
        if isinstance(case.scenario.generation, EditGeneration):
            try:
                tuned.resolve(case.scenario.generation.for_model(case.model.id), case.model.id)
            except UsageError as error:
                yield f"{case.scenario.id}: {error}"
    existing = next(folder for folder in (directory, *directory.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_DISK_BYTES:
        yield f"{existing}: {free / 1e9:.1f} GB free, {MIN_FREE_DISK_BYTES / 1e9:.0f} GB are needed; free some space"
