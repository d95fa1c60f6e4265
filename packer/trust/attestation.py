"""In-toto attestations of a pack: its claims in standard forms for other tools, signed by the pack's signer.

Example::

    statement = make_statement("svr", attested, utc_now())
    envelope = sign_statement(statement, key)          # manifest.svr.json
    statement = open_attestation("svr", data, public_key)
    list(statement_problems("svr", statement, attested))   # [] if it follows from the pack

Source: in-toto Attestation Framework, Statement v1 (https://github.com/in-toto/attestation/blob/main/spec/v1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from invarlock.packer.format.checksums import ATTESTATIONS, MANIFEST_NAME
from invarlock.packer.trust.attested import AttestedPack
from invarlock.packer.trust.checkpoint_subjects import checkpoint_subjects, stated_files
from invarlock.packer.trust.envelopes import STATEMENT_TYPE, EnvelopeKind, open_envelope
from invarlock.packer.trust.predicates import PREDICATES

from invarlock.digests import sha256_hex
from invarlock.documents import JsonObject
from invarlock.errors import DocumentError, SignatureError, UsageError
from invarlock.jsonio import check_schema
from invarlock.moments import format_moment
from invarlock.problems import Code, Problem
from invarlock.reports.verification import differences


def make_statement(
    name: str, pack: AttestedPack, created: str, files: Mapping[str, Mapping[str, str]] | None = None
) -> JsonObject:
    """Return the statement about a pack with one of the predicates.

    The subjects of the statement are the manifest, by the digest of its exact bytes, and every baseline and subject
    checkpoint.

    Args:
        name: ``invarlock``, ``svr`` or ``test-result``.
        pack: the facts of the pack.
        created: the time of the statement, for predicates that have a time.
        files: the files of checkpoints: for each checkpoint digest, SHA-256 (64 hex) by file name.

    Raises:
        UsageError: when the pack has no result of this kind.
    """
    predicate = PREDICATES[name]
    manifest_subject = {"name": MANIFEST_NAME, "digest": {"sha256": sha256_hex(pack.sealed)}}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [manifest_subject, *checkpoint_subjects(pack, {**pack.baseline_files, **(files or {})})],
        "predicateType": predicate.type,
        "predicate": predicate.make(pack, created),
    }


def open_attestation(name: str, data: bytes, public: bytes, *, where: str | None = None) -> dict[str, Any]:
    """Return the statement of a pack's attestation after checking its signature with the raw public key of its signer.

    Args:
        name: the predicate that the statement must have.
        data: the DSSE envelope.
        public: the key of the signer.
        where: the file of the envelope, if it is not the one in ``ATTESTATIONS``.

    Raises:
        SignatureError: when the envelope or its statement is malformed, or the signature is invalid or made with
            another key.
    """
    kind = attestation_kind(where or ATTESTATIONS[name])
    statement = open_envelope(data, public, kind)
    predicate = PREDICATES[name]
    try:
        if statement["predicateType"] != predicate.type:
            raise SignatureError(f"predicateType: not {predicate.type}", where=kind.name, code=kind.malformed)
        check_schema(statement["predicate"], predicate.schema, where=kind.name)
    except DocumentError as error:
        problems = [problem.coded(kind.malformed) for problem in error.problems]
        raise SignatureError(str(error), problems=problems) from None
    return statement


def attestation_kind(where: str) -> EnvelopeKind:
    """Return the kind of the envelope in a file of a pack."""
    codes = (Code.ATTESTATION_MALFORMED, Code.ATTESTATION_DOES_NOT_HOLD)
    return EnvelopeKind(where, "attestation_statement", "the pack's signer is", *codes)


def statement_problems(
    name: str, statement: Mapping[str, Any], pack: AttestedPack, where: str | None = None
) -> Iterator[Problem]:
    """Yield the differences between a statement and the one that follows from the pack.

    The time of a statement and the files of a subject checkpoint are claims by the signer. The files must combine to
    the checkpoint's digest, and the time must not be before the pack was made.
    """
    place = where or ATTESTATIONS[name]
    created = str(statement["predicate"].get("timeCreated", ""))
    try:
        expected = make_statement(name, pack, created, stated_files(statement))
    except UsageError as error:
        yield Problem(Code.ATTESTATION_DIFFERS, place, "predicate", str(error))
        return
    found, derived = dict(statement), dict(expected)
    subjects = found.pop("subject"), derived.pop("subject")
    yield from differences(*subjects, "subject", where=place, code=Code.ATTESTED_SUBJECT_DIFFERS)
    yield from differences(found, derived, where=place, code=Code.ATTESTATION_DIFFERS)
    made = pack.manifest.get("generated_at")
    if created and made is not None and created < format_moment(datetime.fromisoformat(made)):
        words = f"{created}, before the pack was made"
        yield Problem(Code.ATTESTATION_DIFFERS, place, "predicate.timeCreated", words)
