"""The end of a run: the verdict from the reports on disk, its summaries, and the evidence pack.

Used at the end of a session, and by ``merge`` for a run of several shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invarlock.packer.build.assembly import gather_files
from invarlock.packer.build.building import BuiltPack, build_pack
from invarlock.packer.format import layout
from invarlock.packer.runs.run_directory import RunDirectory
from invarlock.packer.runs.saved_reports import read_saved_report
from invarlock.packer.trust.keys import SigningKey

from invarlock.digests import digest_bytes
from invarlock.documents.verification import RepeatsDocument
from invarlock.jsonio import write_bytes, write_json
from invarlock.problems import Problem
from invarlock.reports.page_files import write_page
from invarlock.reports.repeats import summarise_repeats
from invarlock.settings import public_settings
from invarlock.verdict.compiling import Outcome, Planned, compile_records, judge_report
from invarlock.verdict.documents import Record, SweepPoint, Verdict
from invarlock.verdict.guard_value import FILE_NAME as GUARD_VALUE_NAME
from invarlock.verdict.guard_value import sweep_document, sweep_lines, sweep_point
from invarlock.verdict.job_summary import BADGE_NAME, badge
from invarlock.verdict.rendering import render_verdict_text, verdict_lines
from invarlock.verdict.summaries import summarise, summarise_seconds


@dataclass
class FoundReports:
    """The reports of a run that exist and verify, by their path in the pack.

    Only the fields that a verdict needs are kept of each report. ``unverified`` has the problems of reports that do
    not verify, by case id.
    """

    files: dict[str, Path] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    telemetry: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)
    repeats: dict[str, RepeatsDocument] = field(default_factory=dict)
    sweep: dict[str, SweepPoint] = field(default_factory=dict)
    unverified: dict[str, list[Problem]] = field(default_factory=dict)


def read_reports(directory: RunDirectory, plan: Mapping[str, Planned]) -> FoundReports:
    """Return the findings of the reports that exist for the given planned cases."""
    found = FoundReports()
    for place, planned in plan.items():
        path = directory.source_of(place)
        if not path.is_file():
            continue
        saved = read_saved_report(path, planned.scenario)
        if saved.problems:
            found.unverified[planned.case_id] = list(saved.problems)
            continue
        report, digest = saved.document, digest_bytes(saved.data)
        found.files[place] = path
        found.records[place] = judge_report(planned, {**report, **saved.companions}, digest)
        point = sweep_point(planned, {**report, **saved.companions}, digest)
        if point is not None:
            found.sweep[place] = point
        found.telemetry.append((planned.case["model"], str(planned.scenario["category"]), report["telemetry"]))
        if saved.repeats is not None:
            found.repeats[place] = saved.repeats
    return found


def write_results(
    directory: RunDirectory,
    manifest: Mapping[str, Any],
    plan: Mapping[str, Planned],
    found: FoundReports,
    outcomes: Sequence[Outcome],
    finished: str,
) -> Verdict:
    """Compile and return the verdict of a run; write it and its summaries to ``reports/`` and ``analysis/``."""
    verdict = compile_records(manifest, plan, found.records, outcomes, timestamp=finished)
    folder = directory.verdict.parent
    write_json(directory.verdict, verdict)
    write_bytes(folder / "final_verdict.txt", render_verdict_text(verdict).encode("utf-8"))
    for name, document in summarise(verdict).items():
        write_json(folder / name, document)
    write_json(folder / BADGE_NAME, badge(verdict))
    write_json(directory.analysis / Path(layout.SECONDS_SUMMARY).name, summarise_seconds(found.telemetry))
    if found.repeats:
        write_json(directory.analysis / layout.REPEATS, summarise_repeats(found.repeats))
    if found.sweep:
        write_json(folder / GUARD_VALUE_NAME, sweep_document(found.sweep))
    return verdict


def write_pages(found: FoundReports) -> None:
    """Render the HTML page of each report that does not have one yet."""
    for path in found.files.values():
        write_page(path)


def run_lines(verdict: Mapping[str, Any], found: FoundReports, columns: int | None = None) -> list[str]:
    """Return the summary of a run as text: the verdict, repeats that differ, and reports that do not verify.

    Args:
        verdict: the verdict of the run.
        found: the reports of the run.
        columns: the width of the terminal; None means no limit.
    """
    lines = verdict_lines(verdict, columns)
    for path, row in summarise_repeats(found.repeats)["cases"].items():
        if not row["identical"]:
            lines.append(f"repeats differ: {path} (drift up to {row['largest_drift']:.2g})")
    return [*lines, *sweep_lines(found.sweep), "", *(unverified_line(*row) for row in found.unverified.items())]


def unverified_line(case: str, problems: Sequence[Problem]) -> str:
    """Return the message about a report that does not verify."""
    return f"{case}: its report does not verify: {problems[0]}"


def pack_run(
    directory: RunDirectory,
    target: Path,
    found: FoundReports,
    key: SigningKey | None,
    parameters: Mapping[str, Any],
    finished: str,
    run_name: str | None = None,
) -> BuiltPack:
    """Build, sign and verify the pack of a run whose verdict was already written.

    Raises:
        InvarLockError: when the pack cannot be built; no partial pack is left behind.
    """
    state = directory.state
    models = sorted({layout.model_folder(place) for place in found.files})
    baselines = [directory.source_of(layout.baseline_path(model)) for model in models]
    source = state / "source_repo.json"
    content = gather_files(
        reports=list(found.files.values()),
        baselines=[path for path in baselines if path.is_file()],
        scenarios=state / "scenarios.json",
        final_verdict=directory.verdict,
        pytest_report=state / "pytest_report.json",
        source_repo=source if source.is_file() else None,
        environment=state / "environment.json",
        metadata={name: state / name for name in ("tuned_edit_params.json", "model_revisions.json")},
        presets=directory.presets,
        parameters=public_settings(parameters),
        run_name=run_name or directory.path.name,
        report_assurance=parameters.get("report_assurance", {}).get("value", "report"),
    )
    return build_pack(target, content, key, finished)
