"""Verifying a pack offline: is it whole, who signed it, and does what it claims follow from what was measured.

Classes of checks run in the order of their exit codes, 3 to 7. The first class that fails decides the code, and all
errors of that class are listed. Nothing but the manifest is parsed before the signature holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from invarlock.packer import layout
from invarlock.packer.attestation import AttestedReport, make_statement, open_envelope, statement_problems
from invarlock.packer.checksums import (
    ATTESTATION_NAME,
    CHECKSUMS_NAME,
    CONTROL_FILES,
    MANIFEST_NAME,
    SIGNATURE_NAME,
    read_checksums,
)
from invarlock.packer.claims import Findings, check_results, evidence_level, examine_reports
from invarlock.packer.contents import SealedFiles
from invarlock.packer.keys import fingerprint
from invarlock.packer.limits import (
    MAX_ATTESTATION_BYTES,
    MAX_CHECKSUMS_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_PROBLEMS,
    MAX_SIGNATURE_BYTES,
    THREADED_BYTES,
)
from invarlock.packer.manifest_claims import manifest_problems, metadata_problems, release_review
from invarlock.packer.manifest_format import read_manifest
from invarlock.packer.pack_folder import Listing, PackFolder, Progress, open_pack
from invarlock.packer.readme import readme_follows
from invarlock.packer.references import reference_problems
from invarlock.packer.report_claims import ReportFacts, join_envelopes
from invarlock.packer.signature import verify_manifest
from invarlock.packer.trust import Authenticity, TrustedSigner, judge_signer, read_trust_store

from invarlock import __version__
from invarlock.errors import (
    DocumentError,
    IntegrityError,
    InvarLockError,
    MissingFileError,
    ReportError,
    SignatureError,
    UsageError,
    printable,
)

ReportAssurance = Literal["report", "strict", "off"]
# Told the bytes of the pack, returns what is told the bytes that are done.
StartProgress = Callable[[int], Progress]


@dataclass(frozen=True)
class VerifyOptions:
    """What a receiver asks for; ``at`` is the moment that trust is judged at."""

    strict: bool = False
    report_assurance: ReportAssurance = "report"
    expected_fingerprint: str | None = None
    trust_store: Path | None = None
    require_pass: bool = False
    at: datetime | None = None


@dataclass
class VerifyResult:
    """What verifying found; ``code`` is the exit code, 0 when all holds."""

    pack: Path
    options: VerifyOptions
    code: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    signer: str | None = None
    authenticity: Authenticity = "unpinned"
    trust_store: str | None = None
    attested: bool = False
    verdict: str | None = None
    evidence_level: str | None = None
    missing_for_strong: list[str] = field(default_factory=list)
    integrity_ok: bool = False
    reports_verified: bool = False
    envelope: dict[str, Any] | None = None
    verdict_document: dict[str, Any] | None = None
    attested_reports: list[AttestedReport] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def strong(self) -> bool:
        """Whether the pack is strong evidence: all that can be asked of one, and it was asked."""
        return self.ok and not self.missing_for_strong

    def document(self) -> dict[str, Any]:
        """Return the ``verify --json`` document."""
        assurance = self.options.report_assurance
        return {
            "pack": str(self.pack),
            "ok": self.ok,
            "integrity_ok": self.integrity_ok,
            "reports_verified": self.reports_verified,
            "verification_scope": "integrity" if assurance == "off" else "integrity_and_reports",
            "assurance_status": "not_checked" if assurance == "off" else "ok" if self.reports_verified else "failed",
            "strict": self.options.strict,
            "report_assurance": assurance,
            "warnings": self.warnings,
            "errors": self.errors,
            "evidence_level": self.evidence_level,
            "strong_evidence": {"ok": self.strong, "missing": self.missing_for_strong},
            "authenticity": self.authenticity,
            "signer_fingerprint": self.signer,
            "attested": self.attested,
            "trust_store": self.trust_store,
            "verdict": self.verdict,
            "verify": self.envelope,
        }


def verify_pack(path: Path, options: VerifyOptions, start_progress: StartProgress | None = None) -> VerifyResult:
    """Verify a pack; what is wrong with it is in the result, never raised.

    Raises:
        UsageError: when the options exclude each other or the trust store is malformed.
        MissingFileError: when there is no such trust store.
    """
    if options.strict and options.report_assurance == "off":
        raise UsageError("--strict and --report-assurance off exclude each other; drop one")
    result = VerifyResult(path, options)
    store = None if options.trust_store is None else read_trust_store(options.trust_store)
    result.trust_store = None if options.trust_store is None else str(options.trust_store)
    try:
        with open_pack(path) as folder:
            _verify(folder, options, store, result, start_progress)
    except InvarLockError as error:
        _fail(result, error.exit_code, path.name, [str(error)])
    return result


@dataclass(frozen=True)
class _Sealed:
    """What the control files say: the manifest, its bytes, and the attestation's statement."""

    manifest: Mapping[str, Any]
    data: bytes
    statement: Mapping[str, Any] | None


