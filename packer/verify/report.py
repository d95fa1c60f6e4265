"""Checking that a report follows from its raw measurements, its baseline and the files in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from invarlock.packer.format import layout
from invarlock.packer.format.contents import PackFiles
from invarlock.packer.format.in_pack import in_pack
from invarlock.packer.format.layout import sibling
from invarlock.packer.format.places import Neighbours, case_place
from invarlock.packer.verify.baselines import Baseline
from invarlock.packer.verify.edit_records import edit_record_problems
from invarlock.packer.verify.plan import Plan
from invarlock.packer.verify.presets import preset_use_problems

from invarlock.catalog.edit_specs import parse_edit_spec
from invarlock.catalog.models import folder_name
from invarlock.catalog.tuned_params import TunedParams
from invarlock.digests import sha256_hex
from invarlock.documents import JsonObject
from invarlock.documents.verification import RepeatsDocument, VerifyEnvelope
from invarlock.errors import DocumentError, IntegrityError, InvarLockError, MissingFileError
from invarlock.jsonio import check_schema
from invarlock.problems import Code, Problem
from invarlock.reports.case_place import CasePlace
from invarlock.reports.companions import companion_problems, required_companions
from invarlock.reports.page_facts import PageFacts, page_facts
from invarlock.reports.policy import intent_of
from invarlock.reports.presets import Preset
from invarlock.reports.probes import file_name
from invarlock.reports.rendering import render_report
from invarlock.reports.repeats import repeats_problems
from invarlock.reports.served import is_served, stated_words
from invarlock.reports.verification import shorten, verify_against_baseline, verify_report
from invarlock.verdict.compiling import Planned, judge_report
from invarlock.verdict.documents import Record, SweepPoint
from invarlock.verdict.guard_value import sweep_point
from invarlock.verdict.summaries import ARTIFACT_KEYS


@dataclass(frozen=True)
class ReportFacts:
    """The facts kept from an examined report: everything that a verdict, a summary or a manifest uses."""

    path: str
    model_id: str
    revision: str | None
    kind: str
    record: Record | None
    artifact: Mapping[str, Any] | None
    subject_is_kept: bool | None
    telemetry: Mapping[str, Any]
    context: Mapping[str, Any]
    settings: Mapping[str, Any]
    subject_digest: str | None
    served: str | None
    validation: Mapping[str, Any]
    versions: Mapping[str, str]
    companions: tuple[str, ...]
    repeats: RepeatsDocument | None
    sweep: SweepPoint | None
    overrides: tuple[str, ...]
    in_container: bool
    is_timed: bool
    allows_network: bool
    page: PageFacts


@dataclass(frozen=True)
class ExaminedReport:
    """An examined report: its facts if it verifies, its ``verify-v1`` envelope, and its problems."""

    facts: ReportFacts | None
    envelope: VerifyEnvelope
    problems: tuple[Problem, ...] = ()


def examine_report(
    files: PackFiles,
    path: str,
    baseline: Baseline | None,
    plan: Plan,
    preset: Preset | None,
    around: Neighbours,
) -> ExaminedReport:
    """Examine a report and the files in its folder; return the facts, and a problem for all that does not follow.

    ``around`` are the pages that the report's page links to.

    A file that does not match its digest is already a problem in ``files`` and is not repeated here.
    """
    planned = plan.cases.get(path)
    kind = "unknown" if planned is None else str(planned.scenario["category"])
    try:
        report = files.document(path)
    except IntegrityError as error:
        return ExaminedReport(None, verify_envelope(path, {}, kind, error.problems))
    except DocumentError as error:
        malformed = in_pack(error, Code.REPORT_MALFORMED)
        return ExaminedReport(None, verify_envelope(path, {}, kind, malformed), tuple(malformed))
    problems = [problem.of(path) for problem in verify_report(report)]
    envelope = verify_envelope(path, report, kind, problems)
    if problems:
        return ExaminedReport(None, envelope, tuple(problems))
    digest = files.digests[path]
    problems += _place_problems(path, report, baseline)
    problems += _tuned_problems(path, report, planned, plan.tuned)
    problems += preset_use_problems(path, report, preset, None if baseline is None else baseline.document)
    runtime, wrong = _runtime_manifest(files, path, report, digest)
    problems += wrong
    problems += _timing_problems(files, path, report)
    metadata, wrong = _edit_metadata(files, path, report, plan)
    problems += wrong
    companions, wrong = _companions(files, path, report, planned, baseline, metadata)
    problems += wrong
    repeats, wrong = _repeats(files, path, report)
    problems += wrong
    record, point = None, None
    try:
        if planned is not None:
            seen = {**report, **companions}
            record = judge_report(planned, seen, f"sha256:{digest}")
            point = sweep_point(planned, seen, f"sha256:{digest}")
    except InvarLockError as error:
        problems += [problem.of(path) for problem in in_pack(error, Code.REPORT_MALFORMED)]
    problems += _page_problems(files, path, report, None if record is None else case_place(record, around))
    facts = ReportFacts(
        path=path,
        model_id=report["meta"]["model_id"],
        revision=report["meta"]["revision"],
        kind=kind,
        record=record,
        artifact=None if metadata is None else {key: metadata[key] for key in ARTIFACT_KEYS},
        subject_is_kept=None if metadata is None else metadata["run_directory_contains_edit_artifacts"],
        telemetry=report["telemetry"],
        is_timed=sibling(path, layout.TIMING) in files.digests,
        context=report["context"],
        settings=_settings(report),
        subject_digest=report["subject"]["digest"],
        served=stated_words(report["subject"]["served"]) if is_served(report) else None,
        validation=report["validation"],
        versions=report["meta"]["versions"],
        repeats=repeats,
        sweep=point,
        companions=tuple(sibling(path, file_name(name)) for name in companions),
        overrides=tuple(sorted(report["policy_provenance"]["overrides"])),
        in_container=bool(runtime and runtime["container_execution"] and runtime["image_digest"]),
        allows_network=bool(runtime and runtime["allow_network"]),
        page=page_facts(report),
    )
    return ExaminedReport(facts, envelope, tuple(problems))


def verify_envelope(path: str, report: Mapping[str, Any], kind: str, problems: Sequence[Problem]) -> VerifyEnvelope:
    """Return the ``verify-v1`` envelope of one report, given the problems from ``verify_report``."""
    metric: Mapping[str, Any] = {}
    reason = "malformed"
    if not problems:
        metric = report["primary_metric"]
        reason = "ok" if report["assurance"]["verdict"] == "PASS" else "policy_fail"
    envelope = {
        "format_version": "verify-v1",
        "summary": {"ok": not problems, "reason": reason},
        "evaluation_report": {"count": 1},
        "results": [
            {
                "id": path,
                "schema_version": "v1",
                "kind": kind,
                "ok": not problems,
                "reason": reason,
                "ratio_vs_baseline": metric.get("ratio_vs_baseline"),
                "ci": metric.get("ci"),
                "recompute": {
                    "family": metric.get("kind", "unknown"),
                    "performed": True,
                    "ok": not problems,
                    "reason": str(problems[0]) if problems else None,
                },
                # for a report that verifies, the envelope has no field for problems
                **({"problems": [problem.document() for problem in problems]} if problems else {}),
            }
        ],
    }
    return cast("VerifyEnvelope", envelope)


def join_envelopes(envelopes: Mapping[str, VerifyEnvelope]) -> VerifyEnvelope:
    """Join the envelopes of all reports into one."""
    results = [envelope["results"][0] for _, envelope in sorted(envelopes.items())]
    bad = [result for result in results if not result["ok"]]
    return {
        "format_version": "verify-v1",
        "summary": {"ok": not bad, "reason": "malformed" if bad else "ok"},
        "evaluation_report": {"count": len(results)},
        "results": results,
    }


def _place_problems(path: str, report: Mapping[str, Any], baseline: Baseline | None) -> Iterator[Problem]:
    """Yield a problem if a report is in another model's folder, or was measured against another baseline."""
    folder = layout.model_folder(path)
    if folder_name(report["meta"]["model_id"]) != folder:
        words = f"{report['meta']['model_id'][:100]!r}, but the folder is for another model"
        yield Problem(Code.MODEL_DIFFERS, path, "meta.model_id", words)
    if baseline is None:
        words = f"missing, but {path} was measured against it"
        yield Problem(Code.BASELINE_MISSING, layout.baseline_path(folder), "", words)
        return
    if report["baseline_ref"]["report_sha256"] != f"sha256:{baseline.digest}":
        words = f"does not match the digest of {baseline.path}"
        yield Problem(Code.BASELINE_DIFFERS, path, "baseline_ref.report_sha256", words)
    yield from (problem.of(path) for problem in verify_against_baseline(report, baseline.document))


