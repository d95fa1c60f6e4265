"""The fault object: a name, and a plan of its changes to a checkpoint.

A fault is one module of this folder and one line of ``FAULTS``. It raises an EditError if it finds nothing to damage,
so that no scenario can pass on an unchanged subject.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from invarlock.checkpoints.safetensors_files import CheckpointFiles
from invarlock.faults.selection import FaultPlan


@dataclass(frozen=True)
class Fault:
    """A deliberate defect.

    Attributes:
        name: its ``error_type`` in ``scenarios.json`` and its name in reports.
        plan: returns its planned changes, given the baseline's files and its parameters.
    """

    name: str
    plan: Callable[[CheckpointFiles, Mapping[str, Any]], FaultPlan]
