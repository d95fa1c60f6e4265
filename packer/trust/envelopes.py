"""Signed statements in a standard form that other tools read: an in-toto Statement in a DSSE envelope.

Sources: in-toto Attestation Framework, Statement v1 (https://github.com/in-toto/attestation/blob/main/spec/v1); DSSE v1
(https://github.com/secure-systems-lab/dsse/blob/master/protocol.md).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from invarlock.packer.format.limits import MAX_ATTESTATION_BYTES, MAX_JSON_VALUES
from invarlock.packer.trust.keys import SigningKey, fingerprint
from invarlock.packer.trust.pem import decode_base64
from invarlock.packer.trust.signature import check_signature

from invarlock.errors import DocumentError, SignatureError
from invarlock.jsonio import canonical_json, check_schema, parse_json
from invarlock.problems import Code

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"


@dataclass(frozen=True)
class EnvelopeKind:
    """A kind of signed statement.

    Attributes:
        name: the name of the envelope's file in messages.
        schema: the name of the contract that the statement must match.
        signer: the beginning of a message that ends with the fingerprint of the expected signer.
        malformed: the problem code if the envelope cannot be read.
        does_not_hold: the problem code if the signature is invalid or made with another key.
    """

    name: str
    schema: str
    signer: str
    malformed: Code
    does_not_hold: Code


def sign_statement(statement: Mapping[str, Any], key: SigningKey) -> dict[str, Any]:
    """Return the DSSE envelope of a statement; the payload is its canonical JSON."""
    payload = canonical_json(statement)
    signature = base64.b64encode(key.sign(pre_authentication_encoding(PAYLOAD_TYPE, payload)))
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode("ascii"),
        "signatures": [{"keyid": fingerprint(key.public), "sig": signature.decode("ascii")}],
    }


def open_envelope(data: bytes, public: bytes, kind: EnvelopeKind) -> dict[str, Any]:
    """Return the statement of an envelope after checking its only signature with a raw public key.

    Raises:
        SignatureError: when the envelope or its statement is malformed, or the signature is invalid or made with
            another key.
    """
    try:
        envelope = parse_json(data, where=kind.name, limit_bytes=MAX_ATTESTATION_BYTES)
        check_schema(envelope, "attestation", where=kind.name)
        payload = decode_base64(envelope["payload"])
        (row,) = envelope["signatures"]
        signature = decode_base64(row["sig"])
    except DocumentError as error:
        raise _malformed(error, kind) from None
    except ValueError as error:
        raise SignatureError(str(error), where=kind.name, code=kind.malformed) from None
    if row["keyid"] != fingerprint(public):
        words = f"signed by {row['keyid']}, but {kind.signer} {fingerprint(public)}"
        raise SignatureError(words, where=kind.name, code=kind.does_not_hold)
    if not check_signature(public, pre_authentication_encoding(PAYLOAD_TYPE, payload), signature):
        words = "its signature is not valid for its payload"
        raise SignatureError(words, where=kind.name, code=kind.does_not_hold)
    try:
        statement: dict[str, Any] = parse_json(payload, where=kind.name, limit_values=MAX_JSON_VALUES)
        check_schema(statement, kind.schema, where=kind.name)
    except DocumentError as error:
        raise _malformed(error, kind) from None
    return statement


def _malformed(error: DocumentError, kind: EnvelopeKind) -> SignatureError:
    problems = [problem.coded(kind.malformed) for problem in error.problems]
    return SignatureError(str(error), problems=problems)


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that DSSE signs: ``DSSEv1 <length> <type> <length> <payload>`` (protocol.md, PAE)."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
