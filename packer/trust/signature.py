"""The signature of a pack: Ed25519 over the exact bytes of ``manifest.json``."""

from __future__ import annotations

import base64

from invarlock.packer.format.checksums import SIGNATURE_NAME
from invarlock.packer.format.limits import MAX_SIGNATURE_BYTES
from invarlock.packer.trust.keys import SigningKey, fingerprint, public_pem, read_public_pem
from invarlock.packer.trust.pem import decode_base64
from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError, UnavailableError
from nacl.signing import VerifyKey

from invarlock.documents.signatures import ManifestSignature
from invarlock.errors import DocumentError, SignatureError
from invarlock.jsonio import check_schema, parse_json
from invarlock.problems import Code

FORMAT = "evidence-pack-signature-v1"
ED25519_SIGNATURE_BYTES = 64


def sign_manifest(manifest: bytes, key: SigningKey) -> ManifestSignature:
    """Return the ``manifest.signature.json`` document for a manifest's bytes."""
    return {
        "format": FORMAT,
        "algorithm": "ed25519",
        "public_key": {"encoding": "pem", "value": public_pem(key.public)},
        "signature": {"encoding": "base64", "value": base64.b64encode(key.sign(manifest)).decode("ascii")},
        "signing_key_fingerprint": fingerprint(key.public),
    }


def verify_manifest(manifest: bytes, signature_file: bytes) -> bytes:
    """Return the raw 32-byte public key that signed a manifest.

    libsodium refuses small-order keys and signatures whose scalar is not reduced (RFC 8032, section 5.1.7). This
    function also refuses a key that is not the canonical encoding of a point in the prime-order group.

    Raises:
        SignatureError: when the file is malformed, the key is weak, or the signature is invalid.
    """
    try:
        document = parse_json(signature_file, where=SIGNATURE_NAME, limit_bytes=MAX_SIGNATURE_BYTES)
        check_schema(document, "manifest_signature", where=SIGNATURE_NAME)
    except DocumentError as error:
        problems = [problem.coded(Code.SIGNATURE_MALFORMED) for problem in error.problems]
        raise SignatureError(str(error), problems=problems) from None
    public = read_public_pem(document["public_key"]["value"])
    if document["signing_key_fingerprint"] != fingerprint(public):
        raise _malformed("signing_key_fingerprint", "does not match its public key")
    try:
        signature = decode_base64(document["signature"]["value"])
    except ValueError as error:
        raise _malformed("signature", str(error)) from None
    if len(signature) != ED25519_SIGNATURE_BYTES:
        raise _malformed("signature", f"{len(signature)} bytes, an Ed25519 signature has 64")
    if not _is_fit(public):
        raise _malformed("public_key", "a small-order or non-canonical key, which proves nothing")
    if not check_signature(public, manifest, signature):
        words = "the signature is not valid for manifest.json: one of the two was changed; get the pack again"
        raise SignatureError(words, where=SIGNATURE_NAME, code=Code.SIGNATURE_DOES_NOT_HOLD)
    return public


def _malformed(field: str, message: str) -> SignatureError:
    return SignatureError(message, where=SIGNATURE_NAME, field=field, code=Code.SIGNATURE_MALFORMED)


def check_signature(public: bytes, data: bytes, signature: bytes) -> bool:
    """Return whether a signature of ``data`` is valid for a raw public key that passed the key check."""
    if len(signature) != ED25519_SIGNATURE_BYTES:
        return False
    try:
        VerifyKey(public).verify(data, signature)
    except BadSignatureError:
        return False
    return True


def _is_fit(public: bytes) -> bool:
    try:
        return bool(crypto_core_ed25519_is_valid_point(public))
    except UnavailableError:
        # this libsodium was built without the check; its verification still refuses small-order keys
        return True
