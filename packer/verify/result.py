"""The result of verifying a pack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invarlock.packer.trust.attested import AttestedPack
from invarlock.packer.trust.signers import Authenticity
from invarlock.packer.trust.timestamps import TimeStamp
from invarlock.packer.verify.evidence import statement
from invarlock.packer.verify.options import VerifyOptions

from invarlock.documents import JsonObject
from invarlock.documents.verification import VerifyEnvelope
from invarlock.moments import format_moment
from invarlock.problems import ExitCode, Problem


@dataclass(frozen=True)
class VerifyResult:
    """The result of verifying a pack.

    Attributes:
        problems: the problems of the first class that failed, at most ``MAX_PROBLEMS``; empty if the pack verifies.
        left_out: the number of further problems of that class.
        verdict: PASS, FAIL or NOT_DERIVED; None if the pack claims no verdict or its integrity check failed.
        verdict_document: the derived verdict, or None.
        envelope: the ``verify-v1`` document of all reports.
        attested: the predicates of the pack's attestations, each of which follows from its reports.
        attestable: the facts that the pack's attestations may state; None if it has no verdict.
        made_at: the time at which the pack was made, as stated by its signer.
        stamp: the verified time stamp of the signature.
        server_statements: the servers' unproven statements about served subjects.
        has_page: whether the pack has an ``index.html``; if so, it was rendered again and compared.
        manifest_sha256: the digest of the manifest's exact bytes, None if they could not be read.
    """

    pack: Path
    options: VerifyOptions
    problems: tuple[Problem, ...] = ()
    left_out: int = 0
    warnings: tuple[str, ...] = ()
    signer: str | None = None
    authenticity: Authenticity = "unpinned"
    made_at: str | None = None
    stamp: TimeStamp | None = None
    trust_store: str | None = None
    attested: tuple[str, ...] = ()
    verdict: str | None = None
    evidence_level: str | None = None
    missing_for_strong: tuple[str, ...] = ()
    covered: str = ""
    not_covered: tuple[str, ...] = ()
    integrity_ok: bool = False
    reports_verified: bool = False
    envelope: VerifyEnvelope | None = None
    verdict_document: Mapping[str, Any] | None = None
    attestable: AttestedPack | None = None
    has_page: bool = False
    server_statements: tuple[str, ...] = ()
    manifest_sha256: str | None = None

    @property
    def code(self) -> ExitCode:
        """The exit code of the problems, or 0 if there are no problems."""
        return self.problems[0].code.exit_code if self.problems else ExitCode.OK

    @property
    def holds(self) -> bool:
        """Whether all checks passed, whether or not the pack is signed."""
        return not self.problems

    @property
    def signed(self) -> bool:
        """Return whether the pack has a valid signature by any signer."""
        return self.signer is not None

    @property
    def ok(self) -> bool:
        """Whether a receiver may rely on the pack; never true for an unsigned one."""
        return self.holds and self.signed

    @property
    def evidence(self) -> list[str]:
        """The evidence statement as lines of text."""
        included = self.covered or "nothing that was checked"
        return statement(included, self.not_covered, self.missing_for_strong, stated=self.server_statements)

    @property
    def strong(self) -> bool:
        """Whether the pack is strong evidence, that is, no requirement for it is missing."""
        return self.ok and not self.missing_for_strong

    def _assurance_status(self) -> str:
        if self.reports_verified:
            return "ok"
        # a valid pack without reports has nothing to check
        return "not_checked" if self.holds or self.options.report_assurance == "off" else "failed"

    def _time(self) -> JsonObject:
        """Return when the pack was signed, and who states this time: an authority, or only the signer."""
        if self.stamp is None:
            return {"signed_by": self.made_at, "stated_by": "signer", "authority": None}
        return {
            "signed_by": format_moment(self.stamp.moment),
            "stated_by": "timestamp_authority",
            "authority": self.stamp.authority,
        }

    def document(self) -> JsonObject:
        """Return the ``verify --json`` document."""
        assurance = self.options.report_assurance
        return {
            "pack": str(self.pack),
            "ok": self.ok,
            "exit_code": self.code.value,
            "signed": self.signed,
            "integrity_ok": self.integrity_ok,
            "reports_verified": self.reports_verified,
            "verification_scope": "integrity" if assurance == "off" else "integrity_and_reports",
            "assurance_status": self._assurance_status(),
            "strict": self.options.strict,
            "report_assurance": assurance,
            "warnings": list(self.warnings),
            "errors": [problem.document() for problem in self.problems],
            "errors_left_out": self.left_out,
            "evidence_level": self.evidence_level,
            "strong_evidence": {
                "ok": self.strong,
                "missing": list(self.missing_for_strong),
                "covered": self.covered,
                "not_covered": list(self.not_covered),
            },
            "stated_by_servers": list(self.server_statements),
            "authenticity": self.authenticity if self.signed or not self.holds else "unsigned",
            "signer_fingerprint": self.signer,
            "attested": bool(self.attested),
            "attested_predicates": list(self.attested),
            "trust_store": self.trust_store,
            "time": self._time(),
            "verdict": self.verdict,
            "verify": self.envelope,
        }
