"""Joining a node's part of the run into the run directory of the controller.

A case counts as finished when its report verifies and pytest's reports of its tests are stored. Both are written before
the next part is joined, so a controller that dies loses only the parts that it has not joined yet.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from invarlock.catalog.cases import Case
from invarlock.catalog.models import Model
from invarlock.catalog.node_ids import parameter_id
from invarlock.errors import InvarLockError, UsageError
from invarlock.harness.fleet.archives import Archive, pack_files, unpack
from invarlock.harness.fleet.node import OUTCOMES
from invarlock.jsonio import parse_json, read_file, read_json, write_json
from invarlock.packer.format import layout
from invarlock.packer.runs.run_directory import RunDirectory
from invarlock.packer.runs.saved_reports import read_saved_report
from invarlock.packer.runs.shards import binding_settings, first_difference
from invarlock.problems import Code

# pytest's reports of one case, as documents
Outcomes = list[dict[str, Any]]
# A node gets these files, and refuses to begin if its own would differ.
HANDED_STATE = ("settings.json", "scenarios.json", "model_revisions.json")


def state_archive(directory: RunDirectory) -> Archive:
    """Return the archive of the state that every node begins with."""
    return pack_files(directory.path, [directory.state / name for name in HANDED_STATE])


def baseline_archive(directory: RunDirectory, model: Model) -> Archive:
    """Return an archive of a model's baseline, kept tokens, null runs and preset, as far as they exist."""
    return pack_files(directory.path, _baseline_files(directory, model))


def has_baseline(directory: RunDirectory, model: Model) -> bool:
    """Return whether a model's baseline is in the run directory."""
    return directory.baseline_report(model).is_file()


def join_part(
    directory: RunDirectory, archive: Archive, model: Model, cases: Sequence[Case]
) -> tuple[dict[str, Outcomes], Any]:
    """Join a part into the run directory; return pytest's reports of the finished cases by id, and the environment.

    A case that passed is not finished if its report is missing or does not verify.

    Raises:
        IntegrityError: if the archive is damaged.
        UsageError: if the node had other settings, or measured a baseline differently.
    """
    staging = RunDirectory(directory.state / "part")
    shutil.rmtree(staging.path, ignore_errors=True)
    try:
        unpack(archive, staging.path)
        _check_state(directory, staging)
        for path in _baseline_files(staging, model):
            _take_shared(path, directory.path / path.relative_to(staging.path))
        found = _outcomes(staging.state / OUTCOMES)
        finished = {case.id: found[case.id] for case in cases if case.id in found and _join(directory, staging, case)}
        for case_id, outcomes in finished.items():
            write_json(directory.outcomes / f"{case_id}.json", outcomes)
        for path in sorted(staging.logs.glob("*")):
            if not path.name.startswith(("controller", "worker")):
                _move(path, directory.logs / path.name)
        environment = staging.state / "environment.json"
        return finished, read_json(environment) if environment.is_file() else None
    finally:
        shutil.rmtree(staging.path, ignore_errors=True)


def finished_outcomes(directory: RunDirectory, case: Case) -> Outcomes | None:
    """Return pytest's reports of a case that an earlier session finished, or None if the case must be run."""
    path = directory.outcomes / f"{case.id}.json"
    if not path.is_file() or not directory.report(case).is_file() or _problems(directory, directory, case):
        return None
    outcomes: Outcomes = read_json(path)
    return outcomes


def _check_state(directory: RunDirectory, staging: RunDirectory) -> None:
    for name in ("settings.json", "tuned_edit_params.json"):
        if not (staging.state / name).is_file():
            continue
        ours, theirs = (read_json(one.state / name) for one in (directory, staging))
        if name == "settings.json":
            ours, theirs = binding_settings(ours), binding_settings(theirs)
        wrong = first_difference(theirs, ours)
        if wrong is not None:
            message = f"{name.removesuffix('.json')}: {wrong}; use the same settings on all nodes"
            raise UsageError(message, code=Code.NODE_DIFFERS)


def _baseline_files(directory: RunDirectory, model: Model) -> list[Path]:
    folders = (
        directory.baseline_report(model).parent,
        directory.kept_tokens(model),
        directory.presets / model.folder,
    )
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    found += sorted(directory.presets.glob(f"calibrated_preset_{model.folder}.*"))
    return [path for path in found if path.is_file() and path.suffix != ".stale" and not path.name.startswith(".")]


def _take_shared(path: Path, goal: Path) -> None:
    if not goal.is_file():
        _move(path, goal)
    elif path.name != layout.TIMING and read_file(path) != read_file(goal):
        raise UsageError(
            f"measured {path.name} of {path.parent.name} differently; use nodes of one kind, or --determinism strict",
            code=Code.NODE_DIFFERS,
        )


def _outcomes(path: Path) -> dict[str, Outcomes]:
    """Return the reports of the tests that pytest completed, by case."""
    found: dict[str, Outcomes] = {}
    ended: set[str] = set()
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        try:
            document = json.loads(line)
        except json.JSONDecodeError:
            # the session died while writing this line
            break
        case = parameter_id(document["nodeid"])
        found.setdefault(case, []).append(document)
        if document["when"] == "teardown":
            ended.add(case)
    return {case: documents for case, documents in found.items() if case in ended}


def _join(directory: RunDirectory, staging: RunDirectory, case: Case) -> bool:
    """Move the files of a case into the run directory, its report last; return whether it is finished."""
    report = staging.report(case)
    if not report.is_file():
        # the case failed before it had a report
        return True
    if _problems(staging, directory, case):
        return False
    files = [path for path in sorted(report.parent.iterdir()) if path.is_file() and path.suffix == ".json"]
    for path in sorted(files, key=lambda one: one == report):
        _move(path, directory.report(case).parent / path.name)
    return True


def _problems(directory: RunDirectory, run: RunDirectory, case: Case) -> Sequence[object]:
    """Check the report of a case against the baseline of the run, and return its problems."""
    baseline = run.baseline_report(case.model)
    if not baseline.is_file():
        return ["no baseline"]
    try:
        document: Mapping[str, Any] = parse_json(read_file(baseline), where=str(baseline))
    except InvarLockError as error:
        return [error]
    return read_saved_report(directory.report(case), case.scenario.document, document).problems


def _move(path: Path, goal: Path) -> None:
    goal.parent.mkdir(parents=True, exist_ok=True)
    path.replace(goal)
