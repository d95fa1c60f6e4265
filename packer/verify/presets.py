"""Deriving the presets of a pack again from their null runs; reports refer to presets by digest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.packer.format import layout
from invarlock.packer.format.contents import PackFiles
from invarlock.packer.format.in_pack import in_pack
from invarlock.packer.format.limits import MAX_NULL_RUNS

from invarlock.catalog.models import folder_name
from invarlock.errors import DocumentError, IntegrityError, InvarLockError
from invarlock.jsonio import check_schema
from invarlock.problems import Code, Problem
from invarlock.reports.preset_files import null_run_name, preset_name, render_yaml
from invarlock.reports.presets import NullRun, Preset, preset_problems, report_preset_problems

_PRESET = re.compile(rf"{re.escape(layout.PRESETS)}calibrated_preset_([^/]+)\.json")


def read_presets(files: PackFiles) -> tuple[dict[str, Preset], list[Problem]]:
    """Return the presets that follow from their null runs, by model folder, and the problems of the others.

    At most two null runs are in memory at a time.
    """
    presets: dict[str, Preset] = {}
    problems: list[Problem] = []
    known: set[str] = set()
    for path in sorted(files.digests):
        match = _PRESET.fullmatch(path)
        if match is None:
            continue
        folder = match[1]
        known |= {path, layout.PRESETS + preset_name(folder, "yaml")}
        try:
            document = files.document(path)
            check_schema(document, "calibrated_preset", where=path)
            rows = [*document["null_runs"], document["held_out"]]
            known |= {layout.PRESETS + null_run_name(folder, row["run"]) for row in rows}
            wrong = list(_problems(files, folder, document))
        except IntegrityError:
            continue
        except InvarLockError as error:
            problems += in_pack(error)
            continue
        # a problem of a null run already names the null run's file
        problems += [problem if problem.where else problem.of(path) for problem in wrong]
        if not wrong:
            presets[folder] = Preset(document, f"sha256:{files.digests[path]}")
    below = [path for path in files.digests if path.startswith(layout.PRESETS)]
    problems += [
        Problem(Code.FILE_DOES_NOT_FOLLOW, path, "", "belongs to no preset")
        for path in sorted(below)
        if path not in known
    ]
    return presets, problems


def preset_use_problems(
    path: str, report: Mapping[str, Any], preset: Preset | None, baseline: Mapping[str, Any] | None
) -> Iterator[Problem]:
    """Yield a problem if a report was not judged with the preset that the pack has for its model.

    Args:
        path: the path of the report.
        report: the report's document.
        preset: the preset of the report's model, or None if the pack has no valid one.
        baseline: the report of the baseline, or None.
    """
    provenance = report["policy_provenance"]
    where = layout.PRESETS + preset_name(layout.model_folder(path))
    if preset is None:
        if provenance["preset_sha256"] is not None:
            words = f"{where} is missing, or does not follow from its null runs"
            yield Problem(Code.PRESET_DIFFERS, path, "policy_provenance.preset_sha256", words)
        return
    fields = baseline["baseline"] if baseline is not None else report["baseline_ref"]
    yield from (problem.of(path) for problem in report_preset_problems(report, preset, fields, where))


def _problems(files: PackFiles, folder: str, document: Mapping[str, Any]) -> Iterator[Problem]:
    if folder_name(document["model_id"]) != folder:
        words = f"{document['model_id'][:100]!r}, but the file name is for another model"
        yield Problem(Code.MODEL_DIFFERS, "", "model_id", words)
    rows = [*document["null_runs"], document["held_out"]]
    if len(rows) > MAX_NULL_RUNS:
        words = f"{len(rows)}, more than the limit of {MAX_NULL_RUNS}"
        yield Problem(Code.TOO_MANY_REPORTS, "", "null_runs", words)
        return
    yield from preset_problems(document, _null_runs(files, folder, rows))
    yaml = layout.PRESETS + preset_name(folder, "yaml")
    if files.data(yaml) != render_yaml(document):
        yield Problem(Code.PRESET_DOES_NOT_FOLLOW, yaml, "", "does not match the JSON byte for byte")


def _null_runs(files: PackFiles, folder: str, rows: list[Mapping[str, Any]]) -> Iterator[NullRun]:
    for row in rows:
        path = layout.PRESETS + null_run_name(folder, row["run"])
        document = files.document(path)
        check_schema(document, "null_run", where=path)
        if document["run"] != row["run"]:
            words = f"{document['run']}, but the file name says {row['run']}"
            raise DocumentError(words, where=path, field="run", code=Code.PRESET_DOES_NOT_FOLLOW)
        yield NullRun(document, f"sha256:{files.digests[path]}")
