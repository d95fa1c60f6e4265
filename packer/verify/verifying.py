"""Verifying a pack offline: its files are intact, its signer is trusted, its claims follow from its measurements.

There are seven steps. Each returns a frozen result and the problems that it found:

1. control files: ``manifest.json`` and ``checksums.sha256`` exist,
2. manifest: it matches its schema,
3. signature and trust: the signature is valid and the receiver trusts the signer,
4. integrity: every file matches its checksum,
5. reports: each follows from its raw measurements, its baseline and the files in its folder,
6. results: verdict and summaries follow from the reports,
7. claims: manifest, metadata, README and attestation follow from the rest.

A step that fails ends the verification. Hashing overlaps with steps 5 to 7, which read the files. The result lists the
problems of the first class (by exit code) that failed. Only the manifest is parsed before the signature is verified.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from invarlock.packer.format import layout
from invarlock.packer.format.contents import SealedFiles
from invarlock.packer.format.documents import Manifest
from invarlock.packer.format.in_pack import in_pack
from invarlock.packer.format.limits import MAX_PROBLEMS
from invarlock.packer.format.pack_folder import PackFolder, open_pack
from invarlock.packer.trust.file_access import store_warnings
from invarlock.packer.trust.signers import read_trust_store
from invarlock.packer.trust.timestamps import read_authority
from invarlock.packer.verify.authenticity import Signature, TrustedParties, check_signature
from invarlock.packer.verify.claims import Claims, check_claims, version_problems
from invarlock.packer.verify.control_files import ControlFiles, ManifestResult, check_manifest, read_control_files
from invarlock.packer.verify.evidence import (
    absent,
    covered,
    evidence_level,
    missing_in_pack,
    not_covered,
    server_statements,
)
from invarlock.packer.verify.integrity import close_sealed, open_sealed
from invarlock.packer.verify.options import ReportAssurance, StartProgress, VerifyOptions
from invarlock.packer.verify.policies import PackProperties, policy_problems
from invarlock.packer.verify.report import join_envelopes
from invarlock.packer.verify.reports import Findings, examine_reports
from invarlock.packer.verify.result import VerifyResult
from invarlock.packer.verify.results import Results, check_results

from invarlock.digests import sha256_hex
from invarlock.errors import DocumentError, IntegrityError, InvarLockError, MissingFileError, printable
from invarlock.problems import Code, ExitCode, Problem, first_class
from invarlock.verdict.compiling import NOT_DERIVED

__all__ = ["ReportAssurance", "StartProgress", "VerifyOptions", "VerifyResult", "verify_pack"]


def verify_pack(
    path: Path,
    options: VerifyOptions,
    start_progress: StartProgress | None = None,
    added: Mapping[str, bytes] | None = None,
) -> VerifyResult:
    """Verify a pack; its problems are in the result, never raised.

    ``added`` maps names to control files that are verified as part of the pack before they are put into its folder.

    Raises:
        UsageError: when the options exclude each other, or the trust store or the authority's certificate is malformed.
        MissingFileError: when the trust store or the certificate does not exist.
    """
    options.check()
    store_path = options.trust_store or options.default_store
    trusted = TrustedParties(
        None if store_path is None else read_trust_store(store_path),
        None if options.timestamp_certificate is None else read_authority(options.timestamp_certificate),
    )
    try:
        with open_pack(path, added) as folder:
            control = read_control_files(folder)
            steps = _take_steps(folder, control, options, trusted, start_progress)
        if not control.problems:
            steps = replace(steps, manifest_sha256=sha256_hex(control.manifest))
    except InvarLockError as error:
        steps = _Steps(problems=tuple(in_pack(error)))
    return _conclude(path, options, store_path, steps)


@dataclass(frozen=True)
class _Steps:
    """The results of the steps, empty after a failed step; ``verdict`` is the pack's own claim."""

    manifest: ManifestResult = field(default_factory=ManifestResult)
    signature: Signature = field(default_factory=Signature)
    found: Findings = field(default_factory=Findings)
    results: Results = field(default_factory=Results)
    claims: Claims = field(default_factory=Claims)
    verdict: str | None = None
    paths: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    manifest_sha256: str | None = None
    finished: bool = False


