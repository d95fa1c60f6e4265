"""Verifying a pack offline: is it whole, who signed it, and does what it claims follow from what was measured.

Classes of checks run in the order of their exit codes, 3 to 7. The first class that fails decides the code, and all
errors of that class are listed. Nothing but the manifest is parsed before the signature holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invarlock.packer import layout
from invarlock.packer.attestation import AttestedReport, make_statement, statement_problems
from invarlock.packer.authenticity import check_signature_of, check_trust, read_attestation
from invarlock.packer.catalogue import catalogue_warnings
from invarlock.packer.checksums import (
    ATTESTATION_NAME,
    ATTRIBUTES,
    ATTRIBUTES_NAME,
    CHECKSUMS_NAME,
    CONTROL_FILES,
    LINE_ENDS,
    MANIFEST_NAME,
    read_checksums,
    with_line_ends_restored,
)
from invarlock.packer.claims import Findings, check_results, evidence_level, examine_reports
from invarlock.packer.contents import SealedFiles
from invarlock.packer.evidence import absent, asked, missing_in_pack, not_asked
from invarlock.packer.file_access import store_warnings
from invarlock.packer.keys import fingerprint
from invarlock.packer.limits import (
    MAX_CHECKSUMS_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_PROBLEMS,
    THREADED_BYTES,
)
from invarlock.packer.manifest_claims import manifest_problems, metadata_problems
from invarlock.packer.manifest_format import read_manifest
from invarlock.packer.pack_folder import Listing, PackFolder, open_pack
from invarlock.packer.readme import readme_follows
from invarlock.packer.references import reference_problems
from invarlock.packer.report_claims import ReportFacts, join_envelopes
from invarlock.packer.trust import TrustedSigner, read_trust_store
from invarlock.packer.verify_result import ReportAssurance, StartProgress, VerifyOptions, VerifyResult

from invarlock import __version__
from invarlock.errors import (
    DocumentError,
    IntegrityError,
    InvarLockError,
    MissingFileError,
    ReportError,
    printable,
)
from invarlock.verdict.compiling import NOT_DERIVED

__all__ = ["ReportAssurance", "StartProgress", "VerifyOptions", "VerifyResult", "verify_pack"]


def verify_pack(
    path: Path,
    options: VerifyOptions,
    start_progress: StartProgress | None = None,
    added: Mapping[str, bytes] | None = None,
) -> VerifyResult:
    """Verify a pack; what is wrong with it is in the result, never raised.

    ``added`` are control files, by name, that the pack is verified with though they are not in its folder yet.

    Raises:
        UsageError: when the options exclude each other or the trust store is malformed.
        MissingFileError: when there is no such trust store.
    """
    options.check()
    result = VerifyResult(path, options)
    store_path = options.trust_store or options.default_store
    store = None if store_path is None else read_trust_store(store_path)
    if store_path is not None:
        result.trust_store = str(store_path)
        result.warnings += store_warnings(store_path)
    try:
        with open_pack(path, added) as folder:
            _verify(folder, options, store, result, start_progress)
    except InvarLockError as error:
        # whatever class an error is of, a receiver gets one of the codes of this page
        code = error.exit_code if error.exit_code > 1 else ReportError.exit_code
        _fail(result, code, path.name, [str(error)])
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
    public = check_signature_of(folder, data, manifest, options, result)
    if public is not None:
        result.signer = fingerprint(public)
        check_trust(result.signer, manifest, options, store, result)
    sealed = _Sealed(manifest, data, read_attestation(folder, public))
    promised = manifest["checksums_sha256_digest"].lower()
    if hashlib.sha256(checksums).hexdigest() != promised:
        restored = with_line_ends_restored(checksums)
        changed = restored is not None and hashlib.sha256(restored).hexdigest() == promised
        raise IntegrityError(
            f"{CHECKSUMS_NAME}: {LINE_ENDS if changed else 'not the file that checksums_sha256_digest promises'}"
        )
    digests = read_checksums(checksums)
    del checksums
    listing = folder.listing()
    integrity = [*listing.problems, *_uncovered(listing, digests, options, result)]
    if ATTRIBUTES_NAME in listing.files and folder.read(ATTRIBUTES_NAME, MAX_MANIFEST_BYTES) != ATTRIBUTES:
        integrity.append(f"{ATTRIBUTES_NAME}: not {ATTRIBUTES.decode().strip()!r}, which is all that it may say")
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
    _judge(sealed, found, files, wrong, result)


def _judge(sealed: _Sealed, found: Findings, files: SealedFiles, wrong: list[str], result: VerifyResult) -> None:
    """Say what the claims of a whole pack are worth."""
    options = result.options
    if options.report_assurance == "off":
        result.warnings.append("reports were not verified: --report-assurance off")
    else:
        outside = [path for path in found.clean if not found.facts[path].in_container]
        if options.report_assurance == "strict":
            wrong += [
                f"{layout.beside(path, layout.RUNTIME_MANIFEST)}: strict report assurance needs execution of a clean "
                "case in a container with an image digest"
                for path in outside
            ]
            if not found.clean:
                wrong.append("the pack has no clean report, strict report assurance needs one")
        result.envelope = join_envelopes(found.envelopes)
        result.evidence_level = evidence_level(sealed.manifest, len(found.clean), result.verdict_document)
        overridden = sorted({name for facts in found.facts.values() for name in facts.overrides})
        if overridden:
            result.warnings.append(f"the policy of reports was overridden: {', '.join(overridden)}")
    if sealed.manifest.get("verification", {}).get("report_assurance") == "off":
        result.warnings.append("its maker did not verify the reports in this pack: report_assurance off")
    if options.require_pass and result.verdict != "PASS":
        wrong.append(f"{layout.VERDICT_JSON}: the verdict is {result.verdict}, PASS is required")
    if wrong:
        _fail(result, ReportError.exit_code, "reports", wrong)
        return
    result.reports_verified = options.report_assurance != "off" and bool(found.facts)
    if options.report_assurance != "off":
        result.asked, result.not_asked = asked(found.scope), not_asked(found.scope, signed=result.signed)
    result.missing_for_strong = _missing_for_strong(sealed, found, files, result)


def _check_claims(sealed: _Sealed, found: Findings, files: SealedFiles, result: VerifyResult) -> list[str]:
    """Derive all that the pack claims; return what does not follow, nothing where reports are not to be verified."""
    if result.options.report_assurance == "off":
        result.verdict = _claimed_verdict(files)
        return []
    wrong = list(found.claims)
    if any(path.startswith(layout.DERIVED_FOLDERS) or path == layout.SCENARIOS for path in files.digests):
        result.verdict_document, problems = check_results(files, found)
        wrong += problems
    else:
        result.warnings.append("the pack holds no report and no verdict: only its bytes and its signature were checked")
    if found.scenarios is not None:
        result.warnings += catalogue_warnings(sealed.manifest, found.scenarios)
    verdict = result.verdict_document
    result.verdict = None if verdict is None else verdict["verdict"]
    wrong += [*manifest_problems(sealed.manifest, found, files, verdict), *metadata_problems(found, files)]
    wrong += [
        f"{path}: differs from the name of a file that is checked only in the way it is written"
        for path in sorted(filter(layout.looks_checked, files.digests))
    ]
    result.attested_reports = [
        _attested(facts, facts.record) for facts in found.facts.values() if facts.record is not None
    ]
    wrong += _texts(sealed, found, files, result)
    made_by = sealed.manifest.get("invarlock_version", __version__)
    if wrong and made_by != __version__:
        own = f"this is {__version__}, which may render texts and pages in another way"
        wrong.append(f"{MANIFEST_NAME}: made by InvarLock {made_by}, {own}")
    opaque = _opaque(sealed.manifest, files.digests, derived=verdict is not None)
    if opaque:
        shown = ", ".join(opaque[:3]) + (f" and {len(opaque) - 3} more" if len(opaque) > 3 else "")
        result.warnings.append(f"sealed, but nothing is derived from: {shown}")
    return wrong


def _texts(sealed: _Sealed, found: Findings, files: SealedFiles, result: VerifyResult) -> Iterator[str]:
    """Yield where the README and the attestation do not say what the manifest and the verdict do."""
    verdict = result.verdict_document
    if layout.README in files.digests:
        try:
            readme = files.data(layout.README)
            evidence = found.pack_statement(sealed.manifest, files.digests, verdict)
            if verdict is None or not readme_follows(readme, sealed.manifest, verdict, evidence):
                yield f"{layout.README}: not what the manifest and the verdict give"
        except IntegrityError:
            pass  # told by files
    if sealed.statement is None:
        return
    if verdict is None:
        yield f"{ATTESTATION_NAME}: attests a verdict, and none follows from the pack"
        return
    expected = make_statement(sealed.data, sealed.manifest, verdict, result.attested_reports)
    yield from (f"{ATTESTATION_NAME}: {line}" for line in statement_problems(sealed.statement, expected))
    result.attested = True


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
    return verdict if verdict in ("PASS", "FAIL", NOT_DERIVED) else None


def _fail(result: VerifyResult, code: int, where: str, messages: Sequence[str]) -> None:
    result.code = code
    for message in map(printable, messages[:MAX_PROBLEMS]):
        place, separator, rest = message.partition(": ")
        known = separator and " " not in place
        result.errors.append({"code": code, "where": place if known else where, "message": rest if known else message})
    if len(messages) > MAX_PROBLEMS:
        more = f"{len(messages) - MAX_PROBLEMS} more errors of this class"
        result.errors.append({"code": code, "where": where, "message": more})


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


def _opaque(manifest: Mapping[str, Any], paths: Mapping[str, str], *, derived: bool) -> list[str]:
    """Return the files that nothing is derived from; without a verdict those are all."""
    named = {row.get("path") for row in manifest.get("materials", [])}
    return sorted(path for path in paths if not (derived and layout.is_checked(path)) and path not in named)


def _missing_for_strong(sealed: _Sealed, found: Findings, files: SealedFiles, result: VerifyResult) -> list[str]:
    conditions = {
        "a signature": result.signed,
        "a pinned signer (--expected-fingerprint or a trust store)": result.authenticity == "pinned",
        "strict checks (--strict)": result.options.strict,
        "strict report assurance (--report-assurance strict)": result.options.report_assurance == "strict",
    }
    parts = list(absent(sealed.manifest, files.digests, found.plan.cases))
    in_pack = missing_in_pack(found.scope, found.clean, result.verdict_document, parts)
    return [name for name, holds in conditions.items() if not holds] + in_pack
