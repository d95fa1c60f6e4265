"""The verification step that checks who signed a pack and whether the receiver trusts the signer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from invarlock.packer.format.checksums import (
    ATTESTATIONS,
    BUNDLES,
    LINE_ENDS,
    MANIFEST_NAME,
    SIGNATURE_NAME,
    TIMESTAMP_NAME,
    with_line_ends_restored,
)
from invarlock.packer.format.documents import Manifest
from invarlock.packer.format.limits import MAX_ATTESTATION_BYTES, MAX_SIGNATURE_BYTES, MAX_TIMESTAMP_BYTES
from invarlock.packer.format.pack_folder import PackFolder
from invarlock.packer.trust.attestation import open_attestation
from invarlock.packer.trust.bundles import read_bundle
from invarlock.packer.trust.keys import fingerprint
from invarlock.packer.trust.signature import verify_manifest
from invarlock.packer.trust.signers import Authenticity, TrustedSigner, judge_signer
from invarlock.packer.trust.timestamps import TimeAuthority, TimeStamp, check_timestamp
from invarlock.packer.verify.control_files import ControlFiles, ManifestResult
from invarlock.packer.verify.options import VerifyOptions

from invarlock.errors import IntegrityError, MissingFileError, SignatureError
from invarlock.moments import format_moment
from invarlock.problems import Code, Problem

REMEDY = (
    "ask its maker to sign it (invarlock keygen KEY.pem, then invarlock sign PACK --signing-key KEY.pem); "
    "--allow-unsigned verifies it anyway, "
    "but its origin is then unknown"
)


@dataclass(frozen=True)
class TrustedParties:
    """The parties that a receiver trusts: signers and a time-stamping authority; None if the receiver names none."""

    signers: Sequence[TrustedSigner] | None = None
    authority: TimeAuthority | None = None


@dataclass(frozen=True)
class Attestation:
    """An attestation's statement, and the name of its predicate."""

    predicate: str
    statement: Mapping[str, Any]


@dataclass(frozen=True)
class Signature:
    """The signer of a pack: the fingerprint (None if unsigned), and whether the receiver trusts it.

    ``stamp`` is the signature's verified time stamp. ``statements`` are the statements of the pack's attestations, by
    file.
    """

    signer: str | None = None
    authenticity: Authenticity = "unpinned"
    stamp: TimeStamp | None = None
    statements: Mapping[str, Attestation] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def check_signature(
    folder: PackFolder,
    control: ControlFiles,
    manifest: ManifestResult,
    options: VerifyOptions,
    trusted: TrustedParties,
) -> Signature:
    """Return the signer of a pack, and whether it is the expected one and was trusted when it signed.

    If the receiver pins an authority, the signer must be trusted at the time of the time stamp; otherwise both now and
    at the time when the pack was made.
    """
    try:
        public = _public_key(folder, control.manifest, manifest.document, options)
    except SignatureError as error:
        return Signature(problems=error.problems)
    if public is None:
        found = Signature(warnings=("the pack is not signed: anybody could have made it",))
    else:
        try:
            stamp, warnings = _time_stamp(folder, trusted.authority)
        except SignatureError as error:
            return Signature(fingerprint(public), problems=error.problems)
        found = _judge(fingerprint(public), manifest.document, options, trusted.signers, stamp)
        if found.problems:
            return found
        found = replace(found, warnings=(*found.warnings, *warnings))
    try:
        return replace(found, statements=_read_attestations(folder, public))
    except SignatureError as error:
        return replace(found, problems=error.problems)


def _public_key(folder: PackFolder, data: bytes, manifest: Manifest, options: VerifyOptions) -> bytes | None:
    """Return the public key of a manifest's signer, or None for an unsigned pack if that is allowed.

    Raises:
        SignatureError: when the signature is missing or invalid, or the manifest names another signer.
    """
    claimed = manifest.get("signing_key_fingerprint")
    try:
        signature = folder.read(SIGNATURE_NAME, MAX_SIGNATURE_BYTES)
    except MissingFileError:
        if claimed is not None:
            missing = f"missing, although the manifest names the signer {claimed}; get the complete pack again"
            raise SignatureError(missing, where=SIGNATURE_NAME, code=Code.SIGNATURE_MISSING) from None
        if not options.allow_unsigned:
            missing = f"missing, the pack is not signed; {REMEDY}"
            raise SignatureError(missing, where=SIGNATURE_NAME, code=Code.SIGNATURE_MISSING) from None
        return None
    except IntegrityError as error:
        raise _unreadable(error, Code.SIGNATURE_MALFORMED) from None
    try:
        public = verify_manifest(data, signature)
    except SignatureError:
        restored = with_line_ends_restored(data)
        if restored is not None and _holds(restored, signature):
            raise SignatureError(LINE_ENDS, where=MANIFEST_NAME, code=Code.MANIFEST_LINE_ENDS_CHANGED) from None
        raise
    if claimed is not None and claimed != fingerprint(public):
        words = f"{claimed}, but the signer is {fingerprint(public)}"
        raise SignatureError(words, where=MANIFEST_NAME, field="signing_key_fingerprint", code=Code.SIGNER_DIFFERS)
    return public


