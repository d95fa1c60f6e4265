"""After the last case: the verdict from the reports on disk, the summaries, and the evidence pack."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from invarlock.catalog.cases import Case
from invarlock.errors import InvarLockError
from invarlock.harness.pytest_report import reduce_pytest_report
from invarlock.harness.run import Run
from invarlock.jsonio import parse_json, read_json, write_bytes, write_json
from invarlock.packer.assembly import gather_files
from invarlock.packer.build import build_pack
from invarlock.packer.keys import SigningKey, load_signing_key, make_signing_key
from invarlock.reports.probes import file_name, probe_problems, probes_asked
from invarlock.reports.repeats import FILE_NAME as REPEATS_NAME
from invarlock.reports.repeats import summarise_repeats
from invarlock.reports.verification import verify_report
from invarlock.runtime.provenance import environment, source_repository
from invarlock.verdict.compiling import compile_verdict, read_outcomes
from invarlock.verdict.rendering import render_verdict_text
from invarlock.verdict.summaries import summarise, summarise_seconds

PATH_SETTINGS = ("output_dir", "pack_dir", "signing_key", "tuned_params_file")


@dataclass(frozen=True)
class Ending:
    """How a run ended: whether its verdict is PASS and its pack stands, and what to tell the operator."""

    passed: bool
    lines: tuple[str, ...]


@dataclass(frozen=True)
class FoundReports:
    """The reports on disk by their path in the pack, and what is wrong with those that do not verify."""

    documents: Mapping[str, tuple[dict[str, Any], str]]
    paths: Mapping[str, Path]
    problems: tuple[str, ...]


def finish_run(run: Run, cases: Sequence[Case], pytest_report: Mapping[str, Any], *, interrupted: bool) -> Ending:
    """Compile the verdict, write it with its summaries, and build, sign and verify the pack.

    An interrupted run has a verdict, which is FAIL, and no pack. A failure while packing leaves no pack.
    """
    state, directory = run.directory.state, run.directory
    reduced = reduce_pytest_report(pytest_report, directory.path)
    write_json(state / "pytest_report.json", reduced)
    found = read_reports(run, cases)
    manifest = parse_json((state / "scenarios.json").read_bytes(), where="state/scenarios.json")
    finished = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    verdict = compile_verdict(manifest, found.documents, read_outcomes(reduced), timestamp=finished)
    write_verdict(run, verdict)
    write_json(
        directory.path / "analysis" / "evaluation_optimization_summary.json",
        summarise_seconds(report["telemetry"] for report, _ in found.documents.values()),
    )
    repeated = summarise_repeats(read_repeats(found.paths))
    if repeated["cases"]:
        write_json(directory.path / "analysis" / REPEATS_NAME, repeated)
    text = render_verdict_text(verdict).rstrip("\n").split("\n")
    skipped = [scenario.id for scenario in run.catalog.not_runnable()]
    if skipped:
        text += ["", f"not run by this version: {', '.join(skipped)}"]
    for path, row in repeated["cases"].items():
        if not row["identical"]:
            text.append(f"not the same each time: {path} (drift up to {row['largest_drift']:.2g})")
    lines = [*text, "", *found.problems]
    passed = verdict["verdict"] == "PASS"
    if run.settings["no_pack"]:
        return Ending(passed, (*lines, f"verdict: {directory.verdict}; no pack was asked for"))
    if interrupted:
        return Ending(False, (*lines, f"the run was interrupted: verdict at {directory.verdict}, no pack was built"))
    try:
        return Ending(passed, (*lines, *_pack(run, found, manifest, finished)))
    except InvarLockError as error:
        return Ending(False, (*lines, f"no pack was built: {error}"))


def read_reports(run: Run, cases: Sequence[Case]) -> FoundReports:
    """Return the reports of some cases that are on disk and verify."""
    documents: dict[str, tuple[dict[str, Any], str]] = {}
    paths: dict[str, Path] = {}
    problems: list[str] = []
    for case in cases:
        path = run.directory.report(case)
        if not path.is_file():
            continue
        data = path.read_bytes()
        try:
            report = parse_json(data, where=str(path))
            wrong = verify_report(report)
            probes = {} if wrong else read_probes(case, path)
            wrong += [line for name, probe in probes.items() for line in probe_problems(name, probe, report, None)]
        except InvarLockError as error:
            wrong = [str(error)]
        if wrong:
            problems.append(f"{case.id}: its report does not verify: {wrong[0]}")
            continue
        name = f"reports/{case.report_folder}/{path.name}"
        documents[name] = ({**report, **probes}, f"sha256:{hashlib.sha256(data).hexdigest()}")
        paths[name] = path
    return FoundReports(documents, paths, tuple(problems))


def read_probes(case: Case, report: Path) -> dict[str, dict[str, Any]]:
    """Return the probes beside a report that its scenario asks for.

    Raises:
        MissingFileError: when one is not there.
        DocumentError: when one is malformed.
    """
    return {name: read_json(report.with_name(file_name(name))) for name in probes_asked(case.scenario.document)}


def read_repeats(paths: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Return the repeats documents beside some reports, by the path of the report in the pack."""
    files = {name: path.with_name(REPEATS_NAME) for name, path in paths.items()}
    return {name: read_json(path) for name, path in files.items() if path.is_file()}


