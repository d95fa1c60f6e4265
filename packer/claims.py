"""What a pack claims, derived again from its raw measurements.

Building and verifying use the same functions: what a builder writes is what a verifier expects. Reports are examined
one after the other, and of each only the facts that a verdict needs are kept.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, Literal

from invarlock.packer import layout
from invarlock.packer.contents import PackFiles
from invarlock.packer.evidence import Scope, absent, pack_statement, scope_of
from invarlock.packer.layout import beside, is_baseline, is_report
from invarlock.packer.limits import MAX_JSON_BYTES, MAX_JSON_VALUES, MAX_REPORTS
from invarlock.packer.preset_claims import read_presets
from invarlock.packer.report_claims import Baseline, Plan, ReportFacts, examine_report

from invarlock.catalog.tuned_params import TunedParams
from invarlock.errors import DocumentError, IntegrityError, InvarLockError, MissingFileError
from invarlock.jsonio import check_schema, parse_json
from invarlock.reports.preset_files import preset_name
from invarlock.reports.presets import Preset
from invarlock.reports.repeats import summarise_repeats
from invarlock.reports.verification import differences, verify_baseline
from invarlock.verdict.compiling import Outcome, compile_records, planned_cases, read_outcomes
from invarlock.verdict.guard_value import sweep_document
from invarlock.verdict.rendering import render_verdict_text
from invarlock.verdict.summaries import summarise, summarise_artifacts, summarise_seconds

MAX_DIFFERENCES = 5
_TIMESTAMP = re.compile(rb'\n  "timestamp": "([0-9TZ:-]{1,32})"')


@dataclass
class Findings:
    """What the reports of a pack hold, and what is wrong with them, by class of failure.

    ``scenarios`` is None when the pack has no effective manifest that could be read.
    """

    scenarios: dict[str, Any] | None = None
    plan: Plan = field(default_factory=lambda: Plan({}, {}, None))
    outcomes: Sequence[Outcome] | None = None
    facts: dict[str, ReportFacts] = field(default_factory=dict)
    envelopes: dict[str, dict[str, Any]] = field(default_factory=dict)
    baselines: dict[str, str] = field(default_factory=dict)
    baseline_digests: dict[str, str] = field(default_factory=dict)
    text_providers: set[str] = field(default_factory=set)
    versions: dict[str, Mapping[str, str]] = field(default_factory=dict)
    presets: Mapping[str, Preset] = field(default_factory=dict)
    claims: list[str] = field(default_factory=list)
    integrity: list[str] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[ReportFacts]:
        return [facts for facts in self.facts.values() if facts.kind == kind]

    @property
    def clean(self) -> list[str]:
        """The reports of clean edits, by path."""
        return [facts.path for facts in self.of_kind("clean")]

    @property
    def scope(self) -> Scope:
        contained = [path for path, facts in self.facts.items() if facts.in_container]
        return scope_of(self.plan.cases, self.facts, contained)

    def pack_statement(
        self, manifest: Mapping[str, Any], digests: Collection[str], verdict: Mapping[str, Any] | None
    ) -> list[str]:
        """Return what a pack of these reports is evidence of, before a receiver has verified it."""
        parts = list(absent(manifest, digests, self.plan.cases))
        return pack_statement(self.scope, self.clean, verdict, parts)


def examine_reports(files: PackFiles) -> Findings:
    """Return what all reports of a pack hold, with the plan that they were made by."""
    found = Findings()
    _read_plan(files, found)
    presets, wrong = read_presets(files)
    found.claims += wrong
    found.presets = presets
    paths = [path for path in files.digests if is_report(path) or is_baseline(path)]
    if len(paths) > MAX_REPORTS:
        found.claims.append(f"the pack has {len(paths)} reports, more than the limit of {MAX_REPORTS}")
        return found
    for _, group in groupby(sorted(paths, key=_by_model), key=layout.model_folder):
        baseline = None
        for path in group:
            if is_baseline(path):
                baseline = _read_baseline(files, path, found)
                continue
            examined = examine_report(files, path, baseline, found.plan, presets.get(layout.model_folder(path)))
            found.envelopes[path] = examined.envelope
            if examined.facts is not None:
                found.facts[path] = examined.facts
                found.versions[path] = examined.facts.versions
            found.claims += examined.claims
            found.integrity += examined.integrity
    models = {layout.model_folder(path) for path in paths if is_report(path)}
    unused = sorted(presets.keys() - models)
    found.claims += [f"{layout.PRESETS}{preset_name(name)}: the preset of no model with a report" for name in unused]
    found.facts = dict(sorted(found.facts.items()))
    return found


def derive_verdict(found: Findings, timestamp: str, not_bundled: Collection[str] = ()) -> dict[str, Any]:
    """Return the verdict that follows from reports; ``not_bundled`` are the ids of cases that were left out.

    Raises:
        DocumentError: when the pack has no effective manifest.
    """
    if found.scenarios is None:
        raise DocumentError(f"{layout.SCENARIOS}: missing or malformed, the verdict follows from it")
    records = {path: facts.record for path, facts in found.facts.items()}
    return compile_records(
        found.scenarios, found.plan.cases, records, found.outcomes, timestamp=timestamp, not_bundled=not_bundled
    )


def derive_results(found: Findings, verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Return what follows from reports, by path: ``results/`` but the verdict, sweeps, and every ``verify.json``."""
    results: dict[str, Any] = {f"results/{name}": document for name, document in summarise(verdict).items()}
    results[layout.ARTIFACT_SUMMARY] = summarise_artifacts(
        {
            beside(path, layout.EDIT_METADATA): facts.artifact
            for path, facts in found.facts.items()
            if facts.artifact is not None
        },
        sum(facts.artifact is None for facts in found.facts.values()),
    )
    results[layout.SECONDS_SUMMARY] = summarise_seconds(
        (facts.model_id, facts.kind, facts.telemetry) for facts in found.facts.values() if facts.is_timed
    )
    repeated = {path: facts.repeats for path, facts in found.facts.items() if facts.repeats is not None}
    if repeated:
        results[layout.REPEATS_SUMMARY] = summarise_repeats(repeated)
    sweep = {path: facts.sweep for path, facts in found.facts.items() if facts.sweep is not None}
    if sweep:
        results[layout.GUARD_VALUE] = sweep_document(sweep)
    for path, envelope in found.envelopes.items():
        results[beside(path, layout.REPORT_VERIFICATION)] = envelope
    return results


