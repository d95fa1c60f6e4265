"""What a guard or a metric may read of a report besides its own measurements and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Context:
    """The rest of a report, as far as a judgement needs it.

    Attributes:
        windows: ``evaluation_windows`` of the report, with ``preview`` and ``final``.
        bootstrap: ``replicates``, ``alpha`` and ``seed`` of the intervals.
        edit: the report's ``edit``; None where nothing is known of it.
        not_scored: why the subject could not be scored, None where it was.
        equivalence: the kinds of differences that were removed before weights were compared.
        task_records: ``task_records`` of the report, None where it has none.
        blocks: the blocks of the metrics that stand before this one, by name.
    """

    windows: Mapping[str, Any]
    bootstrap: Mapping[str, Any]
    edit: Mapping[str, Any] | None = None
    not_scored: str | None = None
    equivalence: frozenset[str] = frozenset()
    task_records: Mapping[str, Any] | None = None
    blocks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