def _verify(
    folder: PackFolder,
    options: VerifyOptions,
    store: Sequence[TrustedSigner] | None,
    result: VerifyResult,
    start_progress: StartProgress | None,
) -> None:
    data = folder.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
    checksums = folder.read(CHECKSUMS_NAME, MAX_CHECKSUMS_BYTES)
    manifest = read_manifest(data)
    public = _check_signature(folder, data, manifest, options, result)
    if public is not None:
        result.signer = fingerprint(public)
        _check_trust(result.signer, manifest, options, store, result)
    sealed = _Sealed(manifest, data, _read_attestation(folder, public))
    if hashlib.sha256(checksums).hexdigest() != manifest["checksums_sha256_digest"].lower():
        raise IntegrityError(f"{CHECKSUMS_NAME}: not the file that checksums_sha256_digest promises")
    digests = read_checksums(checksums)
    del checksums
    listing = folder.listing()
    integrity = [*listing.problems, *_uncovered(listing, digests, options, result)]
    integrity += reference_problems(manifest, digests)
    files = SealedFiles(folder, digests, start_progress(listing.total_bytes) if start_progress else None)
    try:
        files.hash_ahead(_large(listing, digests))
        found = examine_reports(files)
        wrong = _check_claims(sealed, found, files, result)
        integrity += [*files.finish(), *found.integrity, *folder.changes(listing)]
    finally:
        files.close()
    if integrity:
        result.verdict, result.evidence_level, result.envelope = None, None, None
        _fail(result, IntegrityError.exit_code, "pack", integrity)
        return
    result.integrity_ok = True
    _judge(sealed, found, wrong, options, result)


def _judge(sealed: _Sealed, found: Findings, wrong: list[str], options: VerifyOptions, result: VerifyResult) -> None:
    """Say what the claims of a whole pack are worth."""
    if options.report_assurance == "off":
        result.evidence_level = sealed.manifest.get("evidence_level")
        result.warnings.append("reports were not verified: --report-assurance off")
    else:
        outside = [path for path, facts in found.facts.items() if not facts.in_container]
        if options.report_assurance == "strict":
            wrong += [
                f"{layout.beside(path, layout.RUNTIME_MANIFEST)}: strict report assurance needs execution in a "
                "container with an image digest"
                for path in outside
            ]
            if not found.facts:
                wrong.append("the pack has no report, strict report assurance needs one")
        result.envelope = join_envelopes(found.envelopes)
        result.evidence_level = evidence_level(sealed.manifest, 0, len(found.of_kind("clean")))
        overridden = sorted({name for facts in found.facts.values() for name in facts.overrides})
        if overridden:
            result.warnings.append(f"the policy of reports was overridden: {', '.join(overridden)}")
    if sealed.manifest.get("verification", {}).get("report_assurance") == "off":
        result.warnings.append("whoever made the pack did not verify its reports in it: report_assurance off")
    if options.require_pass and result.verdict != "PASS":
        wrong.append(f"{layout.VERDICT_JSON}: the verdict is {result.verdict}, PASS is required")
    if wrong:
        _fail(result, ReportError.exit_code, "reports", wrong)
        return
    result.reports_verified = options.report_assurance != "off"
    result.missing_for_strong = _missing_for_strong(found, result)


