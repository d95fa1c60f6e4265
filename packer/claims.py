"""What a pack claims, derived again from its raw measurements.

Building and verifying use the same functions: what a builder writes is what a verifier expects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from invarlock.packer import layout
from invarlock.packer.layout import beside, is_baseline, is_report
from invarlock.packer.readme import render_readme

from invarlock.catalog.models import folder_name
from invarlock.errors import InvarLockError
from invarlock.jsonio import check_schema
from invarlock.reports.verification import differences, verify_against_baseline, verify_report
from invarlock.verdict.compiling import compile_verdict, read_outcomes
from invarlock.verdict.rendering import render_verdict_text
from invarlock.verdict.summaries import summarise, summarise_artifacts, summarise_seconds

# The times in a pack are its maker's word; everything else follows from measurements.
UNDERIVED = ("timestamp",)
MAX_DIFFERENCES = 5


@dataclass(frozen=True)
class PackData:
    """A pack's files: the parsed JSON documents, the other texts, and the sha256 (64 hex) of each."""

    documents: Mapping[str, Any]
    texts: Mapping[str, bytes]
    digests: Mapping[str, str]

    def reports(self) -> dict[str, tuple[dict[str, Any], str]]:
        """Return the reports by path: document and ``sha256:<hex>``."""
        return {
            path: (document, f"sha256:{self.digests[path]}")
            for path, document in sorted(self.documents.items())
            if is_report(path)
        }


def verify_envelope(path: str, report: dict[str, Any], category: str, problems: list[str]) -> dict[str, Any]:
    """Return the ``verify-v1`` envelope of one report, given what ``verify_report`` found."""
    metric: Mapping[str, Any] = {}
    reason = "malformed"
    if not problems:
        metric = report["primary_metric"]
        reason = "ok" if report["assurance"]["verdict"] == "PASS" else "policy_fail"
    return {
        "format_version": "verify-v1",
        "summary": {"ok": not problems, "reason": reason},
        "evaluation_report": {"count": 1},
        "results": [
            {
                "id": path,
                "schema_version": "v1",
                "kind": category,
                "ok": not problems,
                "reason": reason,
                "ratio_vs_baseline": metric.get("ratio_vs_baseline"),
                "ci": metric.get("ci"),
                "recompute": {
                    "family": metric.get("kind", "unknown"),
                    "performed": True,
                    "ok": not problems,
                    "reason": problems[0] if problems else None,
                },
            }
        ],
    }


