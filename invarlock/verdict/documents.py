"""The types of ``final_verdict.json`` for readers and the type checker; at run time it is a plain dictionary."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict


class VerdictManifest(TypedDict):
    """The effective manifest that a verdict was compiled with."""

    path: str
    schema: str
    schema_version: int


class Missing(TypedDict):
    """The cases without a report: their ids by model and, if there are any, the plan of each."""

    by_model: dict[str, list[str]]
    cases: NotRequired[list[dict[str, Any]]]


class Verdict(TypedDict):
    """``final_verdict.json``: the verdict that follows from the reports of a run.

    ``not_bundled`` lists cases that were left out of a pack; ``records`` has one judged record per report.
    """

    verdict: Literal["PASS", "FAIL", "NOT_DERIVED"]
    timestamp: str
    manifest: VerdictManifest
    criteria: dict[str, Any]
    failed_requirements: list[str]
    counts: dict[str, int]
    missing: Missing
    not_bundled: NotRequired[list[str]]
    core_guard_order: list[str]
    records: list[dict[str, Any]]