def check_results(files: PackFiles, found: Findings) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the verdict of a pack, derived, and where its results are not what follows from its reports."""
    try:
        claimed = files.data(layout.VERDICT_JSON, MAX_JSON_BYTES)
        match = _TIMESTAMP.search(claimed)
        timestamp = "" if match is None else match[1].decode("ascii")
        verdict = derive_verdict(found, timestamp, _left_out(claimed))
    except InvarLockError as error:
        return None, [str(error)]
    problems = _differences(layout.VERDICT_JSON, claimed, verdict)
    expected = derive_results(found, verdict)
    for path, document in expected.items():
        problems += _compare(files, path, document)
    if files.digests.get(layout.VERDICT_TEXT) != _sha256(render_verdict_text(verdict).encode("utf-8")):
        problems.append(f"{layout.VERDICT_TEXT}: not the text of the verdict derived")
    asked = {path for facts in found.facts.values() for path in facts.companions}
    asked |= {beside(path, layout.REPEATS) for path, facts in found.facts.items() if facts.repeats is not None}
    problems += _strays(files.digests, expected, asked)
    return verdict, problems


def _left_out(claimed: bytes) -> frozenset[str]:
    """Return the cases that a verdict says are not bundled; which of them were planned is derived.

    Raises:
        DocumentError: when the verdict is no strict JSON.
    """
    if b'"not_bundled"' not in claimed:
        return frozenset()
    document = parse_json(claimed, where=layout.VERDICT_JSON, limit_bytes=MAX_JSON_BYTES, limit_values=MAX_JSON_VALUES)
    names = document.get("not_bundled") if isinstance(document, dict) else None
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()


def evidence_level(
    manifest: Mapping[str, Any], clean_reports: int, verdict: Mapping[str, Any] | None
) -> Literal["high", "medium", "low"]:
    """Return the level that a pack's manifest and reports support.

    ``high``: subject, at least one clean report, source repository and environment, and a verdict of PASS for which no
    planned case is missing. ``medium``: subject and at least one clean report, whatever else is missing or failed. Else
    ``low``.

    Args:
        manifest: the manifest; blocks of it may be missing or partial.
        clean_reports: how many reports of clean edits verify.
        verdict: what was derived, None when nothing can be.
    """
    if not _refers(manifest.get("subject")) or clean_reports == 0:
        return "low"
    sourced = _refers(manifest.get("environment")) and _refers(manifest.get("invocation", {}).get("config_source"))
    complete = verdict is not None and verdict["verdict"] == "PASS" and not verdict["missing"]["by_model"]
    return "high" if sourced and complete else "medium"


def _refers(block: Mapping[str, Any] | None) -> bool:
    """Tell whether a block of a manifest names a file and its digest."""
    return block is not None and bool(block.get("path")) and bool(block.get("digest"))


def _read_plan(files: PackFiles, found: Findings) -> None:
    """Read what was planned; without an effective manifest reports are still examined one by one."""
    try:
        scenarios = files.document(layout.SCENARIOS)
        check_schema(scenarios, "scenarios", where=layout.SCENARIOS)
        rows = {row["id"]: row for row in scenarios["scenarios"]}
        found.plan = Plan(planned_cases(scenarios), rows, _read_tuned(files))
        found.scenarios = scenarios
        if layout.PYTEST_REPORT in files.digests:
            document = files.document(layout.PYTEST_REPORT)
            found.outcomes = read_outcomes(document)
            found.claims += _pytest_problems(document)
    except (MissingFileError, IntegrityError):
        # told by whoever reads the files, or by deriving the verdict
        return
    except InvarLockError as error:
        found.claims.append(str(error))


def _pytest_problems(document: Any) -> Iterator[str]:
    """Yield where pytest's summary is not that of its tests."""
    outcomes = [test["outcome"] for test in document["tests"]]
    summary = document.get("summary", {})
    derived = {name: outcomes.count(name) for name in sorted(set(outcomes))} | {"total": len(outcomes)}
    derived |= {key: summary[key] for key in ("collected", "deselected") if key in summary}
    yield from (f"{layout.PYTEST_REPORT}: {line}" for line in differences(summary, derived, "summary"))
    if {"collected", "deselected"} <= set(summary) and summary["collected"] - summary["deselected"] != len(outcomes):
        yield f"{layout.PYTEST_REPORT}: summary: {len(outcomes)} tests are not those collected less those deselected"
    failed = len(outcomes) - outcomes.count("passed") - outcomes.count("skipped")
    if document.get("exitcode") in (0, 1) and document["exitcode"] != min(failed, 1):
        yield f"{layout.PYTEST_REPORT}: exitcode: {document['exitcode']}, with {failed} failed tests"