def join_envelopes(envelopes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return one envelope of all reports."""
    results = [envelope["results"][0] for _, envelope in sorted(envelopes.items())]
    bad = [result for result in results if not result["ok"]]
    return {
        "format_version": "verify-v1",
        "summary": {"ok": not bad, "reason": "malformed" if bad else "ok"},
        "evaluation_report": {"count": len(results)},
        "results": results,
    }


def categories(scenarios: Mapping[str, Any]) -> dict[str, str]:
    """Return the category of each scenario of an effective manifest."""
    return {row["id"]: row["category"] for row in scenarios["scenarios"]}


def count_reports(reports: Mapping[str, tuple[Mapping[str, Any], str]], kinds: Mapping[str, str]) -> dict[str, int]:
    """Return how many reports of each category there are."""
    found = [kinds.get(report["meta"]["scenario"], "") for report, _ in reports.values()]
    return {
        "clean_reports": found.count("clean"),
        "stress_reports": found.count("stress"),
        "error_injection_reports": found.count("error_injection"),
    }


def evidence_level(manifest: Mapping[str, Any], failed_reports: int, clean_reports: int) -> str:
    """Return the level that a pack's manifest and reports support.

    ``high``: subject, at least one clean report, none failed, source repository and environment. ``medium``: subject
    and at least one clean report. Else ``low``.
    """
    if "subject" not in manifest or clean_reports == 0:
        return "low"
    sourced = manifest.get("environment", {}).get("digest") and manifest.get("invocation", {}).get("config_source")
    return "high" if sourced and failed_reports == 0 else "medium"


def derive_results(
    scenarios: dict[str, Any], reports: Mapping[str, tuple[dict[str, Any], str]], data: PackData, timestamp: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the verdict, and all other JSON documents under ``results/`` by path.

    Raises:
        InvarLockError: when the manifest selects nothing or a document is malformed.
    """
    outcomes = None
    if layout.PYTEST_REPORT in data.documents:
        outcomes = read_outcomes(data.documents[layout.PYTEST_REPORT])
    verdict = compile_verdict(scenarios, reports, outcomes, timestamp=timestamp)
    metadata = {
        path: document for path, document in data.documents.items() if path.endswith(f"/{layout.EDIT_METADATA}")
    }
    results: dict[str, Any] = {f"results/{name}": document for name, document in summarise(verdict).items()}
    results[layout.ARTIFACT_SUMMARY] = summarise_artifacts(metadata)
    results[layout.SECONDS_SUMMARY] = summarise_seconds(report for report, _ in reports.values())
    return verdict, results


def check_claims(
    manifest: Mapping[str, Any], data: PackData, *, strict_assurance: bool
) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Return every claim that does not follow, one line each, and the envelope of each report."""
    scenarios = data.documents.get(layout.SCENARIOS)
    claimed = data.documents.get(layout.VERDICT_JSON)
    if not isinstance(scenarios, dict) or not isinstance(claimed, dict):
        return [f"{layout.SCENARIOS} and {layout.VERDICT_JSON}: a pack needs both"], {}
    try:
        check_schema(scenarios, "scenarios", where=layout.SCENARIOS)
    except InvarLockError as error:
        return [str(error)], {}
    kinds = categories(scenarios)
    problems: list[str] = []
    envelopes: dict[str, dict[str, Any]] = {}
    reports = data.reports()
    for path, (report, _) in reports.items():
        wrong = verify_report(report)
        kind = kinds.get(report["meta"]["scenario"], "unknown") if not wrong else "unknown"
        envelopes[path] = verify_envelope(path, report, kind, wrong)
        problems += [f"{path}: {line}" for line in wrong]
        if not wrong:
            problems += _sidecar_problems(path, report, data, kind, strict_assurance)
            if data.documents.get(beside(path, layout.REPORT_VERIFICATION)) != envelopes[path]:
                problems.append(f"{beside(path, layout.REPORT_VERIFICATION)}: not what verifying the report gives")
    problems += _baseline_schema_problems(data)
    if problems:
        return problems, envelopes
    try:
        verdict, results = derive_results(scenarios, reports, data, str(claimed.get("timestamp", "")))
    except InvarLockError as error:
        return [str(error)], envelopes
    problems += _compare(layout.VERDICT_JSON, claimed, verdict)
    if data.texts.get(layout.VERDICT_TEXT) != render_verdict_text(verdict).encode("utf-8"):
        problems.append(f"{layout.VERDICT_TEXT}: not the text of the verdict derived")
    for path, document in results.items():
        problems += _compare(path, data.documents.get(path), document)
    extra = {path for path in data.documents if path.startswith("results/")} - {layout.VERDICT_JSON, *results}
    problems += [f"{path}: does not follow from the reports" for path in sorted(extra)]
    problems += _manifest_problems(manifest, scenarios, reports, verdict, data)
    return problems, envelopes


def _compare(path: str, found: Any, derived: Any) -> list[str]:
    if found is None:
        return [f"{path}: missing"]
    lines = list(differences(found, derived))
    more = [f"{path}: {len(lines) - MAX_DIFFERENCES} more differences"] if len(lines) > MAX_DIFFERENCES else []
    return [f"{path}: {line}" for line in lines[:MAX_DIFFERENCES]] + more


def _sidecar_problems(
    path: str, report: Mapping[str, Any], data: PackData, kind: str, strict_assurance: bool
) -> Iterator[str]:
    where = beside(path, layout.RUNTIME_MANIFEST)
    document = data.documents.get(where)
    try:
        check_schema(document, "runtime_manifest", where=where)
    except InvarLockError as error:
        yield str(error)
        return
    assert isinstance(document, dict)
    if document["report"]["sha256"] != data.digests[path]:
        yield f"{where}: report.sha256 is not that of the report beside it"
    if document["report"]["path"] != path or document["report"]["filename"] != layout.REPORT_NAME:
        yield f"{where}: report.path is {document['report']['path']!r}, the report is {path!r}"
    if document["execution_mode"] != report["context"]["execution_mode"]:
        yield f"{where}: execution_mode is not that of the report"
    in_container = document["runtime"]["container_execution"]
    if in_container != (document["execution_mode"] == "container"):
        yield f"{where}: container_execution does not agree with execution_mode"
    for key in ("profile", "tier", "execution_mode"):
        if document.get("context", {}).get(key, report["context"][key]) != report["context"][key]:
            yield f"{where}: context.{key} is not that of the report"
    if strict_assurance and kind == "clean" and not (in_container and document["runtime"]["image_digest"]):
        yield f"{where}: strict report assurance needs execution in a container with an image digest"
    timing = beside(path, layout.TIMING)
    if data.documents.get(timing) != report["telemetry"]:
        yield f"{timing}: not the telemetry of the report"
    baseline = layout.baseline_path(folder_name(report["meta"]["model_id"]))
    own = data.documents.get(baseline)
    if own is None:
        yield f"{baseline}: missing, {path} was measured against it"
        return
    try:
        check_schema(own, "baseline_report", where=baseline)
    except InvarLockError:
        return  # told once, by _baseline_schema_problems
    if report["baseline_ref"]["report_sha256"] != f"sha256:{data.digests[baseline]}":
        yield f"{path}: baseline_ref.report_sha256: not the digest of {baseline}"
    yield from (f"{path}: {line}" for line in verify_against_baseline(report, own))


def _baseline_schema_problems(data: PackData) -> list[str]:
    problems = []
    for path, document in sorted(data.documents.items()):
        if is_baseline(path):
            try:
                check_schema(document, "baseline_report", where=path)
            except InvarLockError as error:
                problems.append(str(error))
    return problems


def _manifest_problems(
    manifest: Mapping[str, Any],
    scenarios: Mapping[str, Any],
    reports: Mapping[str, tuple[dict[str, Any], str]],
    verdict: Mapping[str, Any],
    data: PackData,
) -> Iterator[str]:
    counts = count_reports(reports, categories(scenarios))
    order = ("low", "medium", "high")
    level, claimed = evidence_level(manifest, 0, counts["clean_reports"]), manifest.get("evidence_level", "low")
    if order.index(claimed) > order.index(level):
        yield f"manifest.json: evidence_level {claimed} is claimed, {level} is what the pack supports"
    for key, value in {**counts, "failed_reports": 0}.items():
        found = manifest.get("verification", {}).get(key, value)
        if found != value:
            yield f"manifest.json: verification.{key} is {found}, derived {value}"
    models = [{key: row[key] for key in ("model_id", "revision")} for row in scenarios["selection"]["models"]]
    licences = {row["model_id"]: row["licence"] for row in scenarios["selection"]["models"]}
    derived = {
        "suite": scenarios["selection"]["suite"],
        "models": models,
        "model_list": [row["model_id"] for row in models],
        "model_licenses": licences,
    }
    for key, value in derived.items():
        if manifest.get(key, value) != value:
            yield f"manifest.json: {key} is not that of {layout.SCENARIOS}"
    if data.texts.get(layout.README) != render_readme(manifest, verdict):
        yield f"{layout.README}: not what the manifest and the verdict give"
