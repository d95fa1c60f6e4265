"""The types of ``final_verdict.json`` and the summaries; at run time each is a plain dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NotRequired, TypedDict

from invarlock.documents import JsonObject


class VerdictManifest(TypedDict):
    """The effective manifest that a verdict was compiled with."""

    path: str
    schema: str
    schema_version: int


class PlannedCase(TypedDict):
    """The plan of a case without a report."""

    case: str
    model: str
    name: str
    run_num: int
    category: str
    strictness: str
    edit_spec: str


class Record(TypedDict):
    """A judged report: what its scenario expects, what was found, and whether they match.

    ``detectors_all_of`` and ``detectors`` have the detectors of the scenario, each with its measured value (``seen``)
    and whether it hit. Guards and metrics add facts of their own, such as ``invariants_status``.
    """

    model: str
    name: str
    run_num: int
    path: str
    category: str
    strictness: str
    intent: str
    failure_class: str
    primary_guard: str
    primary_guard_required: bool
    primary_guard_hit: bool
    detectors_all_of: list[JsonObject]
    detectors: list[JsonObject]
    detectors_hit: bool
    guard_flags: dict[str, bool | None]
    any_core_guard_flag: bool
    gates_hold: bool
    ratio_vs_baseline: float | None
    edit_spec: str
    policy_digest: str
    preset_sha256: str | None
    report_sha256: str
    passed: bool
    reasons: list[str]


class Missing(TypedDict):
    """The cases without a report: their ids by model and, if there are any, the plan of each."""

    by_model: dict[str, list[str]]
    cases: NotRequired[list[PlannedCase]]


class Verdict(TypedDict):
    """``final_verdict.json``: the verdict that follows from the reports of a run.

    ``not_bundled`` lists cases that were left out of a pack; ``records`` has one judged record per report.
    """

    verdict: Literal["PASS", "FAIL", "NOT_DERIVED"]
    timestamp: str
    manifest: VerdictManifest
    criteria: JsonObject
    failed_requirements: list[str]
    counts: dict[str, int]
    missing: Missing
    not_bundled: NotRequired[list[str]]
    core_guard_order: list[str]
    records: list[Record]


class WithoutReport(TypedDict, total=False):
    """The ids of the cases without a report, if there are any."""

    without_report: list[str]


class CategorySummary(WithoutReport):
    """The records of one category; ``failed`` lists the paths of reports that do not pass."""

    records: int
    passed: int
    with_guard_flag: int
    failed: list[str]


class GuardSignals(TypedDict):
    """The signals of one guard."""

    evaluated: int
    signals: int
    signals_by_category: dict[str, int]
    primary_required: int
    primary_hits: int


class GuardInterventions(WithoutReport):
    """The reports in which a guard signals although nothing requires it."""

    records: list[str]
    total: int


class ScenarioSummary(WithoutReport):
    """The records of one scenario."""

    name: str
    category: str
    strictness: str
    edit_specs: list[str]
    records: int
    passed: int
    detectors_hit: int
    with_guard_flag: int


class ArtifactSummary(TypedDict):
    """``edit_artifact_summary.json``: the edited checkpoints, and their number by class."""

    artifacts: list[JsonObject]
    by_class: dict[str, int]


class SecondsSummary(TypedDict):
    """``evaluation_optimization_summary.json``: the seconds of each stage, and what was saved."""

    timing_files: int
    baseline_reports_reused: int
    renders_deferred: int
    stages: dict[str, float]
    by_category: dict[str, dict[str, float]]
    by_model: dict[str, dict[str, float]]


class SweepPoint(TypedDict):
    """One case of the guard-value sweep."""

    model: str
    scenario: str
    run: int
    role: str
    guard: str | None
    parameter: str
    value: float | str
    path: str
    report_sha256: str
    ratio: float | None
    ratio_upper: float | None
    paired_t: float | None
    changes_function: bool
    perplexity_accepts: bool
    guards_that_signal: list[str]
    gates_that_refuse: list[str]
    probes: dict[str, bool]
    guard_detects: bool | None
    guards_detect: bool
    limits_used: Mapping[str, float | None]


class FaultCounts(TypedDict):
    """The numbers of a sweep's faults, by the results of perplexity and of the guards."""

    points: int
    accepted_by_perplexity: int
    accepted_and_detected: int
    accepted_and_measurable: int
    measurable_and_detected: int
    accepted_and_refused_by_a_gate: int


class GuardCounts(FaultCounts):
    """The numbers of the faults that target one guard."""

    accepted_and_detected_by_it: int
    false_alarms: int


class ControlCounts(TypedDict):
    """The numbers of a sweep's negative controls; ``alarms`` lists the paths of controls on which guards signal."""

    points: int
    refused: int
    false_alarms: int
    alarms: list[str]


class SweepDocument(TypedDict):
    """``guard_value_all_guard_probe_sweep.json``: the points of a sweep, and their numbers."""

    schema: str
    measurable_t: float
    faults: FaultCounts
    guards: dict[str, GuardCounts]
    controls: ControlCounts
    points: list[SweepPoint]
