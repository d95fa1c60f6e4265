"""A kind of detector for scenarios, and the value that it reads from a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DetectorKind:
    """One kind of detector.

    Attributes:
        kind: its name in ``scenarios.json``.
        seen: returns the value that a detector of this kind reads from a report; None if absent. It takes the
            detector and the report, with probes under their names.
    """

    kind: str
    seen: Callable[[Mapping[str, Any], Mapping[str, Any]], Any]
