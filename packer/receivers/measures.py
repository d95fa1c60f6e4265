"""The numbers of a subject that its documents for other tools show: each with its interval, its slice and its run.

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

# The keys of a block of perplexity and of fidelity: name, value, interval.
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
    """One number of a run.

    Attributes:
        name: such as ``perplexity_ratio``; of a task, its name and its metric.
        value: the number.
        interval: with the confidence of the run, None without one.
        part: the slice of the text, None for all of it or for a task.
        run: the number of the run.
    """

    name: str
    value: float
    interval: Interval | None
    part: str | None
    run: int


def measures(subject: PackSubject) -> Iterator[Measure]:
    """Yield the numbers of a subject that were measured, by run."""
    for run in subject.runs:
        yield from text_measures(run)
        for row in task_rows(run.report):
            name = f"{row['task']}:{row['metric']}"
            yield Measure(name, row["subject_mean"], None, None, run.record["run_num"])
            if row["difference"] is not None:
                number = run.record["run_num"]
                yield Measure(f"{name}:difference", row["difference"], interval_of(row["ci"]), None, number)


def text_measures(run: SubjectRun) -> Iterator[Measure]:
    """Yield the numbers of one run that were measured on its text: of all of it, then of each slice."""
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
    """Return the results of each task of a report; none where no task was run."""
    rows: list[Block] = report["tasks"].get("tasks", [])
    return [row for row in rows if row["subject_mean"] is not None]


def interval_of(ends: Any) -> Interval | None:
    """Return an interval of a block, None if it has none or an end is not finite."""
    return None if ends is None or None in ends else (ends[0], ends[1])


def confidence_of(report: Block) -> float:
    """Return the confidence level of the intervals of a report, such as 0.95."""
    return round(1 - float(report["resolved_policy"]["primary_metric"]["alpha"]), 6)
