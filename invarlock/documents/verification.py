"""``verify.json``, the ``verify-v1`` envelope of verified reports, and ``determinism_repeats.json``."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class Recomputation(TypedDict):
    """Whether the values of a report follow from its raw measurements."""

    family: str
    performed: bool
    ok: bool
    reason: str | None


class VerifiedReport(TypedDict):
    """The result of verifying one report.

    ``verdict`` is only there for a report outside a pack, and None if it does not verify. ``problems`` lists what is
    wrong with the report.
    """

    id: str
    schema_version: str
    kind: str
    ok: bool
    reason: str
    ratio_vs_baseline: float | None
    ci: list[float] | None
    recompute: Recomputation
    verdict: NotRequired[str | None]
    problems: NotRequired[list[dict[str, str]]]


class EnvelopeSummary(TypedDict):
    """Whether all reports verify."""

    ok: bool
    reason: str


class ReportCount(TypedDict):
    """The number of reports."""

    count: int


class VerifyEnvelope(TypedDict):
    """``verify.json``: one result per report."""

    format_version: str
    summary: EnvelopeSummary
    evaluation_report: ReportCount
    results: list[VerifiedReport]


class RepeatedRun(TypedDict):
    """One repeated measurement: the digest of its report without times, and how far its values are from the first."""

    digest: str
    drift: dict[str, float | None]


class RepeatsDocument(TypedDict):
    """``determinism_repeats.json``: the repeated measurements of one report."""

    schema: str
    run_id: str
    digest: str
    identical: bool
    runs: list[RepeatedRun]