def _take_steps(
    folder: PackFolder,
    control: ControlFiles,
    options: VerifyOptions,
    trusted: TrustedParties,
    start_progress: StartProgress | None,
) -> _Steps:
    if control.problems:
        return _Steps(problems=control.problems)
    manifest = check_manifest(control)
    if manifest.problems:
        return _Steps(problems=manifest.problems)
    signature = check_signature(folder, control, manifest, options, trusted)
    if signature.problems:
        return _Steps(manifest, signature, warnings=signature.warnings, problems=signature.problems)
    try:
        sealed = open_sealed(folder, control, manifest, strict=options.strict, start=start_progress)
    except IntegrityError as error:
        return _Steps(manifest, signature, warnings=signature.warnings, problems=error.problems)
    try:
        found = examine_reports(sealed.files)
        results, claims, verdict = Results(), Claims(), None
        if options.report_assurance == "off":
            verdict = _claimed_verdict(sealed.files)
        else:
            results = check_results(sealed.files, found)
            claims = check_claims(control, manifest, signature, found, results, sealed.files)
            verdict = None if results.verdict is None else results.verdict["verdict"]
        integrity = close_sealed(folder, sealed)
    finally:
        sealed.files.close()
    problems = [*found.problems, *results.problems, *claims.problems]
    if options.report_assurance == "off":
        # with assurance off, problems of reports are ignored, but the manifest's references must be consistent
        problems = [problem for problem in problems if problem.code.exit_code < ExitCode.REPORT]
    elif problems:
        problems += version_problems(manifest.document)
    return _Steps(
        manifest,
        signature,
        found,
        results,
        claims,
        verdict,
        frozenset(sealed.files.digests),
        (*signature.warnings, *sealed.warnings, *results.warnings, *claims.warnings),
        (*integrity, *problems),
        finished=True,
    )


def _conclude(path: Path, options: VerifyOptions, store: Path | None, steps: _Steps) -> VerifyResult:
    """Return the result of the steps, including the receiver's own requirements for an intact pack."""
    result = VerifyResult(
        path,
        options,
        warnings=(*([] if store is None else store_warnings(store)), *steps.warnings),
        signer=steps.signature.signer,
        authenticity=steps.signature.authenticity,
        made_at=steps.manifest.document.get("generated_at") if steps.manifest.document else None,
        stamp=steps.signature.stamp,
        trust_store=None if store is None else str(store),
        manifest_sha256=steps.manifest_sha256,
    )
    if not steps.finished or any(problem.code.exit_code < ExitCode.REPORT for problem in steps.problems):
        return _failed(result, steps.problems)
    manifest, found, verdict = steps.manifest.document, steps.found, steps.results.verdict
    is_off = options.report_assurance == "off"
    result = replace(
        result,
        warnings=(*result.warnings, *_assurance_warnings(manifest, found, is_off=is_off)),
        integrity_ok=True,
        attested=steps.claims.attested,
        attestable=steps.claims.attestable,
        verdict=steps.verdict,
        verdict_document=verdict,
        envelope=None if is_off else join_envelopes(found.envelopes),
        evidence_level=None
        if is_off
        else evidence_level(manifest, len(found.clean), verdict, is_served=found.serves_clean),
    )
    problems = [*steps.problems, *_unmet(options, found, steps.verdict)]
    if problems:
        return _failed(result, problems)
    result = replace(
        result,
        reports_verified=not is_off and bool(found.facts),
        covered="" if is_off else covered(found.scope),
        not_covered=() if is_off else tuple(not_covered(found.scope, signed=result.signed)),
        server_statements=() if is_off else tuple(server_statements(found.scope)),
        missing_for_strong=tuple(_missing_for_strong(result, steps)),
        has_page=not is_off and layout.PACK_PAGE in steps.paths,
    )
    if options.policy is None:
        return result
    at = options.at or datetime.now(UTC)
    stamped_at = None if result.stamp is None else result.stamp.moment
    shown = PackProperties(manifest, result.signer, found, verdict, result.missing_for_strong, at, stamped_at)
    unmet = policy_problems(options.policy, shown)
    return _failed(result, unmet) if unmet else result


