"""What verifying a pack found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invarlock.packer.trust.attestation import AttestedReport
from invarlock.packer.trust.signers import Authenticity
from invarlock.packer.verify.evidence import statement
from invarlock.packer.verify.options import VerifyOptions

from invarlock.problems import ExitCode, Problem


@dataclass(frozen=True)
class VerifyResult:
    """What verifying found.

    Attributes:
        problems: all of the first class that failed, at most ``MAX_PROBLEMS``; empty when everything holds.
        left_out: how many more problems of that class there are.
        verdict: PASS, FAIL or NOT_DERIVED, None where the pack claims none or its bytes are not as sealed.
        verdict_document: the verdict as derived, None where nothing is.
        envelope: the ``verify-v1`` document of all reports.
    """

    pack: Path
    options: VerifyOptions
    problems: tuple[Problem, ...] = ()
    left_out: int = 0
    warnings: tuple[str, ...] = ()
    signer: str | None = None
    authenticity: Authenticity = "unpinned"
    trust_store: str | None = None
    attested: bool = False
    verdict: str | None = None
    evidence_level: str | None = None
    missing_for_strong: tuple[str, ...] = ()
    asked: str = ""
    not_asked: tuple[str, ...] = ()
    integrity_ok: bool = False
    reports_verified: bool = False
    envelope: Mapping[str, Any] | None = None
    verdict_document: Mapping[str, Any] | None = None
    attested_reports: tuple[AttestedReport, ...] = ()

    @property
    def code(self) -> ExitCode:
        """The exit code: that of the problems, 0 when everything holds."""
        return self.problems[0].code.exit_code if self.problems else ExitCode.OK

    @property
    def holds(self) -> bool:
        """Whether everything that was checked holds, signed or not."""
        return not self.problems

    @property
    def signed(self) -> bool:
        """Return whether the pack has a valid signature of any signer."""
        return self.signer is not None

    @property
    def ok(self) -> bool:
        """Whether a receiver may rely on the pack: never for one that nobody signed."""
        return self.holds and self.signed

    @property
    def evidence(self) -> list[str]:
        """What a person is told of what the pack is evidence of."""
        return statement(self.asked or "nothing that was checked", self.not_asked, self.missing_for_strong)

    @property
    def strong(self) -> bool:
        """Whether the pack is strong evidence: all that can be asked of one, and it was asked."""
        return self.ok and not self.missing_for_strong

    def _assurance_status(self) -> str:
        if self.reports_verified:
            return "ok"
        # a pack without reports holds, and nothing of reports was there to check
        return "not_checked" if self.holds or self.options.report_assurance == "off" else "failed"

    def document(self) -> dict[str, Any]:
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
                "asked": self.asked,
                "not_asked": list(self.not_asked),
            },
            "authenticity": self.authenticity if self.signed or not self.holds else "unsigned",
            "signer_fingerprint": self.signer,
            "attested": self.attested,
            "trust_store": self.trust_store,
            "verdict": self.verdict,
            "verify": self.envelope,
        }