def _runtime_manifest(
    files: PackFiles, path: str, report: Mapping[str, Any], digest: str
) -> tuple[Mapping[str, Any] | None, list[Problem]]:
    """Return the ``runtime`` block of the report's runtime manifest, and the problems of that file."""
    where = sibling(path, layout.RUNTIME_MANIFEST)
    document, unread = _document(files, where)
    if document is None:
        return None, unread
    try:
        check_schema(document, "runtime_manifest", where=where)
    except DocumentError as error:
        return None, in_pack(error)
    runtime: Mapping[str, Any] = document["runtime"]
    expected = [
        ("report.sha256", document["report"]["sha256"], digest),
        ("report.path", document["report"]["path"], path),
        ("report.filename", document["report"]["filename"], layout.REPORT_NAME),
        ("execution_mode", document["execution_mode"], report["context"]["execution_mode"]),
        ("runtime.container_execution", runtime["container_execution"], document["execution_mode"] == "container"),
    ]
    context = document.get("context", {})
    for key in ("profile", "tier", "execution_mode"):
        expected.append((f"context.{key}", context.get(key, report["context"][key]), report["context"][key]))
    wrong: list[tuple[str, str]] = []
    config = document["config"]
    if (config["source"] == "file") != (config["path"] is not None) or (config["path"] is None) != (
        config["sha256"] is None
    ):
        wrong.append(("config", "a file needs both path and sha256, anything else neither"))
    if not runtime["container_execution"] and (runtime["image_ref"] or runtime["image_digest"]):
        wrong.append(("runtime", "has an image, although nothing ran in a container"))
    wrong += [(key, "differs from the report") for key, found, own in expected if found != own]
    return runtime, [Problem(Code.RUNTIME_MANIFEST_DIFFERS, where, key, words) for key, words in wrong]


