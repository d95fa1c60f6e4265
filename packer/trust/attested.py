"""The facts of a verified pack that its attestations state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class AttestedReport:
    """The entry of a statement about one report; digests are ``sha256:<hex>``, None for a served subject."""

    model: str
    scenario: str
    run: int
    subject_digest: str | None
    validation: Mapping[str, Any]
    ratio_vs_baseline: float | None
    passed: bool
    report_sha256: str

    @property
    def name(self) -> str:
        """The name of the report's subject in a statement."""
        return f"{self.model}/{self.scenario}/run_{self.run}"


@dataclass(frozen=True)
class AttestedPack:
    """The facts of a pack from which each of its statements follows.

    Attributes:
        sealed: the bytes of ``manifest.json``.
        manifest: its document.
        verdict: the verdict that follows from the pack's reports.
        reports: the entry for each report, sorted by model, scenario and run.
        baselines: the digest of each baseline checkpoint, by model.
        baseline_files: the files of a baseline by its digest: SHA-256 (64 hex) by name, as the sealed pins have them.
        configuration: the SHA-256 (64 hex) of the files that configured the run, by path.
        strong: whether nothing in the pack prevents it from being strong evidence.
    """

    sealed: bytes
    manifest: Mapping[str, Any]
    verdict: Mapping[str, Any]
    reports: tuple[AttestedReport, ...]
    baselines: Mapping[str, str] = field(default_factory=dict)
    baseline_files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    configuration: Mapping[str, str] = field(default_factory=dict)
    strong: bool = False
