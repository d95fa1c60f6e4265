"""Receipts: a receiver's signed statement about a verification, so that later receivers need not repeat it.

Example::

    receipt = sign_statement(make_receipt([result], utc_now()), key)        # verify --receipt FILE --receipt-key KEY
    statement = open_receipt(data, public_key)                              # verify-receipt FILE --public-key KEY
    receipt_problems(statement, manifest_digests)                           # [] if it accepts these packs

A receipt names each pack by the digest of its manifest, which fixes every file of the pack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from invarlock.packer.trust.envelopes import STATEMENT_TYPE, EnvelopeKind, open_envelope
from invarlock.packer.verify.options import VerifyOptions
from invarlock.packer.verify.result import VerifyResult

from invarlock import __version__
from invarlock.errors import UsageError
from invarlock.moments import format_moment
from invarlock.problems import Code, Problem

PREDICATE_TYPE = "urn:invarlock:verification-receipt:v1"
RECEIPT = EnvelopeKind(
    "receipt",
    "receipt_statement",
    "the expected receiver is",
    Code.RECEIPT_MALFORMED,
    Code.RECEIPT_DOES_NOT_HOLD,
)


def make_receipt(results: Sequence[VerifyResult], verified_at: str) -> dict[str, Any]:
    """Return the statement about a verification of one or more packs.

    Args:
        results: one result for each pack; all were verified with the same options.
        verified_at: the time of the verification.

    Raises:
        UsageError: when a manifest could not be read, so the receipt could not identify its pack.
    """
    for result in results:
        if result.manifest_sha256 is None:
            raise UsageError(
                f"--receipt: {result.pack} has no manifest that can be read, so no receipt can name it",
                code=Code.INPUT_UNREADABLE,
            )
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": "manifest.json", "digest": {"sha256": result.manifest_sha256}} for result in results],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "verifier": {"name": "InvarLock", "version": __version__},
            "verified_at": verified_at,
            "options": _options(results[0].options),
            "results": [_result(result) for result in results],
        },
    }


def open_receipt(data: bytes, public: bytes) -> dict[str, Any]:
    """Return the statement of a receipt after checking its signature with the raw public key of the receiver.

    Raises:
        SignatureError: when the receipt is malformed, or its signature is invalid or made with another key.
    """
    return open_envelope(data, public, RECEIPT)


def receipt_problems(statement: Mapping[str, Any], manifests: Mapping[str, str]) -> list[Problem]:
    """Return the reasons why a receipt does not accept the given packs; without packs, those that it lists.

    Args:
        statement: the statement of a receipt whose signature is valid.
        manifests: the SHA-256 of the manifest of each pack, by the pack's path.
    """
    results = {row["manifest_sha256"]: row for row in statement["predicate"]["results"]}
    problems = []
    for pack, digest in manifests.items():
        if digest not in results:
            words = f"the receipt is about other packs; none of its {len(results)} has this manifest"
            problems.append(Problem(Code.RECEIPT_OF_OTHER_PACK, pack, "", words))
    about = [results[digest] for digest in manifests.values() if digest in results] if manifests else results.values()
    for row in about:
        if not row["ok"]:
            codes = ", ".join(dict.fromkeys(problem["code"] for problem in row["problems"])) or "not signed"
            words = (
                f"the verification of {row['manifest_sha256'][:12]}… ended with exit code {row['exit_code']}: {codes}"
            )
            problems.append(Problem(Code.RECEIPT_REFUSES, "", "", words))
    return problems


def receipt_lines(statement: Mapping[str, Any]) -> list[str]:
    """Return a receipt as text: who verified what, when, with which options and with which result."""
    predicate = statement["predicate"]
    options = predicate["options"]
    wanted = [
        "--strict" if options["strict"] else "",
        f"--report-assurance {options['report_assurance']}",
        "--timestamp-certificate" if options["timestamp_certificate"] else "",
        "--require-pass" if options["require_pass"] else "",
        "--allow-unsigned" if options["allow_unsigned"] else "",
        f"a policy of {len(options['policy'])} requirements" if options["policy"] else "",
    ]
    lines = [
        f"verified at: {predicate['verified_at']} by {predicate['verifier']['name']} "
        f"{predicate['verifier']['version']}, {', '.join(filter(None, wanted))}"
    ]
    for row in predicate["results"]:
        outcome = "accepted" if row["ok"] else f"refused with exit code {row['exit_code']}"
        strong = "strong evidence" if row["strong"] else "not strong evidence"
        lines.append(
            f"pack {row['manifest_sha256']}: {outcome}, verdict {row['verdict'] or 'none'}, {strong}, "
            f"signer {row['signer_fingerprint'] or 'none'} ({row['authenticity']})"
        )
    return lines


def _options(options: VerifyOptions) -> dict[str, Any]:
    return {
        "strict": options.strict,
        "report_assurance": options.report_assurance,
        "expected_fingerprint": options.expected_fingerprint,
        "trust_store": options.trust_store is not None or options.default_store is not None,
        "allow_unsigned": options.allow_unsigned,
        "require_pass": options.require_pass,
        "at": None if options.at is None else format_moment(options.at),
        "timestamp_certificate": options.timestamp_certificate is not None,
        "policy": None if options.policy is None else dict(options.policy.requirements),
    }


def _result(result: VerifyResult) -> dict[str, Any]:
    return {
        "manifest_sha256": result.manifest_sha256,
        "ok": result.ok,
        "exit_code": result.code.value,
        "verdict": result.verdict,
        "strong": result.strong,
        "evidence_level": result.evidence_level,
        "signer_fingerprint": result.signer,
        "authenticity": result.authenticity if result.signed or not result.holds else "unsigned",
        "stamped_at": None if result.stamp is None else format_moment(result.stamp.moment),
        "problems": [{"code": problem.code.value, "message": str(problem)[:2000]} for problem in result.problems],
    }
