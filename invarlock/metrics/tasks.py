"""Compares how well subject and baseline solve tasks, from the results of evaluation tools, sample by sample.

``invarlock records import`` writes them to a report's ``task_records``. A report without them is not evaluated here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from invarlock.documents import JsonObject
from invarlock.jsonio import digest_document
from invarlock.judgement.context import Context
from invarlock.judgement.gate import Gate
from invarlock.judgement.shares import Shares, share_of
from invarlock.metrics.metric import Metric
from invarlock.pages.markup import Markup, element
from invarlock.pages.parts import counted, data_table, number_cell, number_text
from invarlock.problems import Code, Problem
from invarlock.statistics.paired_scores import mcnemar_exact, mean_difference
from invarlock.statistics.rounding import rounded

Block = Mapping[str, Any]
SIDES = ("baseline", "subject")
# Two sets of records belong to the same samples if these fields are equal.
IDENTITY = ("task", "metric", "samples", "targets", "prompts")
NOT_EVALUATED: Block = {"status": "not_evaluated", "reason": "no results of tasks were given"}


class Flips(TypedDict):
    """The numbers of correct answers lost and gained."""

    lost: int
    gained: int


class TaskComparison(TypedDict):
    """The scores of both sides on the same samples."""

    samples: int
    baseline_mean: float | None
    subject_mean: float | None
    difference: float | None
    ci: list[float | None]
    interval_method: str
    flips: Flips | None
    mcnemar_p: float | None


def derive_tasks(records: Block | None, limits: Block, bootstrap: Block) -> JsonObject:
    """Return the ``tasks`` block: how much worse the subject's scores are, for each task and over all samples.

    Args:
        records: the report's ``task_records``, or None.
        limits: the ``tasks`` limits.
        bootstrap: ``replicates``, ``alpha`` and ``seed`` of the intervals.
    """
    if records is None:
        return dict(NOT_EVALUATED)
    rows = [{"task": row["task"], "metric": row["metric"], **_compared([row], bootstrap)} for row in records["tasks"]]
    block = {
        "samples_sha256": digest_document([[row[key] for key in IDENTITY] for row in records["tasks"]]),
        "overall": _compared(records["tasks"], bootstrap),
        "tasks": rows,
    }
    holds = all(gate.holds for gate in _gates({**block, "status": "pass"}, limits))
    return {"status": "pass" if holds else "fail", **block}


def right_answers(baseline: Sequence[float], subject: Sequence[float]) -> list[list[bool] | None]:
    """Return which answers of each side are correct; None if a score of a side is neither 0 nor 1."""
    if not {*baseline, *subject} <= {0.0, 1.0}:
        return [None, None]
    return [[score == 1 for score in side] for side in (baseline, subject)]


def _compared(rows: Sequence[Block], bootstrap: Block) -> TaskComparison:
    """Return means, difference, interval and flips over the samples of some tasks; all samples have the same weight."""
    baseline, subject = ([score for row in rows for score in row[side]["scores"]] for side in SIDES)
    found = mean_difference(baseline, subject, **bootstrap)
    flips = _flips(rows)
    return {
        "samples": len(baseline),
        "baseline_mean": rounded(sum(baseline) / len(baseline)),
        "subject_mean": rounded(sum(subject) / len(subject)),
        "difference": rounded(found.value),
        "ci": [rounded(found.low), rounded(found.high)],
        "interval_method": found.method,
        "flips": flips,
        "mcnemar_p": None if flips is None else rounded(mcnemar_exact(flips["lost"], flips["gained"])),
    }


def _flips(rows: Sequence[Block]) -> Flips | None:
    """Return how many correct answers were lost and gained; None if a task's scores are not only right or wrong."""
    if any(row[side]["correct"] is None for row in rows for side in SIDES):
        return None
    pairs = [pair for row in rows for pair in zip(*(row[side]["correct"] for side in SIDES), strict=True)]
    return {
        "lost": sum(before and not after for before, after in pairs),
        "gained": sum(after and not before for before, after in pairs),
    }


def _judge(windows: Block, limits: Block, context: Context) -> JsonObject:
    return derive_tasks(context.task_records, limits, context.bootstrap)


