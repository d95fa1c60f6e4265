"""Merging the run directories of shards into one run with one verdict and one evidence pack.

The result is the run directory that an undivided run would have left, but without checkpoints and logs. It is built in
a sibling folder, and the target appears complete or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from invarlock.packer.build.building import BuiltPack
from invarlock.packer.runs.run_directory import RunDirectory
from invarlock.packer.runs.run_ending import (
    pack_run,
    read_reports,
    run_lines,
    unverified_line,
    write_pages,
    write_results,
)
from invarlock.packer.runs.shards import PINNED, Shard, check_belonging, read_shard, shared_files
from invarlock.packer.trust.keys import SigningKey

from invarlock.documents import JsonObject
from invarlock.documents.catalog import PinsDocument
from invarlock.documents.provenance import Environment
from invarlock.documents.runs import PytestReport
from invarlock.errors import MissingFileError, ReportError, UsageError
from invarlock.jsonio import check_schema, read_file, read_json, sync_folder, write_bytes, write_json
from invarlock.problems import Code
from invarlock.settings import SETTINGS
from invarlock.staging import check_can_be_made, staging_folder
from invarlock.verdict.compiling import planned_cases, read_outcomes


@dataclass(frozen=True)
class MergedRun:
    """The merged run directory, its pack, and its verdict as text."""

    path: Path
    pack: BuiltPack
    verdict: str
    lines: tuple[str, ...]


def merge_runs(runs: Sequence[Path], target: Path, key: SigningKey | None, finished: str) -> MergedRun:
    """Merge the finished shards of a run.

    Args:
        runs: the shards' run directories, in any order.
        target: the run directory to create, which must not exist.
        key: the key that signs the pack; None leaves it unsigned.
        finished: the time of the verdict and the pack, UTC.

    Raises:
        MissingFileError: when a shard is missing or not finished, or lacks the report of a case that passed.
        UsageError: when the shards belong to different runs, two are the same, or the target exists.
        IntegrityError: when a shard's files contradict each other.
        ReportError: when a report does not verify.
    """
    if target.exists() or target.is_symlink():
        raise UsageError(f"--output: {target} already exists; choose another folder", code=Code.OUTPUT_EXISTS)
    check_can_be_made(target, "--output")
    shards = sorted((read_shard(path) for path in runs), key=lambda shard: shard.index)
    check_belonging(shards)
    shared = shared_files(shards)
    _check_reports(shards)
    try:
        with staging_folder(target) as staging:
            directory = RunDirectory(staging)
            _write_state(directory, shards)
            _copy_files(directory, shards, shared)
            merged = _end(directory, shards[0].whole, key, finished, target)
            staging.rename(target)
            sync_folder(target.parent)
    except OSError as error:
        raise UsageError(
            f"--output: {target}: cannot be written ({error.strerror})", code=Code.OUTPUT_UNWRITABLE
        ) from None
    return merged


def _end(
    directory: RunDirectory, manifest: Mapping[str, Any], key: SigningKey | None, finished: str, target: Path
) -> MergedRun:
    """Compile the verdict of the merged run and build its pack, as at the end of a session."""
    plan = planned_cases(manifest)
    found = read_reports(directory, plan)
    outcomes = read_outcomes(read_json(directory.state / "pytest_report.json"))
    verdict = write_results(directory, manifest, plan, found, outcomes, finished)
    settings = read_json(directory.state / "settings.json")
    # pages are rendered unless all shards skipped them
    if not settings.get("skip_html", {}).get("value"):
        write_pages(found)
    built = pack_run(directory, directory.pack, found, key, settings, finished, run_name=target.name)
    pack = replace(built, path=RunDirectory(target).pack)
    return MergedRun(target, pack, verdict["verdict"], tuple(run_lines(verdict, found)))


def _check_reports(shards: Sequence[Shard]) -> None:
    """Check every report in its shard, so that a message can name the shard."""
    for shard in shards:
        found = read_reports(shard.directory, planned_cases(shard.state["scenarios.json"]))
        if found.unverified:
            case, problems = next(iter(found.unverified.items()))
            raise ReportError(
                f"{shard.name}: {unverified_line(case, problems)}; delete it and run the case again with --resume",
                code=Code.NOT_PACKED,
                problems=problems,
            )
        passed = {row["case"] for row in read_outcomes(shard.state["pytest_report.json"]) if row["outcome"] == "passed"}
        for place, planned in planned_cases(shard.state["scenarios.json"]).items():
            if planned.case_id in passed and place not in found.files:
                raise MissingFileError(
                    f"{shard.directory.source_of(place)}: missing, although its case passed; restore it, or rerun it "
                    "with --resume",
                    code=Code.SHARD_INCOMPLETE,
                )


def _write_state(directory: RunDirectory, shards: Sequence[Shard]) -> None:
    state, first = directory.state, shards[0].state
    write_json(state / "scenarios.json", dict(shards[0].whole))
    write_json(state / "settings.json", merged_settings([shard.state["settings.json"] for shard in shards]))
    write_json(state / "tuned_edit_params.json", first["tuned_edit_params.json"])
    write_json(state / "model_revisions.json", merged_pins([shard.state["model_revisions.json"] for shard in shards]))
    write_json(state / "pytest_report.json", merged_outcomes([shard.state["pytest_report.json"] for shard in shards]))
    write_json(state / "environment.json", merged_environment([shard.state["environment.json"] for shard in shards]))
    write_json(state / "source_repo.json", first["source_repo.json"])


def _copy_files(directory: RunDirectory, shards: Sequence[Shard], shared: Mapping[str, Path]) -> None:
    """Copy the report folders, and the files that the shards share."""
    for where, path in shared.items():
        _copy(path, directory.path / where)
    for shard in shards:
        for place in planned_cases(shard.state["scenarios.json"]):
            source, goal = shard.directory.source_of(place).parent, directory.source_of(place).parent
            for path in sorted(source.iterdir()) if source.is_dir() else ():
                if path.is_file() and not path.is_symlink() and path.suffix in (".json", ".html"):
                    _copy(path, goal / path.name)


def _copy(source: Path, goal: Path) -> None:
    write_bytes(goal, read_file(source))


def merged_settings(documents: Sequence[Mapping[str, Any]]) -> JsonObject:
    """Return the settings of the whole run: those that all shards agree on, without ``shard``."""
    first, *others = documents
    agreed = {name: row for name, row in first.items() if all(other.get(name) == row for other in others)}
    whole = {setting.name: {"value": setting.default, "source": "default"} for setting in SETTINGS}
    return {**agreed, "shard": whole["shard"]}


def merged_pins(documents: Sequence[Mapping[str, Any]]) -> PinsDocument:
    """Return the pins of all shards, each once, sorted by id, with the earliest time at which it was resolved."""
    merged: JsonObject = dict(documents[0])
    for key, name in PINNED.items():
        rows: dict[str, Mapping[str, Any]] = {}
        for row in (row for document in documents for row in document.get(key, [])):
            known = rows.setdefault(row[name], row)
            if (row.get("resolved_at") or "") < (known.get("resolved_at") or ""):
                rows[row[name]] = row
        if key in merged or rows:
            merged[key] = [rows[identity] for identity in sorted(rows)]
    return cast("PinsDocument", merged)


def merged_outcomes(documents: Sequence[Mapping[str, Any]]) -> PytestReport:
    """Return pytest's report of the cases of all shards, as if one session had run them and deselected none."""
    tests = sorted((test for document in documents for test in document["tests"]), key=lambda test: str(test["nodeid"]))
    outcomes = sorted(test["outcome"] for test in tests)
    summary: dict[str, int] = {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
    summaries = [document["summary"] for document in documents]
    # a session with workers does not report how many cases existed before deselection
    collected = {one["collected"] for one in summaries if {"collected", "deselected"} <= one.keys()}
    if len(collected) == 1:
        count = collected.pop()
        summary = {"collected": count, "deselected": count - len(tests), **summary}
    return {
        "exitcode": max(document["exitcode"] for document in documents),
        "summary": {**summary, "total": len(tests)},
        "tests": tests,
    }


def merged_environment(documents: Sequence[Mapping[str, Any]]) -> Environment:
    """Return the environment of all shards: every GPU, and each distinct value of fields that differ by machine."""
    graphics = [document["graphics"] for document in documents]
    merged = {
        **documents[0],
        "platform": _several([document["platform"] for document in documents]),
        "graphics": {**_several(graphics), "gpus": [gpu for one in graphics for gpu in one["gpus"]]},
    }
    check_schema(merged, "environment", where="environment.json")
    return cast("Environment", merged)


def _several(rows: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """Return the distinct values of each key, joined into one text."""
    values = {key: sorted({str(row[key]) for row in rows if row[key] is not None}) for key in rows[0]}
    return {key: ", ".join(found) or None for key, found in values.items()}
