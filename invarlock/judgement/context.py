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
        not_scored: the reason why the subject could not be scored, None if it was scored.
        equivalence: the kinds of differences removed before comparing weights.
        task_records: ``task_records`` of the report, None if it has none.
        scaled_by: matrices that received scales which were undone in another, by name, and that other.
        rounding: the largest relative error of a number that is rounded to a type in which tensors are stored.
        low_rank: whether changes run along few directions by nature: those of an adapter, or of a subject that is
            meant to answer differently, a fine-tune.
        raws: the measurements of the metrics that have their own, by name.
        intent: ``preserve``, or ``change`` where the subject is meant to answer differently.
        blocks: the blocks of the metrics judged before this one, by name.
        unchanged: whether the subject answers as its baseline does, as far as the scored text shows.
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