def _gates(block: Block, limits: Block) -> list[Gate]:
    if block["status"] == "not_evaluated":
        return []
    overall, most, widest = block["overall"], limits["maximum_regression"], limits["maximum_interval_width"]
    low, high = overall["ci"]
    fallen = [row["task"] for row in block["tasks"] if row["ci"][1] < -most]
    words = f"difference {overall['difference']:.4g} [{low:.4g}, {high:.4g}]"
    if fallen:
        words += f", {counted(len(fallen), 'task')} worse for certain, such as {fallen[0]}"
    return [
        Gate("tasks_regression_acceptable", words, f"{-most:g}", low >= -most and not fallen),
        Gate(
            "tasks_interval_acceptable",
            f"an interval {high - low:.4g} wide of {overall['samples']} samples",
            f"{widest:g}",
            high - low <= widest,
        ),
    ]


def _limits_used(block: Block, limits: Block) -> Shares:
    if block["status"] == "not_evaluated":
        return {}
    low, high = block["overall"]["ci"]
    return {
        "tasks.maximum_regression": share_of(-low, limits["maximum_regression"]),
        "tasks.maximum_interval_width": share_of(high - low, limits["maximum_interval_width"]),
    }


def record_problems(records: Block) -> Iterator[Problem]:
    """Yield contradictions in records that match their schema."""
    names = [row["task"] for row in records["tasks"]]
    if len(set(names)) < len(names):
        yield _contradiction("tasks", "a task stands there twice")
    for index, row in enumerate(records["tasks"]):
        scores = [row[side]["scores"] for side in SIDES]
        if len({len(values) for values in (row["samples"], row["targets"], row["prompts"], *scores)}) > 1:
            yield _contradiction(f"tasks[{index}]", "its lists differ in length")
        elif len(set(row["samples"])) < len(row["samples"]):
            yield _contradiction(f"tasks[{index}].samples", "a sample stands there twice")
        else:
            for side, right in zip(SIDES, right_answers(*scores), strict=True):
                if row[side]["correct"] != right:
                    yield _contradiction(f"tasks[{index}].{side}.correct", "does not follow from the scores")


def _raw_problems(report: Block) -> Iterator[Problem]:
    records = report.get("task_records")
    if records is not None:
        yield from record_problems(records)


def _contradiction(field: str, message: str) -> Problem:
    return Problem(Code.RAW_MEASUREMENTS_CONTRADICT, "", f"task_records.{field}", message)


def _page_section(report: Block) -> Iterator[Markup]:
    block = report["tasks"]
    if "overall" not in block:
        return
    limits = report["resolved_policy"]["tasks"]
    overall = block["overall"]
    low, high = overall["ci"]
    yield element("h2", "Tasks: scores of the subject minus those of the baseline")
    yield element("p", number_text(overall["difference"]), class_="figure")
    yield element(
        "p",
        f"interval {number_text(low)} to {number_text(high)} over {overall['samples']} samples; it may not begin below "
        f"{number_text(-limits['maximum_regression'])} nor be wider than "
        f"{number_text(limits['maximum_interval_width'])}",
    )
    heads = ("task", "metric", "samples", "baseline", "subject", "difference", "from", "to", "lost", "gained", "p")
    yield data_table(heads, [_cells(row) for row in (*block["tasks"], {"task": "all", "metric": "", **overall})])


def _cells(row: Block) -> list[object]:
    flips = row["flips"] or {}
    numbers = [row["samples"], row["baseline_mean"], row["subject_mean"], row["difference"], *row["ci"]]
    numbers += [flips.get("lost"), flips.get("gained"), row["mcnemar_p"]]
    return [row["task"], row["metric"], *map(number_cell, numbers)]


TASKS = Metric(
    name="tasks",
    judge=_judge,
    page_section=_page_section,
    flags=("tasks_regression_acceptable", "tasks_interval_acceptable"),
    gates=_gates,
    detects=lambda validation: validation.get("tasks_regression_acceptable") is False,
    limits_used=_limits_used,
    raw_problems=_raw_problems,
    is_guarded=False,
)