def _failed(result: VerifyResult, problems: Sequence[Problem]) -> VerifyResult:
    found = first_class(problems)
    shown = tuple(map(_printable, found[:MAX_PROBLEMS]))
    return replace(result, problems=shown, left_out=len(found) - len(shown))


def _printable(problem: Problem) -> Problem:
    """Return a problem with terminal control characters escaped, since its texts may come from an attacker."""
    return Problem(problem.code, printable(problem.where), printable(problem.field), printable(problem.message))


def _unmet(options: VerifyOptions, found: Findings, verdict: str | None) -> Iterator[Problem]:
    """Yield the receiver's requirements that a valid pack does not meet."""
    if options.report_assurance == "strict":
        words = "strict report assurance requires that clean cases ran in a container with an image digest"
        for path in found.clean:
            if not found.facts[path].in_container:
                yield Problem(Code.CONTAINER_REQUIRED, layout.sibling(path, layout.RUNTIME_MANIFEST), "", words)
        if not found.clean:
            words = "the pack has no clean report, but strict report assurance requires one"
            yield Problem(Code.CLEAN_REPORT_REQUIRED, "", "", words)
    if options.require_pass and verdict != "PASS":
        words = f"the verdict is {verdict}, but PASS is required"
        yield Problem(Code.PASS_REQUIRED, layout.VERDICT_JSON, "", words)


def _assurance_warnings(manifest: Manifest, found: Findings, *, is_off: bool) -> Iterator[str]:
    if is_off:
        yield "reports were not verified: --report-assurance off"
    else:
        overridden = sorted({name for facts in found.facts.values() for name in facts.overrides})
        if overridden:
            yield f"the policy of reports was overridden: {', '.join(overridden)}"
        kept = [facts.subject_is_kept for facts in found.facts.values() if facts.subject_is_kept is not None]
        yield from kept_subjects_warnings(manifest, kept)
    if manifest.get("verification", {}).get("report_assurance") == "off":
        yield "its maker did not verify the reports in this pack: report_assurance off"


def kept_subjects_warnings(manifest: Manifest, kept: Sequence[bool]) -> Iterator[str]:
    """Yield a warning if reports and settings disagree on whether the subjects stay in the run directory.

    This is not an error: a run may be resumed with another ``keep_models``.

    Args:
        manifest: the pack's manifest, with the settings of the run.
        kept: the value of ``run_directory_contains_edit_artifacts`` in each ``edit_metadata.json``.
    """
    setting = manifest.get("invocation", {}).get("parameters", {}).get("keep_models")
    stated = setting.get("value") if isinstance(setting, dict) else None
    others = sum(one is not stated for one in kept)
    if isinstance(stated, bool) and others:
        yield (
            f"{others} of {len(kept)} edit_metadata.json say run_directory_contains_edit_artifacts: "
            f"{'false' if stated else 'true'}, but the run's keep_models is {'true' if stated else 'false'}"
        )


def _missing_for_strong(result: VerifyResult, steps: _Steps) -> list[str]:
    """Return the reasons why a valid pack is not strong evidence for this receiver."""
    conditions = {
        "a signature": result.signed,
        "a pinned signer (--expected-fingerprint or a trust store)": result.authenticity == "pinned",
        "strict checks (--strict)": result.options.strict,
        "strict report assurance (--report-assurance strict)": result.options.report_assurance == "strict",
    }
    found = steps.found
    parts = list(absent(steps.manifest.document, steps.paths, found.planned.plan.cases))
    in_pack_missing = missing_in_pack(found.scope, found.clean, steps.results.verdict, parts)
    return [name for name, holds in conditions.items() if not holds] + in_pack_missing


def _claimed_verdict(files: SealedFiles) -> str | None:
    try:
        document = files.document(layout.VERDICT_JSON)
    except (MissingFileError, IntegrityError, DocumentError):
        return None
    verdict = document.get("verdict") if isinstance(document, dict) else None
    return verdict if verdict in ("PASS", "FAIL", NOT_DERIVED) else None