def write_verdict(run: Run, verdict: Mapping[str, Any]) -> None:
    """Write ``reports/``: the verdict as JSON and as text, and its summaries."""
    folder = run.directory.verdict.parent
    write_json(run.directory.verdict, verdict)
    write_bytes(folder / "final_verdict.txt", render_verdict_text(verdict).encode("utf-8"))
    for name, document in summarise(verdict).items():
        write_json(folder / name, document)


def _pack(run: Run, found: FoundReports, manifest: Mapping[str, Any], finished: str) -> list[str]:
    """Build, sign and verify the pack; return what to tell the operator."""
    state, directory = run.directory.state, run.directory
    key, origin = _signing_key(run)
    write_json(state / "environment.json", environment())
    source = source_repository(run.suites_folder)
    if source is not None:
        write_json(state / "source_repo.json", source)
    models = {row["model_id"] for row in manifest["selection"]["models"]}
    baselines = [directory.baseline_report(run.catalog.model(model)) for model in sorted(models)]
    content = gather_files(
        reports=list(found.paths.values()),
        baselines=[path for path in baselines if path.is_file()],
        scenarios=state / "scenarios.json",
        final_verdict=directory.verdict,
        pytest_report=state / "pytest_report.json",
        source_repo=None if source is None else state / "source_repo.json",
        environment=state / "environment.json",
        metadata={name: state / name for name in ("tuned_edit_params.json", "model_revisions.json")},
        parameters=_public_parameters(run),
        run_name=directory.path.name,
    )
    built = build_pack(run.pack_path, content, key, finished)
    command = [_python(), "-m", "invarlock.packer", "verify", _shown(built.path)]
    if key is not None:
        command += ["--strict", "--report-assurance", "report"]
        command += ["--expected-fingerprint", str(built.fingerprint)]
    return [
        f"verdict:        {built.verdict}",
        f"evidence pack:  {_shown(built.path)}",
        f"evidence level: {built.evidence_level}",
        f"signer:         {built.fingerprint or 'none, the pack is not signed'}{origin}",
        f"verify it with: {shlex.join(command)}",
    ]


def _signing_key(run: Run) -> tuple[SigningKey | None, str]:
    settings = run.settings
    if settings["unsigned"]:
        return None, ""
    if settings["signing_key"] is not None:
        return load_signing_key(Path(settings["signing_key"])), ""
    return make_signing_key(), " (a key made for this run and not kept; --signing-key signs with yours)"


def _public_parameters(run: Run) -> dict[str, Any]:
    """Return the settings for the manifest: a path is reduced to its name, a pack names no folder of the machine."""
    document = run.settings.document()
    for name in PATH_SETTINGS:
        value = document[name]["value"]
        document[name]["value"] = None if value is None else Path(value).name
    return document


def _python() -> str:
    """Return how a person calls this Python in their shell: by name where that finds it, else by its path.

    tox puts its environment first on the PATH of its commands, not on that of the shell it was called from.
    """
    by_name = shutil.which("python") == sys.executable and "TOX_ENV_DIR" not in os.environ
    return "python" if by_name else _shown(Path(sys.executable))


def _shown(path: Path) -> str:
    """Return a path as a person would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
