"""A kind of detector that scenarios may name, and what it reads of a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DetectorKind:
    """One kind of detector.

    Attributes:
        kind: its name in ``scenarios.json``.
        seen: returns what a detector of this kind sees of a report, None where that is not there. It takes the
            detector and the report, in which probes stand under their names.
    """

    kind: str
    seen: Callable[[Mapping[str, Any], Mapping[str, Any]], Any]
