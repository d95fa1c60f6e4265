"""The facts of a verified pack that its attestations contain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class AttestedReport:
    """The entry for one report in a statement; digests are ``sha256:<hex>``, or None for a served subject."""

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
    """The facts of a pack from which each of its statements is derived.

    Attributes:
        sealed: the bytes of ``manifest.json``.
        manifest: the document in ``manifest.json``.
        verdict: the verdict that follows from the pack's reports.
        reports: the entry for each report, sorted by model, scenario and run.
        baselines: the digest of each baseline checkpoint, by model.
        baseline_files: for each baseline digest, SHA-256 (64 hex) by file name, taken from the sealed pins.
        configuration: the SHA-256 (64 hex) of the files that configured the run, by path.
        strong: whether the pack qualifies as strong evidence.
    """

    sealed: bytes
    manifest: Mapping[str, Any]
    verdict: Mapping[str, Any]
    reports: tuple[AttestedReport, ...]
    baselines: Mapping[str, str] = field(default_factory=dict)
    baseline_files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    configuration: Mapping[str, str] = field(default_factory=dict)
    strong: bool = False
