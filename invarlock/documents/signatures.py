"""The signature files of a pack: ``manifest.signature.json`` and ``manifest.attestation.json``."""

from __future__ import annotations

from typing import TypedDict


class EncodedValue(TypedDict):
    """A value, and how it is encoded: ``pem`` or ``base64``."""

    encoding: str
    value: str


class ManifestSignature(TypedDict):
    """``manifest.signature.json``: the Ed25519 signature of the manifest's bytes."""

    format: str
    algorithm: str
    public_key: EncodedValue
    signature: EncodedValue
    signing_key_fingerprint: str


class DsseSignature(TypedDict):
    """One signature of a DSSE envelope."""

    keyid: str
    sig: str


class Attestation(TypedDict):
    """``manifest.attestation.json``: a DSSE envelope; ``payload`` is a statement in base64."""

    payloadType: str
    payload: str
    signatures: list[DsseSignature]
