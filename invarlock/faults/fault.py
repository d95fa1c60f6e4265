"""What a fault is: a name, and a plan that says what it does to a checkpoint.

A fault is a module of this folder and a line of ``FAULTS``. It raises an EditError where it finds nothing to break, so
that no scenario passes on a subject that nothing was done to.
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
        plan: returns what it will do, given the baseline's files and its parameters.
    """

    name: str
    plan: Callable[[CheckpointFiles, Mapping[str, Any]], FaultPlan]
