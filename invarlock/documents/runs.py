"""The documents of a run directory: its shard, its outcomes, its progress and its disk usage."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from invarlock.documents.catalog import EffectiveManifest


class ModelSizeRow(TypedDict):
    """The size of a model."""

    parameters: int
    weight_bytes: int


class ShardDocument(TypedDict):
    """``shard.json``: the number of a shard, how many there are, and the models and manifest of the whole run.

    The division follows from the sizes of the models and the manifest.
    """

    schema: str
    index: int
    of: int
    models: dict[str, ModelSizeRow]
    whole: EffectiveManifest


class CaseOutcome(TypedDict):
    """The outcome of one test, identified by its node id, and the seconds that it took."""

    nodeid: str
    outcome: str
    message: NotRequired[str]
    seconds: NotRequired[float]


class PytestReport(TypedDict):
    """``pytest_report.json``: the outcomes of a session's tests, and the number of tests with each outcome."""

    exitcode: int
    summary: dict[str, int]
    tests: list[CaseOutcome]


class CaseCounts(TypedDict):
    """The numbers of cases of a session."""

    total: int
    done: int
    passed: int
    failed: int


class RunningCase(TypedDict):
    """A case that is in progress."""

    case: str
    since: str


class ProgressDocument(TypedDict):
    """``progress.json``: the progress of a session."""

    format: str
    suite: str
    state: str
    stage: str | None
    started_at: str
    updated_at: str
    elapsed_seconds: float
    estimated_seconds_left: float | None
    workers: int
    cases: CaseCounts
    running: list[RunningCase]
    failed: list[str]
    verdict: Literal["PASS", "FAIL"] | None


class UsedBytes(TypedDict):
    """The bytes of a run directory, by what they belong to."""

    baselines_bytes: int
    subjects_bytes: int
    other_bytes: int


class DiskPressureDocument(TypedDict):
    """``disk_pressure.json``: the disk of a run directory, in bytes."""

    schema: str
    measured_at: str
    total_bytes: int
    free_bytes: int
    lowest_free_bytes: int
    held_bytes: int
    highest_held_bytes: int
    held: UsedBytes


class PlannedModel(TypedDict):
    """The needs of one model: bytes of memory for one case, and bytes of disk space for all cases."""

    model: str
    cases: int
    memory_bytes: int
    baseline_bytes: int
    subjects_bytes: int
    kept_bytes: int


class PlanDocument(TypedDict):
    """``plan.json``: the ids of the cases in their order, and what each model needs."""

    suite: str
    workers: int
    cases: list[str]
    repeated: list[str]
    models: list[PlannedModel]
    disk_bytes: int
