"""An in-toto attestation of a pack: its claims in a standard form for other tools, signed by the pack's signer.

Example::

    statement = make_statement(sealed, manifest, verdict, reports)
    envelope = sign_statement(statement, key)          # manifest.attestation.json
    statement = open_attestation(data, public_key)

Source: in-toto Attestation Framework, Statement v1 (https://github.com/in-toto/attestation/blob/main/spec/v1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from invarlock.packer.format.checksums import ATTESTATION_NAME, MANIFEST_NAME
from invarlock.packer.trust.envelopes import STATEMENT_TYPE, EnvelopeKind, open_envelope

from invarlock.digests import sha256_hex
from invarlock.documents import JsonObject
from invarlock.problems import Code, Problem
from invarlock.reports.verification import differences

PREDICATE_TYPE = "urn:invarlock:evidence-pack-verdict:v1"
ATTESTATION = EnvelopeKind(
    ATTESTATION_NAME,
    "attestation_statement",
    "the pack's signer is",
    Code.ATTESTATION_MALFORMED,
    Code.ATTESTATION_DOES_NOT_HOLD,
)
CHECKPOINT_DIGEST = (
    "sha256 over the sorted lines '<sha256 of file>  <name>' of the checkpoint's weight, config and tokenizer files"
)


@dataclass(frozen=True)
class AttestedReport:
    """The entry of a statement about one report; digests are ``sha256:<hex>``."""

    model: str
    scenario: str
    run: int
    subject_digest: str
    validation: Mapping[str, Any]
    ratio_vs_baseline: float | None
    passed: bool
    report_sha256: str


def make_statement(
    sealed: bytes, manifest: Mapping[str, Any], verdict: Mapping[str, Any], reports: Iterable[AttestedReport]
) -> JsonObject:
    """Return the statement about a pack.

    Its subjects are the manifest, by the digest of its exact bytes, and each subject checkpoint, by its digest; its
    predicate has the verdict, the gates of each case, and their provenance.

    Args:
        sealed: the bytes of ``manifest.json``.
        manifest: its document.
        verdict: the verdict that follows from the pack's reports.
        reports: the entry for each report.
    """
    ordered = sorted(reports, key=lambda report: (report.model, report.scenario, report.run))
    manifest_subject = {"name": MANIFEST_NAME, "digest": {"sha256": sha256_hex(sealed)}}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [manifest_subject, *_checkpoints(ordered)],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "verdict": verdict["verdict"],
            "evidence_level": manifest.get("evidence_level"),
            "counts": dict(verdict["counts"]),
            "cases": [
                {
                    "model": report.model,
                    "scenario": report.scenario,
                    "run": report.run,
                    "passed": report.passed,
                    "ratio_vs_baseline": report.ratio_vs_baseline,
                    "gates": dict(report.validation),
                    "report_sha256": report.report_sha256,
                }
                for report in ordered
            ],
            "provenance": _provenance(manifest),
        },
    }


def open_attestation(data: bytes, public: bytes) -> dict[str, Any]:
    """Return the statement of a pack's attestation after checking its signature with the raw public key of its signer.

    Raises:
        SignatureError: when the envelope or its statement is malformed, or the signature is invalid or by another key.
    """
    return open_envelope(data, public, ATTESTATION)


def statement_problems(statement: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the differences between a statement and the one that follows from the pack."""
    code = Code.ATTESTATION_DIFFERS
    yield from differences(dict(statement), dict(expected), where=ATTESTATION_NAME, code=code)


def _checkpoints(reports: Sequence[AttestedReport]) -> list[dict[str, Any]]:
    """Return each distinct checkpoint once, under the name of its first case."""
    names: dict[str, str] = {}
    for report in reports:
        names.setdefault(report.subject_digest, f"{report.model}/{report.scenario}/run_{report.run}")
    return [
        {
            "name": name,
            "digest": {"sha256": digest.removeprefix("sha256:")},
            "annotations": {"digest_method": CHECKPOINT_DIGEST},
        }
        for digest, name in names.items()
    ]


def _provenance(manifest: Mapping[str, Any]) -> JsonObject:
    source = manifest.get("invocation", {}).get("config_source") or {}
    found = {
        "suite": manifest.get("suite"),
        "generated_at": manifest.get("generated_at"),
        "invarlock_version": manifest.get("invarlock_version"),
        "models": manifest.get("models"),
        "source": {key: source[key] for key in ("uri", "commit", "dirty") if key in source} or None,
        "environment": manifest.get("environment", {}).get("digest"),
    }
    return {key: value for key, value in found.items() if value is not None}
