"""Defaults for the inputs of ``build``: files of the run directory that contains the given reports."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from invarlock.packer.build.building import PackContent
from invarlock.packer.format import layout
from invarlock.packer.runs.run_directory import RunDirectory

from invarlock.documents import JsonObject
from invarlock.errors import UsageError
from invarlock.problems import Code
from invarlock.reports.preset_files import preset_name

# The maximum depth of a report below its run directory.
MAX_DEPTH = 6
METADATA = (Path(layout.TUNED_PARAMS).name, Path(layout.MODEL_REVISIONS).name)


def find_inputs(
    given: Sequence[Path],
    *,
    baselines: Sequence[Path],
    presets: Path | None,
    scenarios: Path | None,
    pytest_report: Path | None,
    source_repo: Path | None,
    environment: Path | None,
) -> JsonObject:
    """Fill in the arguments of ``gather_files`` that were not given, from the run directory of the first given file.

    Raises:
        UsageError: when no effective manifest is found.
    """
    runs = [found for path in given if (found := _run_of(path)) is not None]
    run = runs[0] if runs else None
    scenarios = scenarios or _in_state(run, "scenarios.json")
    if scenarios is None:
        raise UsageError(
            "not in a run directory (a folder with state/scenarios.json); give the effective "
            "manifest of its run with --scenarios",
            code=Code.BUILD_INPUT_UNUSABLE,
            where=str(given[0]),
        )
    folder = run.presets if run is not None and run.presets.is_dir() else None
    metadata = {name: path for name in METADATA if (path := _in_state(run, name)) is not None}
    return {
        "baselines": baselines or list(_baselines(given)),
        "presets": presets or folder,
        "scenarios": scenarios,
        "pytest_report": pytest_report or _in_state(run, "pytest_report.json"),
        "source_repo": source_repo or _in_state(run, "source_repo.json"),
        "environment": environment or _in_state(run, "environment.json"),
        "metadata": metadata,
    }


def check_inputs(content: PackContent) -> None:
    """Check that everything the reports refer to is available.

    Raises:
        UsageError: naming the option to use.
    """
    for path in sorted(filter(layout.is_report, content.files)):
        model = layout.model_folder(path)
        if layout.baseline_path(model) not in content.files:
            raise UsageError(
                "the report of its baseline was not found; give it with --baseline",
                code=Code.BUILD_INPUT_UNUSABLE,
                where=str(path),
            )
        provenance: Mapping[str, Any] = json.loads(content.files[path])["policy_provenance"]
        if provenance.get("preset_sha256") and f"{layout.PRESETS}{preset_name(model)}" not in content.files:
            raise UsageError(
                "the preset it was judged with was not found; give its folder with --presets",
                code=Code.BUILD_INPUT_UNUSABLE,
                where=str(path),
            )


def _run_of(path: Path) -> RunDirectory | None:
    """Return the run directory that contains a file, or None."""
    parents = Path(os.path.realpath(path)).parents[:MAX_DEPTH]
    return next((RunDirectory(folder) for folder in parents if (folder / "state/scenarios.json").is_file()), None)


def _in_state(run: RunDirectory | None, name: str) -> Path | None:
    return None if run is None or not (run.state / name).is_file() else run.state / name


def _baselines(reports: Iterable[Path]) -> Iterable[Path]:
    """Yield the baseline report of each model with a given report, if the run directory has it."""
    found: dict[Path, None] = {}
    for path in reports:
        run = _run_of(path)
        if run is None:
            continue
        model = Path(os.path.realpath(path)).relative_to(os.path.realpath(run.path)).parts[0]
        baseline = run.source_of(layout.baseline_path(model)) if model != "reports" else None
        if baseline is not None and baseline.is_file():
            found[baseline] = None
    return found
