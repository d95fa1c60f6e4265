"""The facts of a report that the page of a pack shows: its numbers, its tightest limit, its warnings, its storage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from invarlock.judgement.gate import worst_violation
from invarlock.pages.parts import counted
from invarlock.reports.gates import judge_gates
from invarlock.reports.margins import limits_used, tightest


@dataclass(frozen=True)
class StorageFacts:
    """How a subject is stored: its format, bits per weight, bytes, and the share of the baseline's bytes."""

    form: str
    bits_per_weight: float
    stored_bytes: int
    share: float


@dataclass(frozen=True)
class PageFacts:
    """The facts of one report.

    Attributes:
        ratio: the subject's perplexity divided by the baseline's, None if there is no ratio.
        tightest: the gate limit with the largest used share, by its name in the policy, and that share; None if it
            was not measured.
        warnings: lines about findings that do not affect the verdict but should be looked at.
        storage: how the subject is stored, None if it was not read.
        windows: number of final windows.
    """

    ratio: float | None
    tightest: tuple[str, float | None]
    warnings: tuple[str, ...]
    storage: StorageFacts | None
    windows: int


def page_facts(report: Mapping[str, Any]) -> PageFacts:
    """Return the facts of a report that verifies."""
    return PageFacts(
        ratio=report["primary_metric"]["ratio_vs_baseline"],
        tightest=tightest(limits_used(report)),
        warnings=tuple(report_warnings(report)),
        storage=_storage(report),
        windows=len(report["evaluation_windows"]["final"]["window_ids"]),
    )


def report_warnings(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the warnings of a report, most serious first: gates that do not block, guards that warn, and others."""
    for gate in judge_gates(report, report["resolved_policy"]):
        if not gate.holds and not gate.blocks:
            yield gate.line
    for name in report["guards"]:
        if report[name]["status"] == "warn":
            yield f"{name} warns: {worst_violation(report[name]).removeprefix('warn: ')}"
    overflow = report["scoring"].get("float16_overflow")
    if overflow is not None:
        yield (
            f"stored in float16, and {overflow['module']} gives values up to {overflow['largest']:.3g}, beyond 65504, "
            "the largest of float16: a program that computes in float16 gets infinities"
        )
    yield from few_windows(report)


def few_windows(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning if the report has fewer windows than its tier requires to judge the tail."""
    windows = len(report["evaluation_windows"]["final"]["window_ids"])
    enough = report["resolved_policy"]["primary_metric_tail"]["min_windows"]
    if windows < enough:
        yield (
            f"only {counted(windows, 'final window')}: intervals from fewer than {enough} are too narrow or too wide "
            "by chance, and the tail of the losses is not judged"
        )


def _storage(report: Mapping[str, Any]) -> StorageFacts | None:
    raw = report["invariants"].get("raw")
    if raw is None:
        return None
    own, base = (raw[side]["storage"] for side in ("subject", "baseline"))
    share = own["stored_bytes"] / max(base["stored_bytes"], 1)
    return StorageFacts(own["format"], own["bits_per_weight"], own["stored_bytes"], share)
