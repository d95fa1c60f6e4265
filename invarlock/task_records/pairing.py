"""Pairing the results of both sides sample by sample in one document; both must have the same samples.

Example::

    document = paired_records("inspect-ai", {"baseline": [base], "subject": [own]}, sources)
    document["tasks"][0]["subject"]["scores"]     # in the order of ["tasks"][0]["samples"]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from invarlock.documents.reports import ResultFile, TaskRecordsDocument
from invarlock.errors import DocumentError
from invarlock.metrics.tasks import SIDES, right_answers
from invarlock.problems import Code
from invarlock.task_records.record import Record, TaskRecords

FORMAT = "task-records-v1"
# The fields that must be equal for two records to be results on the same sample, with their names in messages.
_SAME = {"prompt": "prompt", "target": "right answer"}


def paired_records(
    tool: str, sides: Mapping[str, Sequence[TaskRecords]], sources: Mapping[str, Sequence[ResultFile]]
) -> TaskRecordsDocument:
    """Return a document with both sides' results; it has digests and scores but no text of a sample.

    Args:
        tool: the tool that produced the results.
        sides: the tasks of ``baseline`` and ``subject``.
        sources: the name and ``sha256:<hex>`` of each file of a side.

    Raises:
        DocumentError: when a side has a task or a sample twice, or the sides differ in their tasks or samples.
    """
    baseline, subject = (_by_task(side, sides[side]) for side in SIDES)
    for task in sorted(baseline.keys() ^ subject.keys()):
        has, lacks = SIDES if task in baseline else SIDES[::-1]
        raise DocumentError(
            f"the {has} has results on it, the {lacks} has none; run both on it",
            where=f"task {task}",
            code=Code.TASK_RESULTS_DIFFER,
        )
    document = {
        "format": FORMAT,
        "tool": tool,
        "sources": {side: [dict(row) for row in sources[side]] for side in SIDES},
        "tasks": [_paired(baseline[task], subject[task]) for task in sorted(baseline)],
    }
    return cast("TaskRecordsDocument", document)


def _by_task(side: str, tasks: Sequence[TaskRecords]) -> dict[str, TaskRecords]:
    twice = [task for task, count in Counter(one.task for one in tasks).items() if count > 1]
    if twice:
        raise DocumentError(
            f"the {side} has two files of it; name those of one run",
            where=f"task {twice[0]}",
            code=Code.TASK_RESULTS_DIFFER,
        )
    return {one.task: one for one in tasks}


def _paired(baseline: TaskRecords, subject: TaskRecords) -> dict[str, Any]:
    where = f"task {baseline.task}"
    if baseline.metric != subject.metric:
        raise DocumentError(
            f"scored by {subject.metric}, in the baseline by {baseline.metric}; choose one with --metric",
            where=where,
            code=Code.TASK_RESULTS_DIFFER,
        )
    before, after = (_by_sample(side, one) for side, one in zip(SIDES, (baseline, subject), strict=True))
    alone = before.keys() ^ after.keys()
    if alone:
        name = min(alone, key=_order)
        side = SIDES[0] if name in before else SIDES[1]
        raise DocumentError(
            f"{len(alone)} samples stand on one side only, such as {name[:60]} of the {side}; run both on the same",
            where=where,
            code=Code.TASK_RESULTS_DIFFER,
        )
    for field, words in _SAME.items():
        other = [name for name in before if getattr(before[name], field) != getattr(after[name], field)]
        if other:
            raise DocumentError(
                f"{len(other)} samples have another {words} on each side, such as {min(other, key=_order)[:60]}; "
                "run both with the same version of the task, the same examples and the same chat template",
                where=where,
                code=Code.TASK_RESULTS_DIFFER,
            )
    names = sorted(before, key=_order)
    scores = [[side[name].score for name in names] for side in (before, after)]
    return {
        "task": baseline.task,
        "metric": baseline.metric,
        "samples": names,
        "targets": [before[name].target for name in names],
        "prompts": [before[name].prompt for name in names],
        **{
            side: {"scores": own, "correct": answers}
            for side, own, answers in zip(SIDES, scores, right_answers(*scores), strict=True)
        },
    }


def _by_sample(side: str, task: TaskRecords) -> dict[str, Record]:
    twice = [name for name, count in Counter(one.sample for one in task.records).items() if count > 1]
    if twice:
        raise DocumentError(
            f"the {side} has sample {twice[0][:60]} twice; name one run",
            where=f"task {task.task}",
            code=Code.TASK_RESULTS_DIFFER,
        )
    return {one.sample: one for one in task.records}


def _order(name: str) -> tuple[int, str]:
    """Return a sort key that orders numbers by value, so that 10 follows 9."""
    return len(name), name