def _document(files: PackFiles, where: str) -> tuple[Any, list[Problem]]:
    """Return a document in a report's folder (None if it cannot be read), and its problems.

    A digest mismatch is already a problem in ``files`` and is not repeated here.
    """
    try:
        document = files.document(where)
        null = Problem(Code.FILE_MALFORMED, where, "", "null is not a document")
        return document, [null] if document is None else []
    except (MissingFileError, DocumentError) as error:
        return None, in_pack(error)
    except IntegrityError:
        return None, []


def _timing_problems(files: PackFiles, path: str, report: Mapping[str, Any]) -> list[Problem]:
    where = sibling(path, layout.TIMING)
    document, wrong = _document(files, where)
    if document is None or document == report["telemetry"]:
        return wrong
    return [Problem(Code.TIMING_DIFFERS, where, "", "differs from the report's telemetry")]


def _page_problems(
    files: PackFiles, path: str, report: Mapping[str, Any], place: CasePlace | None
) -> Iterator[Problem]:
    """Yield a problem if a report's HTML page exists and differs from the page rendered from the report."""
    where = sibling(path, layout.PAGE)
    if where not in files.digests:
        return
    page = render_report(report, files.digests[path], place)
    if sha256_hex(page) != files.digests[where]:
        yield Problem(Code.PAGE_DIFFERS, where, "", "not the page that is rendered from the report")


