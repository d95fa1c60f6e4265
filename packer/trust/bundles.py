"""Attestations as Sigstore bundles: the same DSSE envelope, with a hint about the key that signed it.

Example::

    bundle = make_bundle(envelope)            # manifest.attestation.sigstore.json
    envelope = read_bundle(data, public_key)  # the envelope, whose signature is still to be checked

Source: Sigstore bundle v0.3 (https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_bundle.proto).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invarlock.packer.format.limits import MAX_ATTESTATION_BYTES, MAX_JSON_VALUES
from invarlock.packer.trust.attestation import attestation_kind

from invarlock.documents import JsonObject
from invarlock.errors import DocumentError, SignatureError
from invarlock.jsonio import dump_json, parse_json

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def make_bundle(envelope: Mapping[str, Any]) -> JsonObject:
    """Return the bundle of an envelope with one signature; the hint is the fingerprint of its key."""
    return {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": envelope["signatures"][0]["keyid"]}, "tlogEntries": []},
        "dsseEnvelope": dict(envelope),
    }


def read_bundle(data: bytes, where: str) -> bytes:
    """Return the DSSE envelope of a bundle, in the form of a separate envelope file.

    Raises:
        SignatureError: when the bundle does not have the form that ``make_bundle`` returns.
    """
    code = attestation_kind(where).malformed
    try:
        bundle = parse_json(data, where=where, limit_bytes=MAX_ATTESTATION_BYTES, limit_values=MAX_JSON_VALUES)
    except DocumentError as error:
        problems = [problem.coded(code) for problem in error.problems]
        raise SignatureError(str(error), problems=problems) from None
    try:
        envelope = bundle["dsseEnvelope"]
        alike = bundle == make_bundle(envelope)
    except (KeyError, IndexError, TypeError, ValueError):
        alike = False
    if not alike:
        words = "not a Sigstore bundle v0.3 of one DSSE envelope and the fingerprint of its key"
        raise SignatureError(words, where=where, code=code)
    return dump_json(envelope)
