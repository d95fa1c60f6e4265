"""The parts of a report that a guard or metric may read besides its own measurements and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Context:
    """The other parts of a report that a judgement needs.

    Attributes:
        windows: ``evaluation_windows`` of the report, with ``preview`` and ``final``.
        bootstrap: ``replicates``, ``alpha`` and ``seed`` of the intervals.
        edit: the report's ``edit``; None if unknown.
        not_scored: the reason why the subject could not be scored; None if it was scored.
        equivalence: the kinds of differences removed before comparing weights.
        task_records: the report's ``task_records``, or None.
        scaled_by: for a matrix that received the scales removed from another matrix: that other matrix, by name.
        rounding: the largest relative rounding error of the dtypes in which tensors are stored.
        low_rank: whether changes are expected to have few directions: for an adapter, or for a subject that is meant to
            answer differently (a fine-tune).
        raws: the measurements of the metrics that have their own, by name.
        intent: ``preserve``, or ``change`` if the subject is meant to answer differently.
        blocks: the blocks of the metrics judged before this one, by name.
        unchanged: whether the subject answers like its baseline, as far as the scored text shows.
    """

    windows: Mapping[str, Any]
    bootstrap: Mapping[str, Any]
    edit: Mapping[str, Any] | None = None
    not_scored: str | None = None
    equivalence: frozenset[str] = frozenset()
    task_records: Mapping[str, Any] | None = None
    scaled_by: Mapping[str, str] = field(default_factory=dict)
    rounding: float = 0.0
    low_rank: bool = False
    intent: str = "preserve"
    raws: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    blocks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unchanged: bool = False