def _read_tuned(files: PackFiles) -> TunedParams | None:
    if layout.TUNED_PARAMS not in files.digests:
        return None
    document = files.document(layout.TUNED_PARAMS)
    check_schema(document, "tuned_edit_params", where=layout.TUNED_PARAMS)
    return TunedParams(layout.TUNED_PARAMS, document["models"], document)


def _read_baseline(files: PackFiles, path: str, found: Findings) -> Baseline | None:
    try:
        document = files.document(path)
        check_schema(document, "baseline_report", where=path)
    except IntegrityError:
        return None
    except DocumentError as error:
        found.claims.append(str(error))
        return None
    found.claims += [f"{path}: {line}" for line in verify_baseline(document)]
    found.baselines[path] = document["meta"]["model_id"]
    found.text_providers.add(document["dataset"]["provider"])
    found.baseline_digests[path] = document["baseline"]["digest"]
    found.versions[path] = document["meta"]["versions"]
    return Baseline(path, document, files.digests[path])


def _by_model(path: str) -> tuple[str, bool, str]:
    """Sort a model's baseline before its reports."""
    return layout.model_folder(path), not is_baseline(path), path


def _compare(files: PackFiles, path: str, derived: Any) -> list[str]:
    """Return where a document is not the one derived."""
    if path not in files.digests:
        return [f"{path}: missing"]
    try:
        claimed = files.data(path, MAX_JSON_BYTES)
    except IntegrityError:
        return []
    return _differences(path, claimed, derived)


def _differences(path: str, claimed: bytes, derived: Any) -> list[str]:
    try:
        document = parse_json(claimed, where=path, limit_bytes=MAX_JSON_BYTES, limit_values=MAX_JSON_VALUES)
    except DocumentError as error:
        return [str(error)]
    lines = list(islice(differences(document, derived), MAX_DIFFERENCES + 1))
    more = [f"{path}: and more differences"] if len(lines) > MAX_DIFFERENCES else []
    return [f"{path}: {line}" for line in lines[:MAX_DIFFERENCES]] + more


def _strays(paths: Iterable[str], derived: Iterable[str], asked: Iterable[str]) -> list[str]:
    """Return the files in the folders of reports and results that follow from no report."""
    known = {layout.VERDICT_JSON, layout.VERDICT_TEXT, *derived}
    found = [path for path in paths if path.startswith(layout.DERIVED_FOLDERS)]
    reports = {path for path in found if is_report(path)}
    known |= reports | {beside(path, name) for path in reports for name in (*layout.SIDECARS, layout.PAGE)} | set(asked)
    return [
        f"{path}: does not follow from the reports"
        for path in sorted(found)
        if path not in known and not is_baseline(path)
    ]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
