"""The facts that a pack's attestations may state, derived from its verified reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invarlock.packer.format import layout
from invarlock.packer.format.contents import PackFiles
from invarlock.packer.format.documents import Manifest
from invarlock.packer.trust.attested import AttestedPack, AttestedReport
from invarlock.packer.verify.evidence import absent, missing_in_pack
from invarlock.packer.verify.report import ReportFacts
from invarlock.packer.verify.reports import Findings

from invarlock.catalog.pins import combine_digests
from invarlock.errors import InvarLockError
from invarlock.jsonio import check_schema

# The files that determine the cases and the settings of a run.
CONFIGURATION = (layout.SCENARIOS, layout.SETTINGS, layout.TUNED_PARAMS)


def attestable(
    sealed: bytes, manifest: Manifest, found: Findings, verdict: Mapping[str, Any], files: PackFiles
) -> AttestedPack:
    """Return the facts that a pack's attestations state.

    Args:
        sealed: the bytes of the pack's manifest.
        manifest: the manifest's document.
        found: the findings of the pack's reports.
        verdict: the derived verdict.
        files: the pack's sealed files.
    """
    reports = [_attested(facts, facts.record) for facts in found.facts.values() if facts.record is not None]
    parts = list(absent(manifest, files.digests, found.planned.plan.cases))
    baselines = {facts.model_id: facts.digest for facts in found.baselines.values()}
    return AttestedPack(
        sealed,
        manifest,
        verdict,
        tuple(sorted(reports, key=lambda report: (report.model, report.scenario, report.run))),
        baselines,
        _pinned_files(files, frozenset(baselines.values())),
        {path: files.digests[path] for path in CONFIGURATION if path in files.digests},
        strong=not missing_in_pack(found.scope, found.clean, verdict, parts),
    )


def _pinned_files(files: PackFiles, baselines: frozenset[str]) -> dict[str, dict[str, str]]:
    """Return the files of each baseline whose pins name all of its files, by the baseline's digest."""
    try:
        pins = files.document(layout.MODEL_REVISIONS)
        check_schema(pins, "model_revisions", where=layout.MODEL_REVISIONS)
    except InvarLockError:
        # the pins are missing, or another check reports the problem
        return {}
    listed = [{row["name"]: row["sha256"] for row in model.get("files") or ()} for model in pins.get("models", ())]
    return {digest: named for named in listed if named and (digest := combine_digests(named)) in baselines}


def _attested(facts: ReportFacts, record: Mapping[str, Any]) -> AttestedReport:
    return AttestedReport(
        model=facts.model_id,
        scenario=record["name"],
        run=record["run_num"],
        subject_digest=facts.subject_digest,
        validation=facts.validation,
        ratio_vs_baseline=record["ratio_vs_baseline"],
        passed=record["passed"],
        report_sha256=record["report_sha256"],
    )