def _check_claims(sealed: _Sealed, found: Findings, files: SealedFiles, result: VerifyResult) -> list[str]:
    """Derive all that the pack claims; return what does not follow, nothing where reports are not to be verified."""
    if result.options.report_assurance == "off":
        result.verdict = _claimed_verdict(files)
        return []
    if not any(path.startswith(layout.DERIVED_FOLDERS) or path == layout.SCENARIOS for path in files.digests):
        result.warnings.append("the pack holds no report and no verdict: only its bytes and its signature were checked")
        return []
    wrong = list(found.claims)
    result.verdict_document, problems = check_results(files, found)
    wrong += [*problems, *manifest_problems(sealed.manifest, found, files), *metadata_problems(found, files)]
    if result.verdict_document is None:
        return wrong
    result.verdict = result.verdict_document["verdict"]
    if release_review(sealed.manifest) and result.verdict != "PASS":
        wrong.append(f"{MANIFEST_NAME}: a release review is claimed, the verdict is {result.verdict}")
    result.attested_reports = [
        _attested(facts, facts.record) for facts in found.facts.values() if facts.record is not None
    ]
    if layout.README in files.digests:
        try:
            if not readme_follows(files.data(layout.README), sealed.manifest, result.verdict_document):
                wrong.append(f"{layout.README}: not what the manifest and the verdict give")
        except IntegrityError:
            pass  # told by files
    if sealed.statement is not None:
        expected = make_statement(sealed.data, sealed.manifest, result.verdict_document, result.attested_reports)
        wrong += [f"{ATTESTATION_NAME}: {line}" for line in statement_problems(sealed.statement, expected)]
        result.attested = True
    made_by = sealed.manifest.get("invarlock_version", __version__)
    if wrong and made_by != __version__:
        own = f"this is {__version__}, which may render texts and pages in another way"
        wrong.append(f"{MANIFEST_NAME}: made by InvarLock {made_by}, {own}")
    opaque = _opaque(sealed.manifest, files.digests)
    if opaque:
        shown = ", ".join(opaque[:3]) + (f" and {len(opaque) - 3} more" if len(opaque) > 3 else "")
        result.warnings.append(f"sealed, but nothing is derived from: {shown}")
    return wrong


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


def _claimed_verdict(files: SealedFiles) -> str | None:
    try:
        document = files.document(layout.VERDICT_JSON)
    except (MissingFileError, IntegrityError, DocumentError):
        return None
    verdict = document.get("verdict") if isinstance(document, dict) else None
    return verdict if verdict in ("PASS", "FAIL") else None


def _fail(result: VerifyResult, code: int, where: str, messages: Sequence[str]) -> None:
    result.code = code
    for message in map(printable, messages[:MAX_PROBLEMS]):
        place, separator, rest = message.partition(": ")
        known = separator and " " not in place
        result.errors.append({"code": code, "where": place if known else where, "message": rest if known else message})
    if len(messages) > MAX_PROBLEMS:
        more = f"{len(messages) - MAX_PROBLEMS} more errors of this class"
        result.errors.append({"code": code, "where": where, "message": more})