def _holds(data: bytes, signature: bytes) -> bool:
    try:
        verify_manifest(data, signature)
    except SignatureError:
        return False
    return True


def _unreadable(error: IntegrityError, code: Code) -> SignatureError:
    return SignatureError(str(error), problems=[problem.coded(code) for problem in error.problems])


def _time_stamp(folder: PackFolder, authority: TimeAuthority | None) -> tuple[TimeStamp | None, list[str]]:
    """Return the time stamp of a pack's signature (None if the receiver pins no authority), and warnings.

    Raises:
        SignatureError: when the receiver pins an authority, and its signature has no time stamp by that authority.
    """
    try:
        token = folder.read(TIMESTAMP_NAME, MAX_TIMESTAMP_BYTES)
    except MissingFileError:
        if authority is None:
            return None, []
        words = "missing, but --timestamp-certificate requires a time stamp"
        raise SignatureError(words, where=TIMESTAMP_NAME, code=Code.TIMESTAMP_MISSING) from None
    except IntegrityError as error:
        raise _unreadable(error, Code.TIMESTAMP_MALFORMED) from None
    if authority is None:
        return None, ["the time stamp was not checked: pass the authority's certificate with --timestamp-certificate"]
    return check_timestamp(token, folder.read(SIGNATURE_NAME, MAX_SIGNATURE_BYTES), authority), []


def _judge(
    signer: str,
    manifest: Manifest,
    options: VerifyOptions,
    store: Sequence[TrustedSigner] | None,
    stamp: TimeStamp | None,
) -> Signature:
    """Return whether a signer is the expected one, and whether it was trusted when it signed."""
    now = options.at or datetime.now(UTC)
    made = datetime.fromisoformat(manifest["generated_at"]) if "generated_at" in manifest else None
    moments = [stamp.moment] if stamp is not None else [now] if made is None else [now, made]
    authenticity: Authenticity = "unpinned"
    for when in moments:
        trust = judge_signer(
            signer,
            options.expected_fingerprint,
            store,
            when,
            store_is_default=options.trust_store is None,
            proven=stamp is not None,
        )
        authenticity = trust.authenticity
        if trust.refusal is not None:
            problem = Problem(trust.refusal.code, SIGNATURE_NAME, "", trust.refusal.reason)
            return Signature(signer, authenticity, stamp, problems=(problem,))
    warnings = []
    if authenticity == "unpinned":
        warnings.append(
            "the signer is not pinned: compare the fingerprint, or pass --expected-fingerprint or --trust-store"
        )
    if made is not None and made > now:
        warnings.append(f"the pack claims to be made at {format_moment(made)}, which is in the future")
    if stamp is not None and stamp.moment > now:
        warnings.append(f"the time stamp is of {format_moment(stamp.moment)}, which is in the future")
    if stamp is not None and made is not None and made > stamp.moment:
        warnings.append(f"the pack claims to be made at {format_moment(made)}, after its time stamp")
    return Signature(signer, authenticity, stamp, warnings=tuple(warnings))


def _read_attestations(folder: PackFolder, public: bytes | None) -> dict[str, Attestation]:
    """Return the statements of a pack's attestations, by file.

    Raises:
        SignatureError: when an attestation is malformed, or was not made by the pack's signer.
    """
    found = {}
    for files in (ATTESTATIONS, BUNDLES):
        for predicate, where in files.items():
            data = _attestation_data(folder, where)
            if data is None:
                continue
            if public is None:
                words = "the pack has an attestation but no signature; sign the pack first"
                raise SignatureError(words, where=where, code=Code.ATTESTATION_DOES_NOT_HOLD)
            envelope = read_bundle(data, where) if files is BUNDLES else data
            found[where] = Attestation(predicate, open_attestation(predicate, envelope, public, where=where))
    return found


def _attestation_data(folder: PackFolder, where: str) -> bytes | None:
    try:
        return folder.read(where, MAX_ATTESTATION_BYTES)
    except MissingFileError:
        return None
    except IntegrityError as error:
        raise _unreadable(error, Code.ATTESTATION_MALFORMED) from None
