"""Who signed a pack, and whether its receiver trusts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from invarlock.packer.attestation import open_envelope
from invarlock.packer.checksums import (
    ATTESTATION_NAME,
    LINE_ENDS,
    MANIFEST_NAME,
    SIGNATURE_NAME,
    with_line_ends_restored,
)
from invarlock.packer.keys import fingerprint
from invarlock.packer.limits import MAX_ATTESTATION_BYTES, MAX_SIGNATURE_BYTES
from invarlock.packer.pack_folder import PackFolder
from invarlock.packer.signature import verify_manifest
from invarlock.packer.trust import TrustedSigner, judge_signer
from invarlock.packer.verify_result import VerifyOptions, VerifyResult

from invarlock.errors import IntegrityError, MissingFileError, SignatureError


def check_signature_of(
    folder: PackFolder, data: bytes, manifest: Mapping[str, Any], options: VerifyOptions, result: VerifyResult
) -> bytes | None:
    """Return the public key of the signer of a manifest, None for a pack that is not signed where that is allowed.

    Raises:
        SignatureError: when there is no signature, or it does not hold, or the manifest names another signer.
    """
    claimed = manifest.get("signing_key_fingerprint")
    try:
        signature = folder.read(SIGNATURE_NAME, MAX_SIGNATURE_BYTES)
    except MissingFileError:
        if claimed is not None:
            missing = f"missing, the pack is not signed, the manifest names the signer {claimed}"
            raise SignatureError(f"{SIGNATURE_NAME}: {missing}; get the whole pack again") from None
        if not options.allow_unsigned:
            remedy = (
                "its maker signs it with a key (python -m invarlock.packer keygen KEY.pem, then python -m "
                "invarlock.packer sign PACK --signing-key KEY.pem); --allow-unsigned looks at it as it is, "
                "and then nothing says who made it"
            )
            raise SignatureError(f"{SIGNATURE_NAME}: missing, the pack is not signed; {remedy}") from None
        result.warnings.append("the pack is not signed: anybody could have made it")
        return None
    except IntegrityError as error:
        raise SignatureError(str(error)) from None
    try:
        public = verify_manifest(data, signature)
    except SignatureError:
        restored = with_line_ends_restored(data)
        if restored is not None and _holds(restored, signature):
            raise SignatureError(f"{MANIFEST_NAME}: {LINE_ENDS}") from None
        raise
    if claimed is not None and claimed != fingerprint(public):
        raise SignatureError(
            f"{MANIFEST_NAME}: signing_key_fingerprint is {claimed}, the signer is {fingerprint(public)}"
        )
    return public


def _holds(data: bytes, signature: bytes) -> bool:
    try:
        verify_manifest(data, signature)
    except SignatureError:
        return False
    return True


def check_trust(
    signer: str,
    manifest: Mapping[str, Any],
    options: VerifyOptions,
    store: Sequence[TrustedSigner] | None,
    result: VerifyResult,
) -> None:
    """Note whether a signer is the one expected, or trusted, now and when the pack was made.

    Raises:
        SignatureError: when the signer is not.
    """
    moment = options.at or datetime.now(UTC)
    made = datetime.fromisoformat(manifest["generated_at"]) if "generated_at" in manifest else None
    for when in (moment,) if made is None else (moment, made):
        trust = judge_signer(
            signer, options.expected_fingerprint, store, when, store_is_default=options.trust_store is None
        )
        result.authenticity = trust.authenticity
        if trust.reason is not None:
            raise SignatureError(trust.reason)
    if result.authenticity == "unpinned":
        result.warnings.append(
            "the signer is not pinned: compare the fingerprint, or pass --expected-fingerprint or --trust-store"
        )
    if made is not None and made > moment:
        result.warnings.append(f"the pack says that it was made at {made:%Y-%m-%dT%H:%M:%SZ}, which is still to come")


def read_attestation(folder: PackFolder, public: bytes | None) -> Mapping[str, Any] | None:
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