def _check_signature(
    folder: PackFolder, data: bytes, manifest: Mapping[str, Any], options: VerifyOptions, result: VerifyResult
) -> bytes | None:
    """Return the public key of the signer of a manifest, None for a pack that is not signed and need not be."""
    claimed = manifest.get("signing_key_fingerprint")
    try:
        signature = folder.read(SIGNATURE_NAME, MAX_SIGNATURE_BYTES)
    except MissingFileError:
        if options.strict or claimed is not None or options.expected_fingerprint is not None:
            named = f", the manifest names the signer {claimed}" if claimed else ""
            raise SignatureError(f"{SIGNATURE_NAME}: missing, the pack is not signed{named}") from None
        result.warnings.append("the pack is not signed: anybody could have made it")
        return None
    except IntegrityError as error:
        raise SignatureError(str(error)) from None
    public = verify_manifest(data, signature)
    if claimed is not None and claimed != fingerprint(public):
        raise SignatureError(
            f"{MANIFEST_NAME}: signing_key_fingerprint is {claimed}, the signer is {fingerprint(public)}"
        )
    return public


def _check_trust(
    signer: str,
    manifest: Mapping[str, Any],
    options: VerifyOptions,
    store: Sequence[TrustedSigner] | None,
    result: VerifyResult,
) -> None:
    moment = options.at or datetime.now(UTC)
    made = datetime.fromisoformat(manifest["generated_at"]) if "generated_at" in manifest else None
    for when in (moment,) if made is None else (moment, made):
        trust = judge_signer(signer, options.expected_fingerprint, store, when)
        result.authenticity = trust.authenticity
        if trust.reason is not None:
            raise SignatureError(trust.reason)
    if result.authenticity == "unpinned":
        result.warnings.append(
            "the signer is not pinned: compare the fingerprint, or pass --expected-fingerprint or --trust-store"
        )
    if made is not None and made > moment:
        result.warnings.append(f"the pack says that it was made at {made:%Y-%m-%dT%H:%M:%SZ}, which is still to come")


def _read_attestation(folder: PackFolder, public: bytes | None) -> Mapping[str, Any] | None:
    """Return the statement of a pack's attestation, None when it has none.

    Raises:
        SignatureError: when the attestation is not the pack's signer's, or malformed.
    """
    try:
        data = folder.read(ATTESTATION_NAME, MAX_ATTESTATION_BYTES)
    except MissingFileError:
        return None
    except IntegrityError as error:
        raise SignatureError(str(error)) from None
    if public is None:
        raise SignatureError(f"{ATTESTATION_NAME}: an attestation of a pack that is not signed; sign the pack first")
    return open_envelope(data, public)


def _large(listing: Listing, digests: Mapping[str, str]) -> list[str]:
    """Return the large files of which nothing but the digest is needed."""
    return [
        path
        for path, (size, *_) in listing.files.items()
        if size >= THREADED_BYTES and path in digests and not layout.is_read(path)
    ]


def _uncovered(listing: Listing, digests: Mapping[str, str], options: VerifyOptions, result: VerifyResult) -> list[str]:
    messages = [
        f"{path}: not in {CHECKSUMS_NAME}" for path in sorted(set(listing.files) - set(digests) - CONTROL_FILES)
    ]
    # a page is what people look at first, and one that nobody sealed could say anything
    failing = [line for line in messages if options.strict or f"/{layout.PAGE}: " in f"/{line}"]
    result.warnings += [line for line in messages if line not in failing][:MAX_PROBLEMS]
    return failing


def _opaque(manifest: Mapping[str, Any], paths: Mapping[str, str]) -> list[str]:
    named = {row.get("path") for row in manifest.get("materials", [])}
    return sorted(path for path in paths if not layout.is_checked(path) and path not in named)


def _missing_for_strong(found: Findings, result: VerifyResult) -> list[str]:
    clean = found.of_kind("clean")
    outside = sum(not facts.in_container for facts in clean)
    conditions = {
        "a signature": result.signer is not None,
        "a pinned signer (--expected-fingerprint or a trust store)": result.authenticity == "pinned",
        "strict checks (--strict)": result.options.strict,
        "strict report assurance (--report-assurance strict)": result.options.report_assurance == "strict",
        "a clean report": bool(clean),
        f"container provenance of {outside} of {len(clean)} clean reports": not outside,
        "verdict PASS": result.verdict == "PASS",
    }
    return [name for name, holds in conditions.items() if not holds]
