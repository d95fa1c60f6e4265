"""Verifying a pack offline: is it whole, who signed it, and does what it claims follow from what was measured.

Classes of checks run in the order of their exit codes, 3 to 7. The first class that fails decides the code, and all
errors of that class are listed. Nothing but the manifest is parsed before the signature holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from invarlock.packer import layout
from invarlock.packer.checksums import CHECKSUMS_NAME, CONTROL_FILES, MANIFEST_NAME, SIGNATURE_NAME, read_checksums
from invarlock.packer.claims import PackData, check_claims, evidence_level, join_envelopes
from invarlock.packer.edit_records import check_edit_records
from invarlock.packer.pack_folder import PackFolder, open_pack
from invarlock.packer.signature import MAX_SIGNATURE_FILE_BYTES, verify_manifest
from invarlock.packer.trust import DEFAULT_STORE, Authenticity, TrustedSigner, judge_signer, read_trust_store

from invarlock.errors import (
    DocumentError,
    IntegrityError,
    InvarLockError,
    ManifestError,
    MissingFileError,
    SignatureError,
    UsageError,
)
from invarlock.jsonio import check_schema, parse_json

ReportAssurance = Literal["report", "strict", "off"]

# A manifest of ten thousand reports lists their paths: some 2 MB.
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
MAX_CHECKSUMS_BYTES = 64 * 1024 * 1024
# The largest file we write is a release-profile report of a big model, some 20 MB.
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_ERRORS = 100


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
    verdict: str | None = None
    evidence_level: str | None = None
    integrity_ok: bool = False
    reports_verified: bool = False
    envelope: dict[str, Any] | None = None

    @property
    def ok(self) -> bool:
        return self.code == 0

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
            "authenticity": self.authenticity,
            "signer_fingerprint": self.signer,
            "trust_store": self.trust_store,
            "verdict": self.verdict,
            "verify": self.envelope,
        }


def verify_pack(path: Path, options: VerifyOptions) -> VerifyResult:
    """Verify a pack; what is wrong with it is in the result, never raised.

    Raises:
        UsageError: when the options exclude each other or the trust store is malformed.
        MissingFileError: when there is no such trust store.
    """
    if options.strict and options.report_assurance == "off":
        raise UsageError("--strict and --report-assurance off exclude each other; drop one")
    result = VerifyResult(path, options)
    store_path = options.trust_store
    if store_path is None and DEFAULT_STORE.expanduser().is_file():
        store_path = DEFAULT_STORE.expanduser()
    store = None if store_path is None else read_trust_store(store_path)
    result.trust_store = None if store_path is None else str(store_path)
    try:
        with open_pack(path) as folder:
            _verify(folder, options, store, result)
    except InvarLockError as error:
        _fail(result, error.exit_code, path.name, [str(error)])
    return result


def _verify(
    folder: PackFolder, options: VerifyOptions, store: Sequence[TrustedSigner] | None, result: VerifyResult
) -> None:
    sealed = folder.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
    checksums = folder.read(CHECKSUMS_NAME, MAX_CHECKSUMS_BYTES)
    manifest = _read_manifest(sealed)
    result.signer = _check_signature(folder, sealed, manifest, options, result)
    if result.signer is not None:
        _check_trust(result.signer, manifest, options, store, result)
    data, problems = _read_files(folder, checksums, manifest, options, result)
    problems += list(_reference_problems(manifest, data)) + list(check_edit_records(data))
    if problems:
        _fail(result, IntegrityError.exit_code, "pack", problems)
        return
    result.integrity_ok = True
    verdict = data.documents.get(layout.VERDICT_JSON)
    result.verdict = verdict.get("verdict") if isinstance(verdict, dict) else None
    result.evidence_level = manifest.get("evidence_level")
    if options.report_assurance == "off":
        result.warnings.append("reports were not verified: --report-assurance off")
        return
    wrong, envelopes = check_claims(manifest, data, strict_assurance=options.report_assurance == "strict")
    result.envelope = join_envelopes(envelopes)
    if options.require_pass and result.verdict != "PASS":
        wrong.append(f"{layout.VERDICT_JSON}: the verdict is {result.verdict}, PASS is required")
    if wrong:
        _fail(result, 7, "reports", wrong)
        return
    result.reports_verified = True
    clean = sum(row["kind"] == "clean" for row in result.envelope["results"])
    result.evidence_level = evidence_level(manifest, 0, clean)


def _fail(result: VerifyResult, code: int, where: str, messages: list[str]) -> None:
    result.code = code
    for message in messages[:MAX_ERRORS]:
        place, separator, rest = message.partition(": ")
        known = separator and " " not in place
        result.errors.append({"code": code, "where": place if known else where, "message": rest if known else message})


def _read_manifest(sealed: bytes) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = parse_json(sealed, where=MANIFEST_NAME, limit_bytes=MAX_MANIFEST_BYTES)
        check_schema(manifest, "manifest", where=MANIFEST_NAME)
    except DocumentError as error:
        raise ManifestError(str(error)) from None
    return manifest


def _check_signature(
    folder: PackFolder, sealed: bytes, manifest: Mapping[str, Any], options: VerifyOptions, result: VerifyResult
) -> str | None:
    """Return the signer of a manifest, None for a pack that is not signed and need not be."""
    claimed = manifest.get("signing_key_fingerprint")
    try:
        signature = folder.read(SIGNATURE_NAME, MAX_SIGNATURE_FILE_BYTES)
    except MissingFileError:
        if options.strict or claimed is not None or options.expected_fingerprint is not None:
            named = f", the manifest names the signer {claimed}" if claimed else ""
            raise SignatureError(f"{SIGNATURE_NAME}: missing, the pack is not signed{named}") from None
        result.warnings.append("the pack is not signed: anybody could have made it")
        return None
    except IntegrityError as error:
        raise SignatureError(str(error)) from None
    signer = verify_manifest(sealed, signature)
    if claimed is not None and claimed != signer:
        raise SignatureError(f"{MANIFEST_NAME}: signing_key_fingerprint is {claimed}, the signer is {signer}")
    return signer


def _check_trust(
    signer: str,
    manifest: Mapping[str, Any],
    options: VerifyOptions,
    store: Sequence[TrustedSigner] | None,
    result: VerifyResult,
) -> None:
    for moment in (options.at or datetime.now(UTC), _generated_at(manifest)):
        trust = judge_signer(signer, options.expected_fingerprint, store, moment)
        result.authenticity = trust.authenticity
        if trust.reason is not None:
            raise SignatureError(trust.reason)
    if result.authenticity == "unpinned":
        result.warnings.append(
            "the signer is not pinned: compare the fingerprint, or pass --expected-fingerprint or --trust-store"
        )


def _generated_at(manifest: Mapping[str, Any]) -> datetime:
    try:
        return datetime.fromisoformat(manifest["generated_at"])
    except (KeyError, ValueError):
        return datetime.now(UTC)


def _read_files(
    folder: PackFolder, checksums: bytes, manifest: Mapping[str, Any], options: VerifyOptions, result: VerifyResult
) -> tuple[PackData, list[str]]:
    """Read every file once, hash it, and parse the same bytes; return the data and all integrity problems."""
    if hashlib.sha256(checksums).hexdigest() != manifest["checksums_sha256_digest"].lower():
        raise IntegrityError(f"{CHECKSUMS_NAME}: not the file that checksums_sha256_digest promises")
    promised = read_checksums(checksums)
    listing = folder.listing()
    problems = list(listing.problems)
    for path in sorted(set(listing.sizes) - set(promised) - CONTROL_FILES):
        message = f"{path}: not in {CHECKSUMS_NAME}"
        if options.strict:
            problems.append(message)
        else:
            result.warnings.append(message)
    documents: dict[str, Any] = {}
    texts: dict[str, bytes] = {}
    for path, digest in promised.items():
        try:
            data = folder.read(path, MAX_FILE_BYTES)
        except MissingFileError:
            problems.append(f"{path}: missing, {CHECKSUMS_NAME} has it")
            continue
        except IntegrityError as error:
            problems.append(str(error))
            continue
        if hashlib.sha256(data).hexdigest() != digest:
            problems.append(f"{path}: its bytes are not those of its checksum")
        elif path.endswith(".json"):
            try:
                documents[path] = parse_json(data, where=path, limit_bytes=MAX_FILE_BYTES)
            except DocumentError as error:
                problems.append(str(error))
        elif path in (layout.README, layout.VERDICT_TEXT):
            texts[path] = data
    return PackData(documents, texts, promised), problems


def _reference_problems(manifest: Mapping[str, Any], data: PackData) -> Iterator[str]:
    """Yield references of the manifest whose digest is not that of the file they name."""
    references: list[tuple[str, Mapping[str, Any]]] = []
    for key in ("subject", "environment"):
        if key in manifest and "path" in manifest[key]:
            references.append((key, manifest[key]))
    source = manifest.get("invocation", {}).get("config_source")
    if source is not None:
        references.append(("invocation.config_source", source))
    for key in ("materials", "verification_baselines", "artifacts"):
        references += [(f"{key}[{index}]", row) for index, row in enumerate(manifest.get(key, []))]
    for name, row in references:
        path, digest = row.get("path"), row.get("digest")
        if not isinstance(path, str) or not isinstance(digest, str):
            yield f"{MANIFEST_NAME}: {name} has no path or no digest"
        elif path not in data.digests:
            yield f"{MANIFEST_NAME}: {name} names {path!r}, which the pack does not have"
        elif digest != f"sha256:{data.digests[path]}":
            yield f"{MANIFEST_NAME}: {name}: digest is not that of {path}"
