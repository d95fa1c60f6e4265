"""What a receiver asks of a pack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from invarlock.packer.format.pack_folder import Progress

from invarlock.errors import UsageError

ReportAssurance = Literal["report", "strict", "off"]
# Is called with the bytes of the pack, and returns what is called with the bytes that are done.
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
