"""Signing an unsigned pack, and attesting a signed one: one file is added, nothing else changes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from invarlock.packer.format.checksums import ATTESTATION_NAME, MANIFEST_NAME, SIGNATURE_NAME
from invarlock.packer.format.limits import MAX_MANIFEST_BYTES
from invarlock.packer.format.manifest import read_manifest
from invarlock.packer.format.pack_folder import open_pack
from invarlock.packer.trust.attestation import make_statement
from invarlock.packer.trust.envelopes import sign_statement
from invarlock.packer.trust.keys import SigningKey, fingerprint
from invarlock.packer.trust.signature import sign_manifest
from invarlock.packer.verify.verifying import VerifyOptions, VerifyResult, verify_pack

from invarlock.errors import InvarLockError, SignatureError, UsageError
from invarlock.jsonio import dump_json, sync_folder, write_bytes
from invarlock.problems import Code
from invarlock.staging import staging_folder


def sign_pack(pack: Path, key: SigningKey) -> str:
    """Verify an unsigned pack, put ``manifest.signature.json`` into it, and return the signer's fingerprint.

    Raises:
        UsageError: when the pack is already signed.
        SignatureError: when its manifest names another signer.
        InvarLockError: with the problems of the pack and their exit code, when it does not verify.
    """
    if os.path.lexists(pack / SIGNATURE_NAME):
        raise UsageError("already signed; a signature is never replaced", code=Code.ALREADY_SIGNED, where=str(pack))
    sealed = _read_manifest(pack)
    signer, claimed = fingerprint(key.public), read_manifest(sealed).get("signing_key_fingerprint")
    if claimed not in (None, signer):
        words = f"names the signer {claimed}, but this key is {signer}; sign with the key of that signer"
        raise SignatureError(words, where=MANIFEST_NAME, code=Code.SIGNER_DIFFERS)
    signature = dump_json(sign_manifest(sealed, key))
    # the signed pack is verified in memory first, so a pack that does not verify never gets a signature file
    _verified(pack, {SIGNATURE_NAME: signature})
    _add(pack, SIGNATURE_NAME, signature)
    return signer


def attest_pack(pack: Path, key: SigningKey) -> str:
    """Verify a signed pack and put ``manifest.attestation.json`` into it; return the signer's fingerprint.

    Raises:
        UsageError: when the pack already has an attestation.
        SignatureError: when the key does not belong to the pack's signer.
        InvarLockError: with the problems of the pack and their exit code, when it does not verify.
    """
    if os.path.lexists(pack / ATTESTATION_NAME):
        raise UsageError("already has an attestation; it is never replaced", code=Code.ALREADY_SIGNED, where=str(pack))
    sealed = _read_manifest(pack)
    result = _verified(pack, {})
    signer = fingerprint(key.public)
    if result.signer != signer:
        words = f"its signer is {result.signer or 'nobody'}, but this key is {signer}; use the signer's key"
        raise SignatureError(words, where=str(pack), code=Code.SIGNER_DIFFERS)
    if result.verdict_document is None:
        raise UsageError(
            "claims no verdict, so there is nothing to attest", code=Code.VERDICT_NOT_CLAIMED, where=str(pack)
        )
    statement = make_statement(sealed, read_manifest(sealed), result.verdict_document, result.attested_reports)
    attestation = dump_json(sign_statement(statement, key))
    _verified(pack, {ATTESTATION_NAME: attestation})
    _add(pack, ATTESTATION_NAME, attestation)
    return signer


def _read_manifest(pack: Path) -> bytes:
    with open_pack(pack) as folder:
        return folder.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)


def _verified(pack: Path, added: Mapping[str, bytes]) -> VerifyResult:
    """Verify a pack as if ``added`` files were in it; raise unless it verifies."""
    result = verify_pack(pack, VerifyOptions(), added=added)
    if not result.ok:
        raise InvarLockError(f"{pack}: does not verify: {result.problems[0]}", problems=result.problems)
    return result


def _add(pack: Path, name: str, data: bytes) -> None:
    """Add a file to a pack atomically; never replace an existing one."""
    try:
        with staging_folder(pack) as staging:
            write_bytes(staging / name, data)
            try:
                (pack / name).hardlink_to(staging / name)
            except FileExistsError:
                raise
            except OSError:
                # a file system without hard links: rename would replace the file, so check first
                if os.path.lexists(pack / name):
                    raise FileExistsError(name) from None
                (staging / name).rename(pack / name)
            sync_folder(pack)
    except FileExistsError:
        raise UsageError(
            "already exists; it is never replaced", code=Code.ALREADY_SIGNED, where=str(pack / name)
        ) from None
    except OSError as error:
        raise UsageError(
            f"cannot be written to ({error.strerror})", code=Code.OUTPUT_UNWRITABLE, where=str(pack)
        ) from None