def _tuned_problems(
    path: str, report: Mapping[str, Any], planned: Planned | None, tuned: TunedParams | None
) -> Iterator[Problem]:
    """Yield a problem if a clean edit does not use the tuned parameters that the pack has for its model."""
    if planned is None or tuned is None or planned.scenario["generation"]["kind"] != "edit":
        return
    generation, model = planned.scenario["generation"], planned.case["model"]
    text = generation.get("edit_spec_by_model", {}).get(model, generation["edit_spec"])
    try:
        spec = str(tuned.resolve(parse_edit_spec(text), model))
    except InvarLockError as error:
        yield Problem(Code.TUNED_PARAMETERS_DIFFER, path, "edit.spec", str(error))
        return
    if report["edit"]["spec"] != spec:
        words = f"{shorten(report['edit']['spec'])}, but derived is {shorten(spec)}"
        yield Problem(Code.TUNED_PARAMETERS_DIFFER, path, "edit.spec", words)


def _edit_metadata(
    files: PackFiles, path: str, report: Mapping[str, Any], plan: Plan
) -> tuple[Mapping[str, Any] | None, list[Problem]]:
    where = sibling(path, layout.EDIT_METADATA)
    if is_served(report):
        words = "there, though the files of a served subject were not seen"
        there = where in files.digests
        return None, [Problem(Code.EDIT_METADATA_DIFFERS, where, "", words)] if there else []
    document, unread = _document(files, where)
    # the metadata is compared with its scenario; without scenarios, no claim is derived from it
    if document is None or not plan.scenarios:
        absent = where not in files.digests
        code = Code.EDIT_METADATA_MISSING if absent else Code.EDIT_METADATA_MALFORMED
        return None, [problem.coded(code) for problem in unread]
    problems = list(edit_record_problems(where, document, report, plan.scenarios.get(report["meta"]["scenario"])))
    return (None, problems) if problems else (document, [])


def _companions(
    files: PackFiles,
    path: str,
    report: Mapping[str, Any],
    planned: Planned | None,
    baseline: Baseline | None,
    metadata: Mapping[str, Any] | None,
) -> tuple[JsonObject, list[Problem]]:
    """Return the additional documents that a scenario requires (none if one of them is wrong), and the problems."""
    if planned is None:
        return {}, []
    found: JsonObject = {}
    wrong: list[Problem] = []
    for name in required_companions(planned.scenario):
        document, unread = _document(files, sibling(path, file_name(name)))
        wrong += unread
        if document is not None:
            found[name] = document
    if len(found) < len(required_companions(planned.scenario)):
        return {}, wrong
    base = None if baseline is None else baseline.document
    folder = path.removesuffix(layout.REPORT_NAME)
    wrong += [problem.below(folder) for problem in companion_problems(planned.scenario, found, report, base, metadata)]
    return ({} if wrong else found), wrong


def _repeats(files: PackFiles, path: str, report: Mapping[str, Any]) -> tuple[RepeatsDocument | None, list[Problem]]:
    """Return the repeats of a report (None if it has none), and their problems."""
    where = sibling(path, layout.REPEATS)
    if where not in files.digests:
        return None, []
    document, unread = _document(files, where)
    if document is None:
        return None, unread
    folder = path.removesuffix(layout.REPORT_NAME)
    problems = [problem.below(folder) for problem in repeats_problems(document, report)]
    return (None, problems) if problems else (document, [])


def _settings(report: Mapping[str, Any]) -> JsonObject:
    """Return the settings of the run that a report records, by name."""
    # the settings state the windows of the first text
    text = next(iter(report["dataset"].get("slices", ())), report["dataset"])
    windows = text["windows"]
    return {
        "profile": report["context"]["profile"],
        "tier": report["context"]["tier"],
        "seq_len": text["seq_len"],
        "preview_windows": windows["preview"],
        "final_windows": windows["final"],
        "intent": intent_of(report["policy_provenance"]["overrides"]),
    }
