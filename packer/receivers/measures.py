"""The numbers of a subject for the documents that other tools read, each with its interval, slice and run.

Example::

    list(measures(subject))
    # [Measure("perplexity_ratio", 1.01255, (1.00823, 1.01841), part=None, run=1), …]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from invarlock.packer.receivers.subjects import PackSubject, SubjectRun

Block = Mapping[str, Any]
Interval = tuple[float, float]

# For perplexity and for fidelity: the name of each measure, and the keys of its value and its interval.
PERPLEXITY = (
    ("perplexity_ratio", "ratio_vs_baseline", "ci"),
    ("perplexity", "final", None),
    ("perplexity_of_baseline", "baseline_final", None),
)
FIDELITY = (
    ("kl_divergence", "kl_mean", "kl_mean_ci"),
    ("kl_divergence_p999", "kl_p999", None),
    ("same_top_token", "same_top_share", "same_top_ci"),
    ("confident_flips", "confident_flip_share", "confident_flip_ci"),
)


@dataclass(frozen=True)
class Measure:
    """One number measured in a run.

    Attributes:
        name: a name such as ``perplexity_ratio``; for a task, the task's name and metric.
        value: the number.
        interval: the interval at the run's confidence level, None if there is no interval.
        part: the slice of the text, None for the whole text or a task.
        run: the number of the run.
    """

    name: str
    value: float
    interval: Interval | None
    part: str | None
    run: int


def measures(subject: PackSubject) -> Iterator[Measure]:
    """Yield the measured numbers of a subject, run by run."""
    for run in subject.runs:
        yield from text_measures(run)
        for row in task_rows(run.report):
            name = f"{row['task']}:{row['metric']}"
            yield Measure(name, row["subject_mean"], None, None, run.record["run_num"])
            if row["difference"] is not None:
                number = run.record["run_num"]
                yield Measure(f"{name}:difference", row["difference"], interval_of(row["ci"]), None, number)


def text_measures(run: SubjectRun) -> Iterator[Measure]:
    """Yield the numbers that a run measured on its text: first on the whole text, then on each slice."""
    blocks = [(run.report["primary_metric"], PERPLEXITY), (run.report["fidelity"], FIDELITY)]
    slices = dict.fromkeys(name for block, _ in blocks for name in block.get("slices", {}))
    for part in (None, *slices):
        for block, keys in blocks:
            own = block if part is None else block.get("slices", {}).get(part, {})
            for name, key, ends in keys:
                if own.get(key) is not None:
                    interval = None if ends is None else interval_of(own.get(ends))
                    yield Measure(name, own[key], interval, part, run.record["run_num"])


def task_rows(report: Block) -> list[Block]:
    """Return the results of each task in a report; the list is empty if no task was run."""
    rows: list[Block] = report["tasks"].get("tasks", [])
    return [row for row in rows if row["subject_mean"] is not None]


def interval_of(ends: Any) -> Interval | None:
    """Return the interval with the given ends; None if there is no interval or an end is not finite."""
    return None if ends is None or None in ends else (ends[0], ends[1])


def confidence_of(report: Block) -> float:
    """Return the confidence level of the intervals of a report, such as 0.95."""
    return round(1 - float(report["resolved_policy"]["primary_metric"]["alpha"]), 6)
