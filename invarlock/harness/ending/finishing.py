"""After the last case: the verdict from the reports on disk, the summaries, and the evidence pack."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from invarlock.catalog.models import Model
from invarlock.errors import EvaluationError, InvarLockError, MissingFileError, disk_refuses
from invarlock.harness.devices.inventory import Pool
from invarlock.harness.ending.pytest_report import reduce_pytest_report
from invarlock.harness.planning.presets import derived_preset, preset_lines, preset_path
from invarlock.harness.state.nodes import fleet_environment
from invarlock.harness.state.origin import with_origin
from invarlock.harness.state.run import Run
from invarlock.jsonio import read_json, write_json
from invarlock.moments import utc_now
from invarlock.packer.format import layout
from invarlock.packer.runs.run_ending import (
    FoundReports,
    pack_run,
    read_reports,
    run_lines,
    write_pages,
    write_results,
)
from invarlock.packer.trust.keys import SigningKey, load_signing_key, make_signing_key
from invarlock.problems import Code
from invarlock.reports.preset_files import null_run_name
from invarlock.runtime.determinism import determinism_switches
from invarlock.runtime.graphics import graphics
from invarlock.runtime.provenance import NO_SOURCE, environment, source_of
from invarlock.verdict.compiling import Outcome, Planned, planned_cases, read_outcomes


@dataclass(frozen=True)
class Ending:
    """The end of a run: whether the verdict is PASS and the pack is valid, the lines to show, and the verdict."""

    passed: bool
    lines: tuple[str, ...]
    verdict: Mapping[str, Any] | None = None


def finish_run(run: Run, pytest_report: Mapping[str, Any], *, interrupted: bool, columns: int | None = None) -> Ending:
    """Compile the verdict, write it with its summaries, and build, sign and verify the pack.

    An interrupted run gets the verdict FAIL and no pack. If packing fails, no pack is left. The lines to show fit a
    terminal with ``columns`` columns; None means no limit.
    """
    state, directory = run.directory.state, run.directory
    reduced = reduce_pytest_report(pytest_report, directory.path)
    write_json(state / "pytest_report.json", reduced)
    if run.settings.piece is not None:
        # the controller compiles the verdict; if it makes no pack, the origin of the suites folder may be unknown
        with suppress(MissingFileError):
            write_provenance(run)
        return Ending(not interrupted, ())
    manifest = read_json(state / "scenarios.json")
    plan = planned_cases(manifest)
    found = read_reports(directory, plan)
    finished = utc_now()
    outcomes = read_outcomes(reduced)
    if interrupted:
        outcomes += cut_off(plan, found, outcomes)
    verdict = write_results(directory, manifest, plan, found, outcomes, finished)
    if not run.settings.skip_html:
        write_pages(found)
    lines = _unfinished_lines(verdict, found) if interrupted else run_lines(verdict, found, columns)
    return replace(_ending(run, verdict, found, finished, lines, interrupted=interrupted), verdict=verdict)


def _unfinished_lines(verdict: Mapping[str, Any], found: FoundReports) -> list[str]:
    """Return how many cases of an interrupted run are done; the verdict would mostly list those without a report."""
    done = list(found.records.values())
    unexpected = len(done) - sum(record["passed"] for record in done)
    more = f", {unexpected} of them not as expected" if unexpected else ""
    return [f"{len(done)} of {verdict['counts']['cases_total']} cases are done{more}"]


def _ending(
    run: Run,
    verdict: Mapping[str, Any],
    found: FoundReports,
    finished: str,
    lines: Sequence[str],
    *,
    interrupted: bool,
) -> Ending:
    """Build, sign and verify the pack of a run whose verdict was written, if the run gets a pack."""
    directory = run.directory
    passed = verdict["verdict"] == "PASS"
    if run.settings.shard is not None:
        # only the merged run can decide whether enough informational reports signal
        passed = verdict["counts"]["records_passed"] == verdict["counts"]["cases_total"]
        if interrupted or not run.settings.given("pack_dir"):
            return _end_shard(run, lines, passed=passed, interrupted=interrupted)
    if run.settings.no_pack:
        return Ending(passed, (*lines, f"verdict: {directory.verdict}; no pack was requested"))
    if interrupted:
        again = f"continue it with the same options and --resume --output-dir {_shown(directory.path)}"
        return Ending(
            False, (*lines, f"the run was interrupted: verdict at {directory.verdict}, no pack was built; {again}")
        )
    if run.settings.release_review and not passed:
        reason = f"--release-review requires PASS, but the verdict is {verdict['verdict']}"
        return Ending(False, (*lines, f"verdict at {directory.verdict}; no pack was built: {reason}"))
    try:
        return Ending(passed, (*lines, *_pack(run, found, finished)))
    except InvarLockError as error:
        return Ending(False, (*lines, f"no pack was built: {error}"))
    except OSError as error:
        return Ending(False, (*lines, f"no pack was built: {disk_refuses(error)}, then continue with --resume"))


def cut_off(plan: Mapping[str, Planned], found: FoundReports, outcomes: Sequence[Outcome]) -> list[dict[str, str]]:
    """Return an outcome for each case that finished too late for pytest to count it before an interrupt."""
    counted = {outcome["case"] for outcome in outcomes}
    done = [planned.case_id for path, planned in plan.items() if found.records.get(path) is not None]
    message = "its report is complete and --resume keeps it"
    return [{"case": case, "outcome": "interrupted", "message": message} for case in done if case not in counted]


def finish_calibration(run: Run, models: Sequence[Model]) -> Ending:
    """Derive the preset of each model from its null runs; there is no verdict and no pack."""
    lines: list[str] = []
    missing = 0
    for model in models:
        numbers = range(1, run.settings.calibration_runs + 1)
        paths = {number: run.directory.presets / null_run_name(model.folder, number) for number in numbers}
        absent = [str(number) for number, path in paths.items() if not path.is_file()]
        try:
            if absent:
                raise EvaluationError(
                    f"null runs {', '.join(absent)} are missing; continue with --resume", code=Code.NULL_RUNS_UNUSABLE
                )
            lines += preset_lines(derived_preset(run, model), _shown(preset_path(run, model)))
        except InvarLockError as error:
            missing += 1
            lines.append(f"{model.id}: no preset: {error}")
    folder = shlex.quote(_shown(run.directory.presets))
    if not missing:
        lines += [f"presets: {folder}", f"run the cases with them: PACK_CALIBRATION_PRESET_DIR={folder} pytest suites"]
    return Ending(not missing, tuple(lines))


def _pack(run: Run, found: FoundReports, finished: str) -> list[str]:
    """Build, sign and verify the pack; return the lines to show."""
    key, origin = _signing_key(run)
    changed = write_provenance(run)
    built = pack_run(run.directory, run.pack_path, found, key, run.settings.document(), finished)
    assurance = run.settings.report_assurance
    # people paste this command into another shell or a workflow in which InvarLock is installed
    command = ["invarlock", "verify", _shown(built.path)]
    # strict checks cannot be combined with assurance off
    command += ["--allow-unsigned"] if key is None else []
    command += ["--strict"] if key is not None and assurance != "off" else []
    command += ["--report-assurance", assurance] if assurance != "report" else []
    command += ["--require-pass"] if run.settings.release_review else []
    command += ["--expected-fingerprint", str(built.fingerprint)] if key is not None else []
    page = built.path / layout.PACK_PAGE
    unverified = "reports:        not verified in the pack, only checksums were checked (--report-assurance off)"
    return [
        *changed,
        f"verdict:        {built.verdict}",
        *([unverified] if assurance == "off" else []),
        f"evidence pack:  {_shown(built.path)}",
        *([f"overview:       {_shown(page)}"] if page.is_file() else []),
        *built.evidence,
        f"signer:         {built.fingerprint or 'none, the pack is not signed'}{origin}",
        f"verify it with: {shlex.join(command)}",
    ]


def write_provenance(run: Run) -> tuple[str, ...]:
    """Write the provenance of the evidence: the environment and the source repository.

    Returns a line to show if the code changed while the run was in progress.

    Raises:
        MissingFileError: if the origin of the suites folder is unknown.
    """
    state = run.directory.state
    pool = Pool.read(run.directory.devices)
    gpus = [device.id for device in pool.devices] if pool.kind == "gpu" else []
    document = environment(determinism_switches(run.settings.determinism), graphics(gpus))
    if run.settings.fleet is not None:
        document = fleet_environment(run.directory) or document
    source = source_of(run.suites_folder)
    if source is None:
        write_json(state / "environment.json", document)
        raise MissingFileError(f"{run.suites_folder}: {NO_SOURCE}")
    document, source, changed = with_origin(run, document, source)
    write_json(state / "environment.json", document)
    write_json(state / "source_repo.json", source)
    return changed


def _end_shard(run: Run, lines: Sequence[str], *, passed: bool, interrupted: bool) -> Ending:
    """Write the files that merging the shard needs; without ``--pack-dir``, a shard has no pack of its own."""
    assert run.settings.shard is not None
    index, shards = run.settings.shard
    name = f"shard {index}/{shards}"
    if interrupted:
        return Ending(
            False, (*lines, f"{name}: interrupted; continue it with --resume --output-dir {_shown(run.directory.path)}")
        )
    try:
        changed = write_provenance(run)
    except InvarLockError as error:
        return Ending(False, (*lines, f"{name}: it cannot be merged: {error}"))
    return Ending(
        passed,
        (
            *lines,
            *changed,
            f"{name}: {'every' if passed else 'not every'} case is as expected; a shard has no pack",
            f"when all {shards} are finished: invarlock merge RUN... --output DIR --signing-key KEY.pem",
        ),
    )


def _signing_key(run: Run) -> tuple[SigningKey | None, str]:
    settings = run.settings
    if settings.unsigned:
        return None, ""
    if settings.signing_key is not None:
        return load_signing_key(Path(settings.signing_key)), ""
    return make_signing_key(), " (temporary key, now discarded; pass --signing-key to sign with your own)"


def _shown(path: Path) -> str:
    """Return a path as a person would type it in the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
