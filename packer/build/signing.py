"""Signing an unsigned pack: one file is added, and nothing else changes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from invarlock.packer.format.checksums import MANIFEST_NAME, SIGNATURE_NAME, TIMESTAMP_NAME
from invarlock.packer.format.limits import MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES
from invarlock.packer.format.manifest import read_manifest
from invarlock.packer.format.pack_folder import open_pack
from invarlock.packer.trust.keys import SigningKey, fingerprint
from invarlock.packer.trust.signature import sign_manifest
from invarlock.packer.trust.timestamps import request_timestamp
from invarlock.packer.verify.verifying import VerifyOptions, VerifyResult, verify_pack

from invarlock.errors import InvarLockError, SignatureError, UsageError
from invarlock.jsonio import dump_json, sync_folder, write_bytes
from invarlock.problems import Code
from invarlock.staging import staging_folder


def sign_pack(pack: Path, key: SigningKey, timestamp_url: str | None = None) -> str:
    """Verify an unsigned pack, put ``manifest.signature.json`` into it, and return the signer's fingerprint.

    If ``timestamp_url`` is given, the signature is written only after a time stamp for it was obtained.

    Raises:
        UsageError: when the pack is already signed.
        SignatureError: when the pack's manifest names another signer.
        InvarLockError: with the problems of the pack and their exit code, when it does not verify.
    """
    if os.path.lexists(pack / SIGNATURE_NAME):
        raise UsageError("already signed; a signature is never replaced", code=Code.ALREADY_SIGNED, where=str(pack))
    sealed = read_sealed(pack)
    signer, claimed = fingerprint(key.public), read_manifest(sealed).get("signing_key_fingerprint")
    if claimed not in (None, signer):
        words = f"names the signer {claimed}, but this key is {signer}; sign with the key of that signer"
        raise SignatureError(words, where=MANIFEST_NAME, code=Code.SIGNER_DIFFERS)
    signature = dump_json(sign_manifest(sealed, key))
    # the signed pack is verified in memory first, so a pack that does not verify never gets a signature file
    added = {SIGNATURE_NAME: signature}
    verified(pack, added)
    if timestamp_url is not None:
        added[TIMESTAMP_NAME] = request_timestamp(timestamp_url, signature)
    for name, data in added.items():
        add_file(pack, name, data)
    return signer


def stamp_pack(pack: Path, timestamp_url: str) -> str:
    """Verify a signed pack, put a time stamp of its signature into it, and return the signer's fingerprint.

    Raises:
        UsageError: when the pack already has a time stamp, or the authority issues none.
        InvarLockError: with the problems of the pack and their exit code, when it does not verify.
    """
    if os.path.lexists(pack / TIMESTAMP_NAME):
        raise UsageError("already has a time stamp; it is never replaced", code=Code.ALREADY_SIGNED, where=str(pack))
    result = verified(pack, {})
    with open_pack(pack) as folder:
        signature = folder.read(SIGNATURE_NAME, MAX_SIGNATURE_BYTES)
    add_file(pack, TIMESTAMP_NAME, request_timestamp(timestamp_url, signature))
    return str(result.signer)


def read_sealed(pack: Path) -> bytes:
    """Return the bytes of a pack's manifest."""
    with open_pack(pack) as folder:
        return folder.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)


def verified(pack: Path, added: Mapping[str, bytes]) -> VerifyResult:
    """Verify a pack as if it contained the ``added`` files; raise if it does not verify."""
    result = verify_pack(pack, VerifyOptions(), added=added)
    if not result.ok:
        raise InvarLockError(f"{pack}: does not verify: {result.problems[0]}", problems=result.problems)
    return result


def add_file(pack: Path, name: str, data: bytes) -> None:
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
