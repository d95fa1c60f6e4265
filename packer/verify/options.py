"""The options of a verification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from invarlock.packer.format.pack_folder import Progress
from invarlock.packer.verify.policies import ReceiverPolicy

from invarlock.errors import UsageError
from invarlock.problems import Code

ReportAssurance = Literal["report", "strict", "off"]
# Called with the size of the pack in bytes; returns the function to call with the bytes done.
StartProgress = Callable[[int], Progress]


@dataclass(frozen=True)
class VerifyOptions:
    """The receiver's requirements; ``at`` is the moment at which trust is judged.

    ``default_store`` is the trust store used without ``--trust-store``: with an expected fingerprint it can only
    revoke, while a ``trust_store`` must also list the signer. A ``timestamp_certificate`` requires a time stamp by its
    authority, and trust is then judged at the time of that stamp.
    """

    strict: bool = False
    report_assurance: ReportAssurance = "report"
    expected_fingerprint: str | None = None
    trust_store: Path | None = None
    default_store: Path | None = None
    allow_unsigned: bool = False
    require_pass: bool = False
    at: datetime | None = None
    policy: ReceiverPolicy | None = None
    timestamp_certificate: Path | None = None

    def check(self) -> None:
        """Refuse options that cannot be combined.

        Raises:
            UsageError: when two options exclude each other; the message names both.
        """
        if self.policy is not None and self.report_assurance == "off":
            raise UsageError(
                "--policy and --report-assurance off cannot be combined; drop one", code=Code.OPTIONS_CONFLICT
            )
        if self.strict and self.report_assurance == "off":
            raise UsageError(
                "--strict and --report-assurance off cannot be combined; drop one", code=Code.OPTIONS_CONFLICT
            )
        needs_signature = {
            "--strict": self.strict,
            "--expected-fingerprint": self.expected_fingerprint is not None,
            "--trust-store": self.trust_store is not None,
            "--timestamp-certificate": self.timestamp_certificate is not None,
        }
        if self.allow_unsigned:
            for option in (name for name, given in needs_signature.items() if given):
                raise UsageError(
                    f"--allow-unsigned and {option} cannot be combined; drop one", code=Code.OPTIONS_CONFLICT
                )
