"""What a receiver asks of a pack, and what verifying it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from invarlock.packer.attestation import AttestedReport
from invarlock.packer.evidence import statement
from invarlock.packer.pack_folder import Progress
from invarlock.packer.trust import Authenticity

from invarlock.errors import UsageError

ReportAssurance = Literal["report", "strict", "off"]
# Told the bytes of the pack, returns what is told the bytes that are done.
StartProgress = Callable[[int], Progress]


@dataclass(frozen=True)
class VerifyOptions:
    """What a receiver asks for; ``at`` is the moment that trust is judged at.

    ``default_store`` is a trust store that nobody named: beside an expected fingerprint it can only revoke, while a
    ``trust_store`` must hold as well.
    """

    strict: bool = False
    report_assurance: ReportAssurance = "report"
    expected_fingerprint: str | None = None
    trust_store: Path | None = None
    default_store: Path | None = None
    allow_unsigned: bool = False
    require_pass: bool = False
    at: datetime | None = None

    def check(self) -> None:
        """Refuse options that exclude each other.

        Raises:
            UsageError: naming two of them.
        """
        if self.strict and self.report_assurance == "off":
            raise UsageError("--strict and --report-assurance off exclude each other; drop one")
        needs_signature = {
            "--strict": self.strict,
            "--expected-fingerprint": self.expected_fingerprint is not None,
            "--trust-store": self.trust_store is not None,
        }
        if self.allow_unsigned:
            for option in (name for name, given in needs_signature.items() if given):
                raise UsageError(f"--allow-unsigned and {option} exclude each other; drop one")


@dataclass
class VerifyResult:
    """What verifying found; ``code`` is the exit code, 0 when all holds."""

    pack: Path
    options: VerifyOptions
    code: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    signer: str | None = None
    authenticity: Authenticity = "unpinned"
    trust_store: str | None = None
    attested: bool = False
    verdict: str | None = None
    evidence_level: str | None = None
    missing_for_strong: list[str] = field(default_factory=list)
    asked: str = ""
    not_asked: list[str] = field(default_factory=list)
    integrity_ok: bool = False
    reports_verified: bool = False
    envelope: dict[str, Any] | None = None
    verdict_document: dict[str, Any] | None = None
    attested_reports: list[AttestedReport] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether everything that was checked holds, signed or not."""
        return self.code == 0

    @property
    def signed(self) -> bool:
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
            "exit_code": self.code,
            "signed": self.signed,
            "integrity_ok": self.integrity_ok,
            "reports_verified": self.reports_verified,
            "verification_scope": "integrity" if assurance == "off" else "integrity_and_reports",
            "assurance_status": self._assurance_status(),
            "strict": self.options.strict,
            "report_assurance": assurance,
            "warnings": self.warnings,
            "errors": self.errors,
            "evidence_level": self.evidence_level,
            "strong_evidence": {
                "ok": self.strong,
                "missing": self.missing_for_strong,
                "asked": self.asked,
                "not_asked": self.not_asked,
            },
            "authenticity": self.authenticity if self.signed or not self.holds else "unsigned",
            "signer_fingerprint": self.signer,
            "attested": self.attested,
            "trust_store": self.trust_store,
            "verdict": self.verdict,
            "verify": self.envelope,
        }
